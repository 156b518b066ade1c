//! The directive table.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut, without_provenance_mut};

use super::config::{Configuration, END, Setting, host_of};
use super::guard;
use super::pool::Pool;
use super::sys;

/// A table of directives that take one word each, in server, virtual host, `<Location>` and `<Proxy>`.
/// `N` counts the end mark.
#[repr(transparent)]
pub struct Commands<const N: usize>([sys::command_rec; N]);

// SAFETY: httpd only reads the table.
unsafe impl<const N: usize> Sync for Commands<N> {}

impl<const N: usize> Commands<N> {
    /// Names and usages, numbered from 0; `N` is one more than there are.
    pub const fn new<C: Configuration>(directives: &[(&'static CStr, &'static CStr)]) -> Self {
        assert!(directives.len() + 1 == N, "the table ends with its end mark");
        let mut table = [END_MARK; N];
        let mut at = 0;
        while at < directives.len() {
            let (name, usage) = directives[at];
            table[at] = sys::command_rec {
                name: name.as_ptr(),
                func: sys::cmd_func { take1: Some(set::<C>) },
                cmd_data: without_provenance_mut(at),
                // RSRC_CONF alone is refused in <Proxy> (httpd's mod_proxy.c, proxysection).
                req_override: sys::RSRC_CONF | sys::ACCESS_CONF,
                args_how: sys::cmd_how_TAKE1,
                errmsg: usage.as_ptr(),
            };
            at += 1;
        }
        Self(table)
    }

    pub(super) const fn raw(&'static self) -> *const sys::command_rec {
        self.0.as_ptr()
    }
}

const END_MARK: sys::command_rec = sys::command_rec {
    name: END,
    func: sys::cmd_func { take1: None },
    cmd_data: null_mut(),
    req_override: 0,
    args_how: sys::cmd_how_RAW_ARGS,
    errmsg: null(),
};

unsafe extern "C" fn set<C: Configuration>(
    command: *mut sys::cmd_parms,
    section: *mut c_void,
    value: *const c_char,
) -> *const c_char {
    guard::catch(c"internal error".as_ptr(), || {
        // SAFETY: httpd passes its own state while it reads the configuration.
        match unsafe { apply::<C>(command, section, value) } {
            Ok(()) => null(),
            Err(error) => error.as_ptr(),
        }
    })
}

/// # Safety
///
/// The arguments are what httpd passes to a `TAKE1` function of a module with configuration `C`.
unsafe fn apply<'c, C: Configuration>(
    command: *mut sys::cmd_parms,
    section: *mut c_void,
    value: *const c_char,
) -> Result<(), &'c CStr> {
    // SAFETY: httpd's command outlives the call; one field is read.
    let pool = unsafe { (*command).pool };
    // SAFETY: the configuration's pool, which `section`, the host and `value` live in.
    let pool = unsafe { Pool::<'c>::from_raw(pool) };
    // SAFETY: as above.
    let record = unsafe { (*command).cmd };
    // SAFETY: an entry of the table of this module.
    let record = unsafe { &*record };
    // SAFETY: as above.
    let server = unsafe { (*command).server };
    // SAFETY: as above.
    let is_outside = unsafe { (*command).path.is_null() };
    // SAFETY: a server outlives the reading of its configuration.
    let is_virtual = unsafe { (*server).is_virtual } != 0;
    // SAFETY: the server lives, and the module has hosts of this type.
    let host = unsafe { host_of::<C::Host<'c>>(server, C::module().raw()) };
    // SAFETY: terminated, and lives in the configuration's pool.
    let value = unsafe { CStr::from_ptr::<'c>(value) };
    // SAFETY: terminated, from the table.
    let name = unsafe { CStr::from_ptr(record.name) };
    let complaint = |text: &str| {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        pool.text(format!("{name} \"{value}\": {text}").as_bytes())
    };
    let value = value.to_str().map_err(|_| complaint("it must be UTF-8"))?;
    // SAFETY: made by `create_section`, and nobody else uses it while a directive is read.
    let section = unsafe { &mut *section.cast::<C::Section<'c>>() };
    // SAFETY: made by `create_host`, and as above.
    let host = unsafe { &mut *host };
    let in_main_server = is_outside && !is_virtual;
    let setting = Setting { value, section, host, in_main_server, pool };
    C::set(record.cmd_data.addr(), setting).map_err(|text| complaint(&text))
}
