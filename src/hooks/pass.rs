//! What mod_proxy is left with: a request that storage takes, over a connection that is kept.
//!
//! In the content handler [`ready`] decides, sets the URL that is asked, with the signature in its query if it goes there, and
//! leaves a note. When mod_proxy has put the head together, [`Sign`] removes what the client sent and storage must not see, and
//! sets the signature in the header. It changes a copy of the head that mod_proxy drops when it was sent, so that a signature
//! is in nobody else's `headers_in`.
//!
//! # Invariants
//!
//! - Only storages that the configuration names get a signature ([`Named`](crate::fetch::named::Named)).
//! - A request without the note is sent as it would be without the module.

use std::fmt::Write;
use std::time::SystemTime;

use super::handler::trace;
use super::recognise::has_body;
use super::{CHILD, Child};
use crate::cache::key::{Key, Upstream};
use crate::config::Section;
use crate::credentials::Keys;
use crate::fetch::sigv4::{Signature, Terms, region, signature};
use crate::fetch::{Credentials, Rules};
use crate::ffi::hook::ProxyFixups;
use crate::ffi::log::Level;
use crate::ffi::request::{Proxied, Request};
use crate::module::{Config, usp_storage_cache_module};

/// The note of a request that is signed.
const NOTE: &std::ffi::CStr = c"usp-storage-cache-signed";

/// Readies a request that is left to mod_proxy.
pub fn ready(request: &Request<'_>, section: &Section<'_>, child: &Child) {
    let is_sub = request.parent().is_some();
    let is_read = request.is_head() || request.method() == c"GET";
    if !is_read || (request.proxied() == Proxied::Forward && !is_sub) {
        return;
    }
    let top = request.top();
    // Of the answer to a HEAD sub-request mod_proxy would wait for a body.
    if is_sub && section.enabled() && !request.is_head() && !has_body(&top) && !top.has_kept_body() {
        request.keep_body();
    }
    if let Some(key) = to_sign(request, section, child)
        && let Err(why) = set_url(request, section, &key)
    {
        request.log(&usp_storage_cache_module, Level::Warning, &format!("cannot sign {}: {why}", key.url()));
    }
}

/// Signs what mod_proxy is about to send.
pub struct Sign;

impl ProxyFixups for Sign {
    fn run(request: &Request<'_>) {
        if request.notes().get(NOTE).is_none() {
            return;
        }
        request.headers_in().unset_if(is_unwanted);
        let section = request.section::<Config>();
        let key = CHILD.get().filter(|_| section.use_headers()).and_then(|child| to_sign(request, section, child));
        if let Some(key) = key
            && let Err(why) = set_fields(request, section, &key)
        {
            request.log(&usp_storage_cache_module, Level::Warning, &format!("cannot sign {}: {why}", key.url()));
        }
    }
}

/// The object that a request for it is to be signed for.
fn to_sign(request: &Request<'_>, section: &Section<'_>, child: &Child) -> Option<Key> {
    let upstream = Upstream::parse(request.filename()).ok().filter(|_| child.signs_passing)?;
    keys(section, upstream.host(), child)?;
    let is_ours = upstream.is_object() && child.named.has(&upstream) && !child.own.may_be_socket(upstream.url());
    // A client must not choose by its Host whose bucket it reads with our keys.
    let may_sign = is_ours && (!section.preserves_host() || is_known(&own_host(request), child));
    upstream.key("", false).ok().filter(|_| may_sign)
}

/// Sets the URL that is asked, without parameters of foreign signatures.
fn set_url(request: &Request<'_>, section: &Section<'_>, key: &Key) -> Result<(), String> {
    let mut filename = format!("proxy:{}", key.url());
    if !section.use_headers() {
        let host = if section.preserves_host() { own_host(request) } else { sent_host(key).to_owned() };
        if let Signature::Query(query) = sign(request, section, key, &host)? {
            filename.push(if key.path_and_query().contains('?') { '&' } else { '?' });
            filename += &query;
        }
    }
    request.set_filename(request.pool().text(filename.as_bytes()));
    request.notes().set(NOTE, c"1");
    trace(request, |line| write!(line, "passes signed for {}", key.authority()));
    Ok(())
}

fn set_fields(request: &Request<'_>, section: &Section<'_>, key: &Key) -> Result<(), String> {
    let (pool, fields) = (request.pool(), request.headers_in());
    let host = fields.get(c"Host").and_then(|host| host.to_str().ok()).ok_or("there is no Host")?;
    if let Signature::Header(signed) = sign(request, section, key, host)? {
        for (name, value) in signed {
            fields.set(pool.text(name.as_bytes()), pool.text(value.as_bytes()));
        }
    }
    Ok(())
}

fn sign(request: &Request<'_>, section: &Section<'_>, key: &Key, host: &str) -> Result<Signature, String> {
    let method = if request.is_head() { "HEAD" } else { "GET" };
    let child = CHILD.get().ok_or("the child has not begun")?;
    let keys = keys(section, key.authority().as_bytes(), child).ok_or("the credentials have gone")?;
    let (rules, now) = (Rules::of(section, key.authority()), SystemTime::now());
    let learned = child.cache.as_ref().map(|cache| cache.terms(key, &rules, now));
    let terms = learned.unwrap_or_else(|| Terms::new(region(&rules, key), now));
    signature(method, key, host, &keys, &rules, &terms)
}

/// The keys that requests to `host` are signed with, if they are known; what has to be asked for first does not wait for it.
fn keys(section: &Section<'_>, host: &[u8], child: &Child) -> Option<Keys> {
    match Credentials::of(section.credentials(host), section.region()) {
        Credentials::Keys(keys) => Some(keys),
        other => other.current(child.cache.as_ref()?.keyring()),
    }
}

/// The `Host` that mod_proxy makes of a URL: without port 80, whatever the scheme (proxy_util.c, `ap_proxy_create_hdrbrgd`).
fn sent_host(key: &Key) -> &str {
    key.authority().strip_suffix(":80").unwrap_or(key.authority())
}

/// The `Host` that mod_proxy sends with `ProxyPreserveHost`.
fn own_host(request: &Request<'_>) -> String {
    request.headers_in().get(c"Host").map(|host| host.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a client's Host is a name of this server, or one that the configuration has requests sent to.
fn is_known(host: &str, child: &Child) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    child.own.has_name(name) || child.named.has_host(name)
}

/// Fields that break a signature, or that are the client's secrets: S3 wants each `x-amz-…` signed, and some servers that
/// speak like it take `X-Forwarded-Host` for the `Host` that was signed.
fn is_unwanted(name: &[u8]) -> bool {
    const NAMES: [&str; 4] = ["Authorization", "Cookie", "Cookie2", "X-Forwarded-Host"];
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"x-amz-"))
        || NAMES.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}
