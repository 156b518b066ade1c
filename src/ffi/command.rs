//! The directive table.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{NonNull, null, null_mut, without_provenance_mut};

use super::access::Methods;
use super::config::{Configuration, END, Kept, Setting, host_of};
use super::guard;
use super::pool::Pool;
use super::sys;

/// A table of directives, allowed in server, virtual host, `<Location>` and `<Proxy>`. `N` counts the end mark.
#[repr(transparent)]
pub struct Commands<const N: usize>([sys::command_rec; N]);

// SAFETY: httpd only reads the table.
unsafe impl<const N: usize> Sync for Commands<N> {}

impl<const N: usize> Commands<N> {
    /// The directives, numbered from 0; `N` is one more than there are.
    pub const fn new<C: Configuration>(directives: &[Directive]) -> Self {
        assert!(directives.len() + 1 == N, "the table ends with its end mark");
        let mut table = [END_MARK; N];
        let mut at = 0;
        while at < directives.len() {
            let Directive { name, usage, takes } = directives[at];
            table[at] = sys::command_rec {
                name: name.as_ptr(),
                // Both kinds are called in the same way.
                func: sys::cmd_func { take1: Some(set::<C>) },
                cmd_data: without_provenance_mut(at),
                // RSRC_CONF alone is refused in <Proxy> (httpd's mod_proxy.c, proxysection).
                // What another module takes in .htaccess must not be refused there.
                req_override: match takes {
                    Takes::Word => sys::RSRC_CONF | sys::ACCESS_CONF,
                    Takes::Line => sys::RSRC_CONF | sys::ACCESS_CONF | sys::OR_AUTHCFG,
                },
                args_how: match takes {
                    Takes::Word => sys::cmd_how_TAKE1,
                    Takes::Line => sys::cmd_how_RAW_ARGS,
                },
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

/// A directive: its name, and its usage as httpd prints it.
#[derive(Clone, Copy)]
pub struct Directive {
    /// The name.
    pub name: &'static CStr,
    /// The usage.
    pub usage: &'static CStr,
    /// What it takes.
    pub takes: Takes,
}

/// What a directive takes as its value.
#[derive(Clone, Copy)]
pub enum Takes {
    /// One word.
    Word,
    /// All that stands behind its name, quotes included.
    Line,
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
        let command = unsafe { Command::from_raw(command) };
        // SAFETY: terminated, and lives in the configuration's pool.
        let value = unsafe { CStr::from_ptr(value) };
        let kept = section.cast::<Kept<C::Section<'_>>>();
        // What another module takes is no error of ours; .htaccess is read while requests run, and not for proxied ones.
        if command.is_anothers() && (value.to_str().is_err() || command.is_in_htaccess()) {
            return null();
        }
        let outcome = value.to_str().map_err(|_| "it must be UTF-8".to_owned()).and_then(|value| {
            // SAFETY: made by `create_section`, and nobody else uses it while a directive is read.
            let kept = unsafe { &mut *kept };
            // SAFETY: made by `create_host`, and as above.
            let host = unsafe { &mut *command.host::<C>() };
            let (in_main_server, methods, pool) = (command.is_in_main_server(), command.methods(), command.pool());
            kept.change(&C::new_section(), |section| {
                C::set(command.index(), Setting { value, section, host, in_main_server, methods, pool })
            })
        });
        outcome.map_or_else(|text| command.complaint(value, C::is_secret(command.index()), &text).as_ptr(), |()| null())
    })
}

/// A directive that is being read.
struct Command<'c> {
    /// The pointer that httpd passed to the running setter, valid until it returns.
    raw: NonNull<sys::cmd_parms>,
    life: PhantomData<&'c ()>,
}

impl<'c> Command<'c> {
    /// # Safety
    ///
    /// `raw` is what httpd passed to the running setter, and its pool lives for `'c`.
    unsafe fn from_raw(raw: *mut sys::cmd_parms) -> Self {
        Self { raw: NonNull::new(raw).expect("httpd passes its state"), life: PhantomData }
    }

    /// Lives as long as the configuration.
    fn pool(&self) -> Pool<'c> {
        // SAFETY: `raw` is valid by the type's invariant; one field is read.
        let pool = unsafe { (*self.raw.as_ptr()).pool };
        // SAFETY: the configuration's pool.
        unsafe { Pool::from_raw(pool) }
    }

    fn record(&self) -> &'c sys::command_rec {
        // SAFETY: as in `pool`.
        let record = unsafe { (*self.raw.as_ptr()).cmd };
        // SAFETY: the entry of our own table that httpd found; nobody writes to it.
        unsafe { &*record }
    }

    fn index(&self) -> usize {
        self.record().cmd_data.addr()
    }

    /// Whether it is a directive of another module, whose lines are read as a whole.
    fn is_anothers(&self) -> bool {
        self.record().args_how == sys::cmd_how_RAW_ARGS
    }

    fn host<C: Configuration>(&self) -> *mut C::Host<'c> {
        // SAFETY: the server lives, and the module has hosts of this type.
        unsafe { host_of(self.server(), C::module().raw()) }
    }

    fn server(&self) -> *mut sys::server_rec {
        // SAFETY: as in `pool`.
        unsafe { (*self.raw.as_ptr()).server }
    }

    fn is_in_main_server(&self) -> bool {
        // SAFETY: a server outlives the reading of its configuration; one field is read.
        let is_virtual = unsafe { (*self.server()).is_virtual } != 0;
        // SAFETY: as in `pool`.
        let section = unsafe { (*self.raw.as_ptr()).path };
        section.is_null() && !is_virtual
    }

    /// The methods that the directive holds for.
    fn methods(&self) -> Methods {
        // SAFETY: as in `pool`.
        Methods::of(unsafe { (*self.raw.as_ptr()).limited })
    }

    /// Whether a .htaccess is being read: httpd has one pool then, the request's (server/core.c, `ap_check_cmd_context`).
    fn is_in_htaccess(&self) -> bool {
        // SAFETY: as in `pool`.
        let temporary = unsafe { (*self.raw.as_ptr()).temp_pool };
        self.pool().raw() == temporary
    }

    /// What the user reads.
    fn complaint(&self, value: &CStr, is_secret: bool, text: &str) -> &'c CStr {
        // SAFETY: terminated, from the table.
        let name = unsafe { CStr::from_ptr(self.record().name) };
        let value = if is_secret { "…".into() } else { value.to_string_lossy() };
        let line = format!("{} \"{value}\": {text}", name.to_string_lossy());
        self.pool().text(line.as_bytes())
    }
}
