//! Who asks, and for which methods a directive holds.

use std::ffi::CStr;
use std::net::IpAddr;

use super::pool::Pool;
use super::request::Request;
use super::server::address;
use super::sys;

/// The methods that a directive holds for.
#[derive(Clone, Copy)]
pub struct Methods(i64);

impl Methods {
    /// What httpd keeps of the `<Limit>` or `<LimitExcept>` around a directive: a bit a method, all bits where there is none.
    pub(super) fn of(limited: i64) -> Self {
        Self(limited)
    }

    /// Whether `method` is among them.
    pub fn hold(self, method: &CStr) -> bool {
        // SAFETY: the name is terminated; httpd looks in a table that changes only while it reads its configuration.
        self.0 >> unsafe { sys::ap_method_number_of(method.as_ptr()) } & 1 == 1
    }

    /// Whether `method` is among those that a `<Limit>` names. What a `<LimitExcept>` leaves has the bit of all unknown methods.
    pub fn name(self, method: &CStr) -> bool {
        self.hold(method) && self.0 >> sys::M_INVALID & 1 == 0
    }
}

/// Makes a method known, so that directives can name it.
pub fn register_method(conf: Pool<'_>, method: &'static CStr) {
    // SAFETY: called before httpd reads its configuration, with that one's pool; the name is static.
    unsafe { sys::ap_method_register(conf.raw(), method.as_ptr()) };
}

impl Request<'_> {
    /// Who asks: the other end of the connection, and the client that mod_remoteip takes it for.
    pub fn clients(&self) -> [Option<IpAddr>; 2] {
        // SAFETY: the request lives; one field is read.
        let connection = unsafe { (*self.raw()).connection };
        // SAFETY: a request's connection lives longer than the request; one field is read.
        let peer = unsafe { (*connection).client_addr };
        // SAFETY: as above.
        let client = unsafe { (*self.raw()).useragent_addr };
        // SAFETY: null, or addresses that live as long as the request.
        [peer, client].map(|raw| unsafe { address(raw) }.map(|(ip, _)| ip))
    }

    /// Who has shown a password or the like.
    pub fn user(&self) -> Option<String> {
        // SAFETY: the request lives; one field is read.
        let user = unsafe { (*self.raw()).user };
        // SAFETY: terminated where it is not null, and lives in the request's pool.
        (!user.is_null()).then(|| unsafe { CStr::from_ptr(user) }.to_string_lossy().into_owned())
    }

    /// Whether one of several kinds of access rules is enough (`Satisfy Any`).
    pub fn satisfies_any(&self) -> bool {
        // SAFETY: the request lives.
        unsafe { sys::ap_satisfies(self.raw()) == sys::SATISFY_ANY }
    }
}
