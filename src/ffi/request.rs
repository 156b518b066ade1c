//! A request, as the hook that runs for it sees it.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::config::Configuration;
use super::pool::Pool;
use super::server::Server;
use super::sys;
use super::table::Table;

/// A request or sub-request.
pub struct Request<'hook> {
    /// The pointer that httpd passed to the running hook, valid until the hook returns.
    raw: NonNull<sys::request_rec>,
    hook: PhantomData<&'hook ()>,
}

/// How a request is meant to be proxied (httpd.h, `PROXYREQ_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// Not at all.
    No,
    /// To a host that the client names.
    Forward,
    /// To a host that the configuration names.
    Reverse,
}

impl<'hook> Request<'hook> {
    /// # Safety
    ///
    /// `raw` is the request that the running hook was called for, or one that lives longer.
    pub(super) unsafe fn from_raw(raw: *mut sys::request_rec) -> Self {
        Self { raw: NonNull::new(raw).expect("httpd passes a request"), hook: PhantomData }
    }

    pub(super) fn raw(&self) -> *mut sys::request_rec {
        self.raw.as_ptr()
    }

    /// How it is meant to be proxied.
    pub fn proxied(&self) -> Proxied {
        // SAFETY: `raw` is valid by the type's invariant; one field is read.
        match unsafe { (*self.raw()).proxyreq } {
            sys::PROXYREQ_NONE => Proxied::No,
            sys::PROXYREQ_REVERSE => Proxied::Reverse,
            _ => Proxied::Forward,
        }
    }

