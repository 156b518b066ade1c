//! The storages that the configuration names: only they are ever signed for.
//!
//! A URL that comes from elsewhere, an absolute one in a manifest for example, gets no signature and no token, whatever
//! credentials the section has that it is asked from.

use regex::Regex;

use crate::cache::key::{Upstream, default_port, split_scheme};

/// Storages, by scheme, host and port.
#[derive(Default)]
pub struct Named {
    storages: Vec<Storage>,
    /// Canonical URLs below which objects lie, those without a variable part.
    bases: Vec<String>,
}

struct Storage {
    tls: bool,
    host: Host,
    port: u16,
}

enum Host {
    Plain(String),
    Pattern(Regex),
}

impl Named {
    /// The storages of these URLs. In a host `*` stands for any characters, as in `<Proxy>`, and so do `$1` and `${…}`,
    /// as in `ProxyPassMatch` and with `interpolate`. What names no host, such as `http://*/`, is left out.
    pub fn new<'u>(urls: impl Iterator<Item = &'u str>) -> Self {
        let mut named = Self::default();
        for url in urls {
            named.storages.extend(Storage::new(url));
            named.bases.extend(base(url));
        }
        named
    }

    /// The longest of the URLs that `url`, a canonical one, lies below.
    pub fn base(&self, url: &str) -> Option<&str> {
        let above = self.bases.iter().filter(|base| url.starts_with(base.as_str()));
        above.max_by_key(|base| base.len()).map(String::as_str)
    }

    /// Whether the configuration names the storage that `upstream` asks.
    pub fn has(&self, upstream: &Upstream<'_>) -> bool {
        let is_scheme = |storage: &&Storage| storage.tls == upstream.is_tls() && storage.port == upstream.port();
        let host = str::from_utf8(upstream.host()).unwrap_or_default();
        self.storages.iter().filter(is_scheme).any(|storage| storage.host.is(host))
    }

    /// Whether it names `host`, without a port, as that of any storage.
    pub fn has_host(&self, host: &str) -> bool {
        self.storages.iter().any(|storage| storage.host.is(host))
    }
}

/// The canonical URL of one that is the beginning of others.
fn base(url: &str) -> Option<String> {
    let fixed = url.split('$').next().filter(|fixed| !fixed.contains('*'))?;
    let filename = format!("proxy:{fixed}");
    let key = Upstream::parse(filename.as_bytes()).ok()?.key("", false).ok()?;
    Some(key.url().to_owned())
}

impl Storage {
    fn new(url: &str) -> Option<Self> {
        let (tls, rest) = split_scheme(url.as_bytes())?;
        let authority = str::from_utf8(rest).ok()?.split(['/', '?', '#']).next()?;
        let unknown = Regex::new(r"\$(?:[0-9]|\{[^}]*\})").ok()?;
        let authority = unknown.replace_all(authority, "*");
        let end = if authority.starts_with('[') {
            authority.find(']')? + 1
        } else {
            authority.find(':').unwrap_or(authority.len())
        };
        let (host, port) = authority.split_at(end);
        let port = port.strip_prefix(':').map_or(Some(default_port(tls)), |digits| digits.parse().ok())?;
        let is_named = host.bytes().any(|byte| byte.is_ascii_alphanumeric());
        let host = Host::new(host)?;
        is_named.then_some(Self { tls, host, port })
    }
}

impl Host {
    fn new(host: &str) -> Option<Self> {
        if !host.contains('*') {
            return Some(Self::Plain(host.to_owned()));
        }
        let pattern = regex::escape(host).replace(r"\*", ".*");
        Regex::new(&format!("^(?i:{pattern})$")).ok().map(Self::Pattern)
    }

    fn is(&self, host: &str) -> bool {
        match self {
            Self::Plain(own) => own.eq_ignore_ascii_case(host),
            Self::Pattern(own) => own.is_match(host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_known_by_scheme_host_and_port() {
        let urls = [
            "http://Bucket.example/vod/",
            "https://secure.example:8443",
            "http://*.pool.example/",
            "http://$1.match.example:81/$2",
            "http://${BUCKET}.env.example/",
            "http://[::1]:9000/b/",
            "http://*/",
            "http://$1/",
            "http://any.example:$1/",
        ];
        let named = Named::new(urls.into_iter());
        let rows = [
            ("http://bucket.example/else", true),
            ("HTTP://BUCKET.example:80/a", true),
            ("https://bucket.example/a", false),
            ("http://bucket.example:81/a", false),
            ("http://bucket.example.evil/a", false),
            ("http://evil/bucket.example/a", false),
            ("https://secure.example:8443/a", true),
            ("https://secure.example/a", false),
            ("http://a.b.pool.example/a", true),
            ("http://pool.example/a", false),
            ("http://evil/.pool.example/a", false),
            ("http://b.match.example:81/a", true),
            ("http://b.env.example/a", true),
            ("http://[::1]:9000/a", true),
            ("http://any.example/a", false),
        ];
        for (url, want) in rows {
            let filename = format!("proxy:{url}");
            assert_eq!(named.has(&Upstream::parse(filename.as_bytes()).expect(url)), want, "{url}");
        }
        assert!(named.has_host("secure.example") && !named.has_host("evil"));
    }
}
