//! Sub-requests as a streaming origin makes them, through the test endpoint of the origin double.
//!
//! [`Sub`] is one main request to the endpoint `/origin` and the sub-requests that it is to make;
//! [`Subs`] is what came of them.

use crate::client::{Request, Response};
use crate::server::Httpd;

/// Where the endpoint is mapped in every test's configuration.
pub(crate) const ENDPOINT: &str = "/origin";

/// A main request that makes sub-requests.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    query: String,
    client: Vec<(String, Vec<u8>)>,
}

impl Sub {
    /// A sub-request for a local URI.
    pub(crate) fn get(uri: impl AsRef<[u8]>) -> Self {
        Self { query: String::new(), client: Vec::new() }.and(uri)
    }

    /// A HEAD sub-request.
    pub(crate) fn head(uri: impl AsRef<[u8]>) -> Self {
        Self::get(uri).parameter("method", "HEAD")
    }

    /// One more sub-request in the same main request.
    pub(crate) fn and(self, uri: impl AsRef<[u8]>) -> Self {
        self.parameter("u", uri)
    }

    /// Sets the proxy's fields by hand after the lookup, instead of having them mapped.
    pub(crate) fn by_hand(self) -> Self {
        self.parameter("form", "B")
    }

    pub(crate) fn range(self, value: impl AsRef<[u8]>) -> Self {
        self.parameter("range", value)
    }

    /// A header field that is set on the sub-request after the lookup.
    pub(crate) fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let both = [name.as_bytes(), b":", value.as_ref()].concat();
        self.parameter("h", both)
    }

    /// A header field of the client, which the sub-request inherits.
    pub(crate) fn inherit(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.client.push((name.into(), value.as_ref().into()));
        self
    }

    pub(crate) fn parameter(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let joint = if self.query.is_empty() { '?' } else { '&' };
        self.query += &format!("{joint}{name}={}", escape(value.as_ref()));
        self
    }

    pub(crate) fn request(&self) -> Request {
        let request = Request::get(format!("{ENDPOINT}{}", self.query));
        let fields = self.client.iter();
        fields.fold(request, |request, (name, value)| request.field(name, value))
    }

    /// Has them made, and expects the double itself to be content.
    pub(crate) fn run(&self, httpd: &Httpd) -> Subs {
        let subs = self.try_run(httpd);
        let status = subs.answer.status;
        let body = String::from_utf8_lossy(&subs.answer.body[..subs.answer.body.len().min(300)]).into_owned();
        assert!(matches!(status, 200 | 206), "the double says {status} to {}: {body}", self.query);
        subs
    }

    /// Has them made, whatever the double says.
    pub(crate) fn try_run(&self, httpd: &Httpd) -> Subs {
        Subs { answer: httpd.send(self.request()) }
    }
}

/// What the double answered: its body is that of the sub-requests, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Subs {
    pub(crate) answer: Response,
}

impl Subs {
    /// The statuses of the sub-requests.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        numbers(&self.answer, "X-Sub-Status")
    }

    /// What `ap_run_sub_req` returned for each.
    pub(crate) fn returns(&self) -> Vec<i32> {
        numbers(&self.answer, "X-Sub-Return")
    }

    /// The status of the only sub-request.
    pub(crate) fn status(&self) -> u16 {
        match self.statuses().as_slice() {
            [one] => *one,
            all => panic!("not one sub-request, but {all:?}"),
        }
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.answer.body
    }

    /// A response field of the last sub-request.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.answer.field(&format!("Sub-{name}"))
    }

    pub(crate) fn fields(&self, name: &str) -> Vec<&[u8]> {
        self.answer.fields(&format!("Sub-{name}"))
    }

    pub(crate) fn cache_status(&self) -> String {
        self.field("Cache-Status").unwrap_or_default()
    }
}

fn numbers<T: std::str::FromStr>(answer: &Response, name: &str) -> Vec<T> {
    let text = answer.field(name).unwrap_or_default();
    text.split(',').filter_map(|number| number.trim().parse().ok()).collect()
}

/// Percent-encodes all but unreserved characters and the slash.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(*byte).to_string(),
        other => format!("%{other:02X}"),
    };
    bytes.iter().map(one).collect()
}
