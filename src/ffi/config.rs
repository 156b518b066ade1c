//! The module record, and configuration that httpd creates, merges and hands back.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::ptr::{null, null_mut};

use super::access::Methods;
use super::command::Commands;
use super::guard;
use super::pool::Pool;
use super::request::Request;
use super::server::Server;
use super::sys;

/// What a module is configured with.
pub trait Configuration: 'static {
    /// What stands in a server, virtual host, `<Location>` or `<Proxy>`. httpd merges it for each request into memory
    /// that is never dropped: hence `Copy`.
    type Section<'c>: Copy + PartialEq;
    /// What there is once for a server.
    type Host<'c>: Copy;

    /// What the module notes with a request.
    type Note<'r>: Copy;

    /// The record of the module that is configured so.
    fn module() -> &'static Module;
    /// A section in which nothing is set.
    fn new_section<'c>() -> Self::Section<'c>;
    /// What holds in `inner`, which lies in `outer`. Of two of which one says nothing it is the other.
    fn merge_sections<'c>(outer: &Self::Section<'c>, inner: &Self::Section<'c>) -> Self::Section<'c>;
    /// A server in which nothing is set.
    fn new_host<'c>() -> Self::Host<'c>;
    /// What holds in the virtual host `inner` of the server `outer`.
    fn merge_hosts<'c>(outer: &Self::Host<'c>, inner: &Self::Host<'c>) -> Self::Host<'c>;
    /// Whether the value of the directive number `directive` must not be shown.
    fn is_secret(directive: usize) -> bool;
    /// Takes the value of the directive number `directive`; the error is what the user reads.
    fn set(directive: usize, setting: Setting<'_, '_, Self>) -> Result<(), String>;
}

/// A section where httpd keeps it.
#[derive(Clone, Copy)]
pub(super) struct Kept<S> {
    section: S,
    /// Whether anything is set in it: httpd merges for each request, and most sections say nothing of ours.
    says_something: bool,
}

impl<S: PartialEq> Kept<S> {
    /// Changes the section while the configuration is read; `new` is one in which nothing is set.
    pub(super) fn change<T>(&mut self, new: &S, change: impl FnOnce(&mut S) -> T) -> T {
        let changed = change(&mut self.section);
        self.says_something = self.section != *new;
        changed
    }
}

/// A directive's value, and what it may change.
pub struct Setting<'s, 'c, C: Configuration + ?Sized> {
    /// The value.
    pub value: &'c str,
    /// The section that the directive stands in.
    pub section: &'s mut C::Section<'c>,
    /// The server that the directive stands in.
    pub host: &'s mut C::Host<'c>,
    /// Whether it stands in the main server, outside of all sections.
    pub in_main_server: bool,
    /// The methods that it holds for.
    pub methods: Methods,
    /// Lives as long as the configuration.
    pub pool: Pool<'c>,
}

/// The record by which httpd knows the module. httpd writes to it.
#[repr(transparent)]
pub struct Module(UnsafeCell<sys::module>);

// SAFETY: httpd writes to the record while it loads modules, with one thread.
unsafe impl Sync for Module {}

impl Module {
    /// A record that httpd has not seen yet.
    pub const fn new<C: Configuration, const N: usize>(
        name: &'static CStr,
        commands: &'static Commands<N>,
        register_hooks: extern "C" fn(*mut sys::apr_pool_t),
    ) -> Self {
        Self(UnsafeCell::new(sys::module {
            version: sys::MODULE_MAGIC_NUMBER_MAJOR,
            minor_version: sys::MODULE_MAGIC_NUMBER_MINOR,
            module_index: -1,
            name: name.as_ptr(),
            dynamic_load_handle: null_mut(),
            next: null_mut(),
            magic: sys::MODULE_MAGIC_COOKIE as c_ulong,
            rewrite_args: None,
            create_dir_config: Some(create_section::<C>),
            merge_dir_config: Some(merge_sections::<C>),
            create_server_config: Some(create_host::<C>),
            merge_server_config: Some(merge_hosts::<C>),
            cmds: commands.raw(),
            register_hooks: Some(register_hooks),
            flags: 0,
        }))
    }

    pub(super) fn raw(&self) -> *const sys::module {
        self.0.get()
    }

