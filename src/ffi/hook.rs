//! Hooks: a trait each, entered by httpd through a generic function that is guarded.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::null;

use super::config::END;
use super::guard;
use super::pool::Pool;
use super::request::Request;
use super::server::Server;
use super::sys;

/// What a content handler answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer was sent.
    Ok,
    /// Somebody else shall answer; the request is as it was.
    Declined,
    /// httpd shall answer with this status.
    Status(u16),
    /// The client went away.
    ClientLeft,
    /// The answer broke off below us.
    Broken,
}

impl Answer {
    fn into_raw(self) -> c_int {
        match self {
            Self::Ok => sys::OK,
            Self::Declined => sys::DECLINED,
            Self::Status(status) => status.into(),
            Self::ClientLeft => sys::DONE,
            Self::Broken => sys::AP_FILTER_ERROR,
        }
    }
}

/// Answers requests.
pub trait ContentHandler {
    /// Answers `request`, or declines it.
    fn run(request: &Request<'_>) -> Answer;
}

/// Runs before httpd goes through its configuration.
pub trait PreConfig {
    /// Prepares; `pool` lives as long as the configuration.
    fn run(pool: Pool<'_>);
}

/// Runs once httpd has read its configuration, as the user that started it, before it makes children.
pub trait PostConfig {
    /// Checks and prepares; on an error httpd does not start. `pool` lives as long as the configuration.
    fn run(pool: Pool<'_>, main: Server<'_>) -> Result<(), String>;
}

/// Runs when a child begins, as the user that children run as.
pub trait ChildInit {
    /// Prepares the child. `pool` lives as long as the child.
    fn run(pool: Pool<'_>, main: Server<'_>);
}

/// Runs when a child is told to end; under MPMs with threads, before the threads are waited for.
pub trait ChildStopping {
    /// Makes requests that wait go on; `is_graceful` says that they may take their time.
    fn run(is_graceful: bool);
}

/// Runs when an answer begins to be sent, for requests that ask for it ([`Request::look_at_answer`]).
pub trait AnswerLook {
    /// The name of the filter that does it.
    const NAME: &'static CStr;