    /// What it was translated to: `proxy:` and a URL for a proxied request.
    pub fn filename(&self) -> &'hook [u8] {
        // SAFETY: as in `proxied`.
        let filename = unsafe { (*self.raw()).filename };
        // SAFETY: terminated where it is not null, and lives in the request's pool.
        if filename.is_null() { b"" } else { unsafe { CStr::from_ptr(filename) }.to_bytes() }
    }

    /// The path that was asked for, with its escapes resolved.
    pub fn path(&self) -> &'hook CStr {
        // SAFETY: as in `proxied`.
        let path = unsafe { (*self.raw()).uri };
        // SAFETY: terminated where it is not null, and lives in the request's pool.
        if path.is_null() { c"" } else { unsafe { CStr::from_ptr(path) } }
    }

    /// The handler that the configuration names; empty where it names none.
    pub fn handler(&self) -> &'hook CStr {
        // SAFETY: as in `proxied`.
        let handler = unsafe { (*self.raw()).handler };
        // SAFETY: terminated where it is not null, and lives as long as the request.
        if handler.is_null() { c"" } else { unsafe { CStr::from_ptr(handler) } }
    }

    /// The query, without its `?`; empty where there is none.
    pub fn args(&self) -> &'hook [u8] {
        // SAFETY: as in `proxied`.
        let args = unsafe { (*self.raw()).args };
        // SAFETY: terminated where it is not null, and lives in the request's pool.
        if args.is_null() { b"" } else { unsafe { CStr::from_ptr(args) }.to_bytes() }
    }

    /// Sets what it was translated to.
    pub fn set_filename(&self, filename: &'hook CStr) {
        // SAFETY: `raw` is valid by the type's invariant, and the text lives as long; httpd changes no file name in place.
        unsafe { (*self.raw()).filename = filename.as_ptr().cast_mut() };
    }

    /// Whether the file system was asked where it leads before somebody set the fields of a proxied request by hand.
    pub fn was_mapped_to_a_file(&self) -> bool {
        // SAFETY: as in `proxied`.
        !unsafe { (*self.raw()).canonical_filename }.is_null()
    }

    /// The method's name.
    pub fn method(&self) -> &'hook CStr {
        // SAFETY: as in `proxied`.
        let method = unsafe { (*self.raw()).method };
        // SAFETY: terminated, and lives in the request's pool or for ever.
        unsafe { CStr::from_ptr(method) }
    }

    /// Whether only the head of an answer is wanted. httpd does not set `header_only` for a HEAD sub-request.
    pub fn is_head(&self) -> bool {
        // SAFETY: as in `proxied`.
        let header_only = unsafe { (*self.raw()).header_only };
        header_only != 0 || self.method() == c"HEAD"
    }

    /// The request that this one is a sub-request of.
    pub fn parent(&self) -> Option<Request<'hook>> {
        // SAFETY: as in `proxied`.
        let main = unsafe { (*self.raw()).main };
        NonNull::new(main).map(|raw| Self { raw, hook: PhantomData })
    }

    /// The client's own request, which this one is or was made for.
    pub fn top(&self) -> Request<'hook> {
        let mut top = Self { raw: self.raw, hook: PhantomData };
        while let Some(parent) = top.parent() {
            top = parent;
        }
        top
    }

    /// Whether its connection is one of several within the client's own, as with HTTP/2.
    pub fn is_multiplexed(&self) -> bool {
        // SAFETY: as in `proxied`.
        let connection = unsafe { (*self.raw()).connection };
        // SAFETY: a request's connection lives longer than the request; one field is read.
        !unsafe { (*connection).master }.is_null()
    }

    /// Whether it has a brigade for a body that was read before; mod_proxy keeps its connection only then.
    pub fn has_kept_body(&self) -> bool {
        // SAFETY: as in `proxied`.
        !unsafe { (*self.raw()).kept_body }.is_null()
    }

    /// Gives it an empty body that was read before, unless it has one: mod_proxy reads none then, and keeps its connection
    /// to the upstream of a sub-request (mod_proxy_http.c, `ap_proxy_http_prefetch`).
    pub fn keep_body(&self) {
        if self.has_kept_body() {
            return;
        }
        // SAFETY: as in `proxied`.
        let connection = unsafe { (*self.raw()).connection };
        // SAFETY: a request's connection lives longer than the request; one field is read.
        let list = unsafe { (*connection).bucket_alloc };
        // SAFETY: both live as long as the request.
        let brigade = unsafe { sys::apr_brigade_create(self.pool().raw(), list) };
        // SAFETY: `raw` is valid by the type's invariant; one field is written.
        unsafe { (*self.raw()).kept_body = brigade };
    }

    /// The fields that the client sent, or the caller of a sub-request set.
    pub fn headers_in(&self) -> Table<'hook> {
        // SAFETY: as in `proxied`.
        let table = unsafe { (*self.raw()).headers_in };
        // SAFETY: httpd makes it together with the request.
        unsafe { Table::from_raw(table) }
    }

    /// The fields of the answer.
    pub fn headers_out(&self) -> Table<'hook> {
        // SAFETY: as in `proxied`.
        let table = unsafe { (*self.raw()).headers_out };
        // SAFETY: httpd makes it together with the request.
        unsafe { Table::from_raw(table) }
    }

    /// What modules note with this request alone.
    pub fn notes(&self) -> Table<'hook> {
        // SAFETY: as in `proxied`.
        let table = unsafe { (*self.raw()).notes };
        // SAFETY: httpd makes it together with the request.
        unsafe { Table::from_raw(table) }
    }

    /// Variables that filters and the access log read.
    pub fn environment(&self) -> Table<'hook> {
        // SAFETY: as in `proxied`.
        let table = unsafe { (*self.raw()).subprocess_env };
        // SAFETY: httpd makes it together with the request.
        unsafe { Table::from_raw(table) }
    }

    /// Memory that lives as long as the request.
    pub fn pool(&self) -> Pool<'hook> {
        // SAFETY: as in `proxied`.
        let pool = unsafe { (*self.raw()).pool };
        // SAFETY: the request's pool, used by the thread that runs the request.
        unsafe { Pool::from_raw(pool) }
    }

    /// The server that the request came to.
    pub fn server(&self) -> Server<'hook> {
        // SAFETY: as in `proxied`.
        let server = unsafe { (*self.raw()).server };
        // SAFETY: servers live as long as the configuration.
        unsafe { Server::from_raw(server) }
    }

    /// The answer's status.
    pub fn status(&self) -> u16 {
        // SAFETY: as in `proxied`.
        u16::try_from(unsafe { (*self.raw()).status }).unwrap_or(0)
    }

    /// Sets the answer's status.
    pub fn set_status(&self, status: u16) {
        // SAFETY: `raw` is valid by the type's invariant; one field is written.
        unsafe { (*self.raw()).status = status.into() };
        // SAFETY: as above; httpd derives the line from the status where there is none.
        unsafe { (*self.raw()).status_line = std::ptr::null() };
    }

    /// Sets the answer's media type.
    pub fn set_content_type(&self, content_type: &'hook CStr) {
        // SAFETY: the request lives, and the text lives as long.
        unsafe { sys::ap_set_content_type(self.raw(), content_type.as_ptr()) };
    }

    /// Sets the length of the answer's body.
    pub fn set_content_length(&self, len: u64) {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        // SAFETY: the request lives.
        unsafe { sys::ap_set_content_length(self.raw(), len) };
    }

    /// Holds the request's conditions against the answer's validators: a status to answer with instead of the object.
    pub fn failed_condition(&self) -> Option<u16> {
        // SAFETY: the request lives.
        let status: c_int = unsafe { sys::ap_meets_conditions(self.raw()) };
        if status == sys::OK { None } else { u16::try_from(status).ok() }
    }

    /// Whether a file may be given to `sendfile`: switched on here, and nothing below looks at the bytes.
    pub fn may_sendfile(&self) -> bool {
        // SAFETY: the request lives.
        let is_enabled = unsafe { sys::usc_sendfile_enabled(self.raw()) } != 0;
        // SAFETY: as above.
        is_enabled && unsafe { sys::usc_connection_filtered(self.raw()) } == 0
    }

    /// Changes what the module notes with the request; `new` makes the first note.
    pub fn with_note<C: Configuration>(
        &self,
        new: impl FnOnce() -> C::Note<'hook>,
        change: impl FnOnce(&mut C::Note<'hook>),
    ) {
        // SAFETY: as in `proxied`.
        let vector = unsafe { (*self.raw()).request_config };
        // SAFETY: the vector has a place for each module.
        let mut note = unsafe { sys::usc_module_config(vector, C::module().raw()) }.cast::<C::Note<'hook>>();
        if note.is_null() {
            note = self.pool().place(new());
            // SAFETY: as above.
            unsafe { sys::usc_set_module_config(vector, C::module().raw(), note.cast()) };
        }
        // SAFETY: made here, in the request's pool, with this type. A request and its sub-requests
        // run in one thread, and `change` is not called from within itself.
        change(unsafe { &mut *note });
    }
}