    pub(super) fn index(&self) -> c_int {
        // SAFETY: httpd sets it while it loads the module; one field is read.
        unsafe { (*self.0.get()).module_index }
    }
}

impl<'hook> Request<'hook> {
    /// What the configuration says for this request.
    pub fn section<C: Configuration>(&self) -> &'hook C::Section<'hook> {
        // SAFETY: the request lives; one field is read.
        let vector = unsafe { (*self.raw()).per_dir_config };
        // SAFETY: the vector has a place for each module.
        let section = unsafe { sys::usc_module_config(vector, C::module().raw()) };
        // SAFETY: made by `create_section` or `merge_sections`, in a pool that outlives the hook.
        let kept = unsafe { &*section.cast::<Kept<C::Section<'hook>>>() };
        &kept.section
    }
}

impl<'c> Server<'c> {
    /// What the configuration says for this server as a whole.
    pub fn host<C: Configuration>(&self) -> &'c C::Host<'c> {
        // SAFETY: the server lives, and the module has hosts of this type.
        let host = unsafe { host_of(self.raw(), C::module().raw()) };
        // SAFETY: made by `create_host` or `merge_hosts`, in a pool that lives as long as the configuration.
        unsafe { &*host }
    }
}

/// # Safety
///
/// `server` lives, and `module` is loaded and has hosts of type `H`.
pub(super) unsafe fn host_of<H>(server: *mut sys::server_rec, module: *const sys::module) -> *mut H {
    // SAFETY: the caller's promise; one field is read.
    let vector = unsafe { (*server).module_config };
    // SAFETY: the vector has a place for each module.
    unsafe { sys::usc_module_config(vector, module) }.cast()
}

unsafe extern "C" fn create_section<C: Configuration>(pool: *mut sys::apr_pool_t, _: *mut c_char) -> *mut c_void {
    guard::catch(null_mut(), || {
        // SAFETY: httpd passes the pool that the section shall live in.
        unsafe { Pool::from_raw(pool) }.place(Kept { section: C::new_section(), says_something: false }).cast()
    })
}

unsafe extern "C" fn merge_sections<C: Configuration>(
    pool: *mut sys::apr_pool_t,
    outer: *mut c_void,
    inner: *mut c_void,
) -> *mut c_void {
    guard::catch(null_mut(), || {
        // SAFETY: httpd passes what `create_section` or this function made.
        let outer_kept = unsafe { &*outer.cast::<Kept<C::Section<'_>>>() };
        // SAFETY: as above.
        let inner_kept = unsafe { &*inner.cast::<Kept<C::Section<'_>>>() };
        // Both live as long as the pool that httpd passes.
        match (outer_kept.says_something, inner_kept.says_something) {
            (_, false) => outer,
            (false, true) => inner,
            (true, true) => {
                let section = C::merge_sections(&outer_kept.section, &inner_kept.section);
                // SAFETY: httpd passes the pool that the section shall live in.
                unsafe { Pool::from_raw(pool) }.place(Kept { section, says_something: true }).cast()
            }
        }
    })
}

unsafe extern "C" fn create_host<C: Configuration>(pool: *mut sys::apr_pool_t, _: *mut sys::server_rec) -> *mut c_void {
    guard::catch(null_mut(), || {
        // SAFETY: httpd passes the pool that the host shall live in.
        unsafe { Pool::from_raw(pool) }.place(C::new_host()).cast()
    })
}

unsafe extern "C" fn merge_hosts<C: Configuration>(
    pool: *mut sys::apr_pool_t,
    outer: *mut c_void,
    inner: *mut c_void,
) -> *mut c_void {
    guard::catch(null_mut(), || {
        // SAFETY: httpd passes what `create_host` made.
        let outer = unsafe { &*outer.cast::<C::Host<'_>>() };
        // SAFETY: as above.
        let inner = unsafe { &*inner.cast::<C::Host<'_>>() };
        // SAFETY: httpd passes the configuration's pool.
        unsafe { Pool::from_raw(pool) }.place(C::merge_hosts(outer, inner)).cast()
    })
}

/// The end of a command table, and of a list of module names.
pub(super) const END: *const c_char = null();