    /// Looks at `request`, whose status is known.
    fn run(request: &Request<'_>);
}

/// Runs when mod_proxy is about to send a request's head.
pub trait ProxyFixups {
    /// Changes `request.headers_in()`, a copy that lives for this sending only.
    fn run(request: &Request<'_>);
}

/// Writes a section of mod_status's page.
pub trait StatusSection {
    /// HTML, or lines `Key: value` for programs.
    fn text(is_for_programs: bool) -> String;
}

/// A list of module names for the order of hooks. `N` counts the end mark.
#[repr(transparent)]
pub struct ModuleNames<const N: usize>([*const c_char; N]);

// SAFETY: httpd only reads the list.
unsafe impl<const N: usize> Sync for ModuleNames<N> {}

impl<const N: usize> ModuleNames<N> {
    /// The list; `N` is one more than there are names.
    pub const fn new(names: &[&'static CStr]) -> Self {
        assert!(names.len() + 1 == N, "the list ends with its end mark");
        let mut list = [END; N];
        let mut at = 0;
        while at < names.len() {
            list[at] = names[at].as_ptr();
            at += 1;
        }
        Self(list)
    }
}

/// Runs `H` as one of the very first content handlers, ahead of `successors`.
pub fn content_handler<H: ContentHandler, const N: usize>(successors: &'static ModuleNames<N>) {
    // SAFETY: called while httpd registers hooks; the list is static.
    unsafe { sys::ap_hook_handler(Some(handle::<H>), null(), successors.0.as_ptr(), sys::APR_HOOK_REALLY_FIRST) };
}

/// Makes it possible that `H` runs when an answer begins to be sent.
pub fn answer_look<H: AnswerLook>() {
    let kind = sys::ap_filter_type_AP_FTYPE_CONTENT_SET;
    // SAFETY: called while httpd registers hooks; the name is static.
    unsafe { sys::ap_register_output_filter(H::NAME.as_ptr(), Some(look::<H>), None, kind) };
}

impl Request<'_> {
    /// Has `H` run when the answer begins to be sent.
    pub fn look_at_answer<H: AnswerLook>(&self) {
        // SAFETY: the request lives; one field is read.
        let connection = unsafe { (*self.raw()).connection };
        // SAFETY: the filter was registered, and the request and its connection live.
        unsafe { sys::ap_add_output_filter(H::NAME.as_ptr(), std::ptr::null_mut(), self.raw(), connection) };
    }
}

/// Runs `H` as the last of those who change what mod_proxy sends, if mod_proxy is there: the hook is known to APR by its
/// name alone (mod_proxy.c, `APR_IMPLEMENT_OPTIONAL_HOOK_RUN_ALL(proxy, PROXY, int, fixups`).
pub fn proxy_fixups<H: ProxyFixups>() {
    type Hook = unsafe extern "C" fn(*mut sys::request_rec) -> c_int;
    type Any = unsafe extern "C" fn();
    // SAFETY: mod_proxy calls what is registered under this name as a `Hook` (mod_proxy.h).
    let hook = unsafe { std::mem::transmute::<Hook, Any>(fix_up::<H>) };
    // SAFETY: called while httpd registers hooks; the name is static.
    unsafe { sys::apr_optional_hook_add(c"fixups".as_ptr(), Some(hook), null(), null(), sys::APR_HOOK_REALLY_LAST) };
}

/// Runs `H` before the configuration is gone through.
pub fn pre_config<H: PreConfig>() {
    // SAFETY: called while httpd registers hooks.
    unsafe { sys::ap_hook_pre_config(Some(before_config::<H>), null(), null(), sys::APR_HOOK_MIDDLE) };
}

/// Has `H` write a section of mod_status's page, if mod_status is there: the hook is known to APR by its name alone
/// (mod_status.c, `APR_IMPLEMENT_OPTIONAL_HOOK_RUN_ALL(ap, STATUS, int, status_hook`).
pub fn status_section<H: StatusSection>() {
    type Hook = unsafe extern "C" fn(*mut sys::request_rec, c_int) -> c_int;
    type Any = unsafe extern "C" fn();
    // SAFETY: mod_status calls what is registered under this name as a `Hook` (mod_status.h).
    let hook = unsafe { std::mem::transmute::<Hook, Any>(write_section::<H>) };
    // SAFETY: called while httpd registers hooks; the name is static.
    unsafe { sys::apr_optional_hook_add(c"status_hook".as_ptr(), Some(hook), null(), null(), sys::APR_HOOK_MIDDLE) };
}

/// Runs `H` after the configuration was read.
pub fn post_config<H: PostConfig>() {
    // SAFETY: called while httpd registers hooks.
    unsafe { sys::ap_hook_post_config(Some(after_config::<H>), null(), null(), sys::APR_HOOK_MIDDLE) };
}

/// Runs `H` when a child begins.
pub fn child_init<H: ChildInit>() {
    // SAFETY: called while httpd registers hooks.
    unsafe { sys::ap_hook_child_init(Some(begin_child::<H>), null(), null(), sys::APR_HOOK_MIDDLE) };
}

/// Runs `H` when a child is told to end, where httpd has that hook (2.4.49 and later).
pub fn child_stopping<H: ChildStopping>() {
    type Hook = unsafe extern "C" fn(*mut sys::apr_pool_t, c_int);
    type Register = unsafe extern "C" fn(Hook, *const *const c_char, *const *const c_char, c_int);
    // SAFETY: a look-up by a terminated name among all that is loaded.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ap_hook_child_stopping".as_ptr()) };
    if symbol.is_null() {
        return;
    }
    // SAFETY: httpd declares the function so (mpm_common.h).
    let register = unsafe { std::mem::transmute::<*mut libc::c_void, Register>(symbol) };
    // SAFETY: called while httpd registers hooks.
    unsafe { register(stop_child::<H>, null(), null(), sys::APR_HOOK_MIDDLE) };
}

unsafe extern "C" fn handle<H: ContentHandler>(raw: *mut sys::request_rec) -> c_int {
    guard::catch(Answer::Status(500).into_raw(), || {
        // SAFETY: httpd passes the request that this hook runs for, and the view ends with the call.
        let request = unsafe { Request::from_raw(raw) };
        H::run(&request).into_raw()
    })
}

unsafe extern "C" fn look<H: AnswerLook>(
    filter: *mut sys::ap_filter_t,
    brigade: *mut sys::apr_bucket_brigade,
) -> sys::apr_status_t {
    guard::catch((), || {
        // SAFETY: httpd passes a live filter of a request.
        let raw = unsafe { (*filter).r };
        // SAFETY: the request lives as long as its filters.
        H::run(&unsafe { Request::from_raw(raw) });
    });
    // SAFETY: as above; one field is read.
    let next = unsafe { (*filter).next };
    // SAFETY: the filter is done; it stays allocated with the request.
    unsafe { sys::ap_remove_output_filter(filter) };
    // SAFETY: what was passed goes on to the next filter.
    unsafe { sys::ap_pass_brigade(next, brigade) }
}

unsafe extern "C" fn fix_up<H: ProxyFixups>(raw: *mut sys::request_rec) -> c_int {
    guard::catch(Answer::Declined.into_raw(), || {
        // SAFETY: mod_proxy passes the request that it is about to send.
        H::run(&unsafe { Request::from_raw(raw) });
        Answer::Declined.into_raw()
    })
}

unsafe extern "C" fn before_config<H: PreConfig>(
    conf: *mut sys::apr_pool_t,
    _: *mut sys::apr_pool_t,
    _: *mut sys::apr_pool_t,
) -> c_int {
    guard::catch(Answer::Status(500).into_raw(), || {
        // SAFETY: httpd passes the configuration's pool.
        H::run(unsafe { Pool::from_raw(conf) });
        sys::OK
    })
}

/// mod_status's flag for `?auto` (mod_status.h).
const AP_STATUS_SHORT: c_int = 0x1;

unsafe extern "C" fn write_section<H: StatusSection>(raw: *mut sys::request_rec, flags: c_int) -> c_int {
    guard::catch(sys::OK, || {
        let text = H::text(flags & AP_STATUS_SHORT != 0);
        let len = c_int::try_from(text.len()).unwrap_or(0);
        // SAFETY: mod_status passes the request that it answers, and the text has that many bytes.
        unsafe { sys::ap_rwrite(text.as_ptr().cast(), len, raw) };
        sys::OK
    })
}

unsafe extern "C" fn after_config<H: PostConfig>(
    conf: *mut sys::apr_pool_t,
    _: *mut sys::apr_pool_t,
    _: *mut sys::apr_pool_t,
    main: *mut sys::server_rec,
) -> c_int {
    guard::catch(Answer::Status(500).into_raw(), || {
        // SAFETY: httpd passes the configuration's pool.
        let pool = unsafe { Pool::from_raw(conf) };
        // SAFETY: httpd passes the main server.
        let main = unsafe { Server::from_raw(main) };
        match H::run(pool, main) {
            Ok(()) => sys::OK,
            Err(line) => {
                main.log_startup(&line);
                Answer::Status(500).into_raw()
            }
        }
    })
}

unsafe extern "C" fn begin_child<H: ChildInit>(pool: *mut sys::apr_pool_t, main: *mut sys::server_rec) {
    guard::catch((), || {
        // SAFETY: httpd passes the child's pool.
        let pool = unsafe { Pool::from_raw(pool) };
        // SAFETY: httpd passes the main server.
        H::run(pool, unsafe { Server::from_raw(main) });
    });
}

unsafe extern "C" fn stop_child<H: ChildStopping>(_: *mut sys::apr_pool_t, graceful: c_int) {
    guard::catch((), || H::run(graceful != 0));
}
