//! A server or virtual host, and what httpd knows about itself.

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ptr::NonNull;

use super::config::Module;
use super::pool::Pool;
use super::sys;

/// A server or virtual host.
#[derive(Clone, Copy)]
pub struct Server<'c> {
    raw: NonNull<sys::server_rec>,
    life: PhantomData<&'c ()>,
}

impl<'c> Server<'c> {
    /// # Safety
    ///
    /// `raw` is a server that lives for `'c`.
    pub(super) unsafe fn from_raw(raw: *mut sys::server_rec) -> Self {
        Self { raw: NonNull::new(raw).expect("httpd passes a server"), life: PhantomData }
    }

    pub(super) fn raw(&self) -> *mut sys::server_rec {
        self.raw.as_ptr()
    }

    /// This server and all behind it: called of the main server, all that are configured.
    pub fn all(self) -> impl Iterator<Item = Server<'c>> {
        std::iter::successors(Some(self), |server| {
            // SAFETY: servers live as long as the configuration; one field is read.
            let next = unsafe { (*server.raw()).next };
            NonNull::new(next).map(|raw| Self { raw, life: PhantomData })
        })
    }

    /// `ServerName` and the names of `ServerAlias`, with `*` and `?` as they were written.
    pub fn names(self) -> Vec<String> {
        // SAFETY: as in `all`.
        let own = unsafe { (*self.raw()).server_hostname };
        // SAFETY: as in `all`.
        let aliases = unsafe { (*self.raw()).names };
        // SAFETY: as in `all`.
        let wild = unsafe { (*self.raw()).wild_names };
        // SAFETY: terminated where it is not null.
        let mut names: Vec<_> = unsafe { text(own) }.into_iter().collect();
        // SAFETY: null, or an array of texts.
        names.extend(unsafe { texts(aliases) });
        // SAFETY: as above.
        names.extend(unsafe { texts(wild) });
        names
    }
}

/// # Safety
///
/// `array` is null or an array of terminated texts.
unsafe fn texts(array: *const sys::apr_array_header_t) -> Vec<String> {
    if array.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise; one field is read.
    let count = unsafe { (*array).nelts };
    // SAFETY: as above.
    let first = unsafe { (*array).elts }.cast::<*const c_char>();
    let each = (0..usize::try_from(count).unwrap_or(0)).filter_map(|at| {
        // SAFETY: the array holds that many pointers.
        let place = unsafe { first.add(at) };
        // SAFETY: as above.
        let raw = unsafe { place.read() };
        // SAFETY: the caller's promise.
        unsafe { text(raw) }
    });
    each.collect()
}

/// # Safety
///
/// `raw` is null or a terminated text.
unsafe fn text(raw: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}

/// The addresses and ports that httpd listens on; the unspecified address stands for all. Called once httpd has opened them.
pub fn listeners() -> Vec<(IpAddr, u16)> {
    let mut found = Vec::new();
    // SAFETY: httpd changes the list only while it reads its configuration.
    let mut listener = unsafe { sys::ap_listeners };
    while !listener.is_null() {
        // SAFETY: an element of the list; one field is read.
        let address = unsafe { (*listener).bind_addr };
        // SAFETY: an address that httpd resolved, or null.
        found.extend(unsafe { self::address(address) });
        // SAFETY: as above.
        listener = unsafe { (*listener).next };
    }
    found
}

/// An address as text can be read, and its port.
///
/// # Safety
///
/// `address` is null or an address of APR's.
pub(super) unsafe fn address(address: *mut sys::apr_sockaddr_t) -> Option<(IpAddr, u16)> {
    if address.is_null() {
        return None;
    }
    let mut buffer: [c_char; 64] = [0; 64];
    // SAFETY: the address lives, and APR writes a terminated text into 64 bytes.
    let status = unsafe { sys::apr_sockaddr_ip_getbuf(buffer.as_mut_ptr(), 64, address) };
    // SAFETY: terminated by APR, and zeroed before.
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    // SAFETY: the caller's promise; one field is read.
    let port = unsafe { (*address).port };
    let ip = text.to_str().ok().filter(|_| status == sys::APR_SUCCESS)?.parse().ok()?;
    Some((ip, port))
}

/// Whether a loaded module other than `ours` has a directive of that name.
pub fn is_declared_elsewhere(directive: &CStr, ours: &Module) -> bool {
    // SAFETY: httpd changes its list of modules only while it reads its configuration, with one thread.
    let mut from = unsafe { sys::ap_top_module };
    while !from.is_null() {
        // SAFETY: the name is terminated; httpd looks from that module on, and leaves the one that it found.
        let found = unsafe { sys::ap_find_command_in_modules(directive.as_ptr(), &raw mut from) };
        if found.is_null() {
            return false;
        }
        if !std::ptr::eq(from, ours.raw()) {
            return true;
        }
        // SAFETY: a loaded module; one field is read.
        from = unsafe { (*from).next };
    }
    false
}

/// Whether httpd only checks its configuration now and will read it again before it runs.
pub fn is_first_pass() -> bool {
    // SAFETY: httpd answers from a variable.
    unsafe { sys::ap_state_query(sys::AP_SQ_MAIN_STATE) == sys::AP_SQ_MS_CREATE_PRE_CONFIG }
}

/// Whether a child has more than one thread for requests. Without, httpd ends a child inside a signal handler.
pub fn has_threads() -> bool {
    let mut answer: c_int = 0;
    // SAFETY: httpd writes one number.
    let status = unsafe { sys::ap_mpm_query(sys::AP_MPMQ_IS_THREADED, &raw mut answer) };
    status == sys::APR_SUCCESS && answer != 0
}

/// The user and group that children run as, where httpd was started by root.
pub fn child_owner() -> (u32, u32) {
    // SAFETY: httpd changes it only while it reads its configuration; one field is read.
    let user = unsafe { sys::ap_unixd_config.user_id };
    // SAFETY: as above.
    let group = unsafe { sys::ap_unixd_config.group_id };
    (user, group)
}

/// `path`, taken from the server's root directory where it is relative.
pub fn root_relative<'p>(pool: Pool<'p>, path: &str) -> Option<&'p CStr> {
    // SAFETY: the pool lives, and the text is terminated.
    let full = unsafe { sys::ap_server_root_relative(pool.raw(), pool.text(path.as_bytes()).as_ptr()) };
    // SAFETY: terminated where it is not null, and lives in the pool.
    (!full.is_null()).then(|| unsafe { CStr::from_ptr(full) })
}
