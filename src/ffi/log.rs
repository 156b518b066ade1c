//! Lines for httpd's error log.

use std::ffi::{CStr, CString, c_int};

use super::config::Module;
use super::request::Request;
use super::server::Server;
use super::sys;

/// How much a line matters, as `LogLevel` names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Somebody should look.
    Warning,
    /// Worth knowing once.
    Notice,
    /// Normal work.
    Info,
    /// What was decided about a request.
    Trace2,
}

const FILE: &CStr = c"mod_usp_storage_cache";

impl Level {
    fn raw(self) -> c_int {
        match self {
            Self::Error => sys::APLOG_ERR,
            Self::Warning => sys::APLOG_WARNING,
            Self::Notice => sys::APLOG_NOTICE,
            Self::Info => sys::APLOG_INFO,
            Self::Trace2 => sys::APLOG_TRACE2,
        }
    }
}

impl Request<'_> {
    /// Whether lines of `level` are written for this request.
    pub fn logs(&self, module: &Module, level: Level) -> bool {
        // SAFETY: the request lives, and the index is the module's.
        unsafe { sys::ap_get_request_module_loglevel(self.raw(), module.index()) >= level.raw() }
    }

    /// Writes a line.
    pub fn log(&self, module: &Module, level: Level, line: &str) {
        if !self.logs(module, level) {
            return;
        }
        let line = terminated(line);
        let (file, index) = (FILE.as_ptr(), module.index());
        // SAFETY: the request lives, and the format takes one terminated text.
        unsafe { sys::ap_log_rerror_(file, 0, index, level.raw(), 0, self.raw(), c"%s".as_ptr(), line.as_ptr()) };
    }
}

impl Server<'_> {
    /// Writes a line.
    pub fn log(&self, module: &Module, level: Level, line: &str) {
        let line = terminated(line);
        let (file, index) = (FILE.as_ptr(), module.index());
        // SAFETY: the server lives, and the format takes one terminated text.
        unsafe { sys::ap_log_error_(file, 0, index, level.raw(), 0, self.raw(), c"%s".as_ptr(), line.as_ptr()) };
    }
}

impl Server<'_> {
    /// Writes a line to the error log and, while httpd starts, to the terminal.
    pub(super) fn log_startup(&self, line: &str) {
        let line = terminated(line);
        let level = sys::APLOG_ERR | sys::APLOG_STARTUP;
        // SAFETY: the server lives, and the format takes one terminated text.
        unsafe {
            sys::ap_log_error_(
                FILE.as_ptr(),
                0,
                sys::APLOG_NO_MODULE,
                level,
                0,
                self.raw(),
                c"%s".as_ptr(),
                line.as_ptr(),
            )
        };
    }
}

fn terminated(line: &str) -> CString {
    CString::new(line.replace('\0', "\\0")).unwrap_or_default()
}
