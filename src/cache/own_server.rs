//! What the server that we run in is known by, and must not be asked by a fill: it would wait for its own workers.

use std::net::IpAddr;

use regex::Regex;

/// An address and port that the server listens on; the unspecified address stands for all.
pub type Listener = (IpAddr, u16);

/// The server's own addresses, ports and names, and URLs that stand for sockets.
#[derive(Default)]
pub struct OwnServer {
    listeners: Vec<Listener>,
    /// Addresses of this host's interfaces.
    addresses: Vec<IpAddr>,
    names: Vec<Regex>,
    /// URLs by which mod_proxy shows requests to a socket.
    sockets: Vec<String>,
}

impl OwnServer {
    /// A server that is known by these; `*` and `?` in a name stand for any characters and for any one.
    pub fn new(listeners: Vec<Listener>, addresses: Vec<IpAddr>, names: &[String], sockets: Vec<String>) -> Self {
        let pattern = |name: &String| regex::escape(name).replace(r"\*", ".*").replace(r"\?", ".");
        // An escaped name is a pattern but for its size, and a server is not known by that.
        let names = names.iter().filter_map(|name| Regex::new(&format!("^(?i:{})$", pattern(name))).ok()).collect();
        Self { listeners, addresses, names, sockets }
    }

    /// Whether `url` may mean a socket.
    pub fn may_be_socket(&self, url: &[u8]) -> bool {
        let begins = |own: &String| url.get(..own.len()).is_some_and(|u| u.eq_ignore_ascii_case(own.as_bytes()));
        self.sockets.iter().any(begins)
    }

    /// Whether the server answers at `host` and `port`.
    pub fn is(&self, host: &[u8], port: u16) -> bool {
        self.listeners.iter().any(|listener| listener.1 == port) && self.is_own_host(host, port)
    }

    /// Whether `host`, without a port, is one of the server's names.
    pub fn has_name(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.is_match(host))
    }

    fn is_own_host(&self, host: &[u8], port: u16) -> bool {
        let host = String::from_utf8_lossy(host).to_ascii_lowercase();
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let Ok(address) = host.parse::<IpAddr>() else {
            // Resolvers take fewer than four numbers for an address, too: which one is not worth knowing.
            let is_numbers = host.bytes().all(|b| b == b'.' || b.is_ascii_digit());
            return host == "localhost" || is_numbers || self.has_name(host);
        };
        let address = address.to_canonical();
        let is_here = address.is_loopback() || self.addresses.contains(&address);
        let listens_there = |(listener, listened): &Listener| {
            let listener = listener.to_canonical();
            *listened == port && (listener == address || (listener.is_unspecified() && is_here))
        };
        address.is_unspecified() || self.listeners.iter().any(listens_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_known_by_its_ports_addresses_and_names() {
        let ip = |address: &str| address.parse::<IpAddr>().expect("an address");
        let listeners = vec![(ip("0.0.0.0"), 80), (ip("127.0.0.1"), 8081), (ip("10.0.0.5"), 8082)];
        let names = ["Origin.example".to_owned(), "*.cdn.example".to_owned()];
        let own = OwnServer::new(listeners, vec![ip("10.0.0.5")], &names, Vec::new());
        let rows = [
            ("localhost", 8081, true),
            ("LOCALHOST.", 80, true),
            ("127.0.0.1", 8081, true),
            ("127.0.0.1", 80, true),
            ("127.1", 80, true),
            ("[::1]", 80, true),
            ("[::ffff:127.0.0.1]", 80, true),
            ("127.0.0.1", 9000, false),
            ("127.0.0.1", 8082, false),
            ("10.0.0.5", 8082, true),
            ("10.0.0.5", 80, true),
            ("0.0.0.0", 8081, true),
            ("origin.example", 80, true),
            ("a.cdn.example", 80, true),
            ("cdn.example", 80, false),
            ("bucket.s3.amazonaws.com", 80, false),
            ("10.0.0.6", 80, false),
        ];
        for (host, port, want) in rows {
            assert_eq!(own.is(host.as_bytes(), port), want, "{host}:{port}");
        }
    }

    #[test]
    fn urls_behind_a_socket_are_known_by_their_beginning() {
        let own = OwnServer { sockets: vec!["http://localhost/s/".into()], ..OwnServer::default() };
        assert!(own.may_be_socket(b"http://LOCALHOST/s/a.ism"));
        assert!(!own.may_be_socket(b"http://localhost/a.ism"));
    }
}
