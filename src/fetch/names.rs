//! Addresses of storage, remembered: ureq asks for them with each request, also over a connection that is there already.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long addresses are taken as they are: the lifetime that Amazon S3 gives its names.
const FRESH: Duration = Duration::from_secs(5);
/// How long they are taken where the name server fails.
const STALE: Duration = Duration::from_secs(3600);
/// Names that are remembered.
const NAMES_MAX: usize = 256;

/// A resolver that remembers.
#[derive(Default)]
pub struct Names<R = DefaultResolver> {
    resolver: R,
    known: Mutex<HashMap<String, Known>>,
}

/// What the name server said, when, and when it was asked last.
#[derive(Clone)]
struct Known {
    addresses: ResolvedSocketAddrs,
    learned: Instant,
    asked: Instant,
}

impl<R: Resolver> Resolver for Names<R> {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let name = format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
        let known = self.known.lock().get(&name).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.asked.elapsed() < FRESH) {
            return Ok(known.addresses.clone());
        }
        let found = self.resolver.resolve(uri, config, timeout);
        let now = Instant::now();
        let known = match (found, known) {
            (Ok(addresses), _) => Known { addresses, learned: now, asked: now },
            (Err(_), Some(known)) if known.learned.elapsed() < STALE => Known { asked: now, ..known },
            (Err(e), _) => return Err(e),
        };
        let addresses = known.addresses.clone();
        let mut names = self.known.lock();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(name, known);
        Ok(addresses)
    }
}

impl<R> fmt::Debug for Names<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// A name server that counts, and fails when it is told to.
    #[derive(Clone, Debug, Default)]
    struct Server {
        asked: Arc<AtomicUsize>,
        fails: Arc<AtomicBool>,
    }

    impl Resolver for Server {
        fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.fails.load(Ordering::Relaxed) {
                return Err(Error::HostNotFound);
            }
            let mut addresses = self.empty();
            addresses.push(([127, 0, 0, 1], 80).into());
            Ok(addresses)
        }
    }

    fn resolve(names: &Names<Server>, url: &'static str) -> Result<usize, Error> {
        let timeout = NextTimeout { after: Duration::from_secs(1).into(), ..NextTimeout::default() };
        names.resolve(&Uri::from_static(url), &Config::default(), timeout).map(|addresses| addresses.len())
    }

    /// As if so much time had gone by.
    fn age(names: &Names<Server>, by: Duration) {
        for known in names.known.lock().values_mut() {
            known.learned -= by;
            known.asked -= by;
        }
    }

    #[test]
    fn a_name_is_asked_for_once_in_a_while_and_each_for_itself() {
        let server = Server::default();
        let names = Names { resolver: server.clone(), known: Mutex::default() };
        for url in ["http://a/1", "http://a/2", "http://b/1", "http://a:81/1", "https://a/1"] {
            assert!(matches!(resolve(&names, url), Ok(1)), "{url}");
        }
        assert_eq!(server.asked.load(Ordering::Relaxed), 4);
        age(&names, FRESH);
        assert!(matches!(resolve(&names, "http://a/1"), Ok(1)));
        assert_eq!(server.asked.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn what_was_known_lasts_while_the_name_server_fails_but_not_for_ever() {
        let server = Server::default();
        let names = Names { resolver: server.clone(), known: Mutex::default() };
        assert!(matches!(resolve(&names, "http://a/"), Ok(1)));
        server.fails.store(true, Ordering::Relaxed);
        age(&names, FRESH);
        assert!(matches!(resolve(&names, "http://a/"), Ok(1)) && matches!(resolve(&names, "http://a/"), Ok(1)));
        assert_eq!(server.asked.load(Ordering::Relaxed), 2);
        age(&names, STALE);
        assert!(matches!(resolve(&names, "http://a/"), Err(Error::HostNotFound)));
        assert!(matches!(resolve(&names, "http://b/"), Err(Error::HostNotFound)));
    }
}
