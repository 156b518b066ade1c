//! Storage behind TLS: whose certificates are taken, and what a handshake costs.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::cli::{ran, uspcache};
use crate::client::parse_head;
use crate::s3::film_file;
use crate::server::Conf;
use crate::site::{STORED, Site, endpoint};
use crate::storage::{Fault, Object, Storage, Whom};

const FILM: &str = "/media/film.ism";

/// A TLS front of a storage: the port, the certificate that it shows, and its handshakes.
struct Front {
    port: u16,
    certificate: String,
    full: AtomicUsize,
    resumed: AtomicUsize,
    storage: OnceLock<u16>,
}

impl Front {
    fn start() -> Arc<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a key for the certificate");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let front = Arc::new(Self {
            port: listener.local_addr().expect("it is bound").port(),
            certificate: made.cert.pem(),
            full: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            storage: OnceLock::new(),
        });
        let (config, accepting) = (Arc::new(config), front.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, front) = (config.clone(), accepting.clone());
                // A client that goes, or takes no certificate of ours, is none of the front's business.
                thread::spawn(move || drop(front.serve(stream, config)));
            }
        });
        front
    }

    /// Passes requests without a body to storage, and answers with a length back.
    fn serve(&self, stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut client = StreamOwned::new(connection, stream);
        let port = *self.storage.wait();
        let mut storage = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let mut is_counted = false;
        loop {
            storage.write_all(&head(&mut client)?)?;
            if !std::mem::replace(&mut is_counted, true) {
                let is_resumed = client.conn.handshake_kind() == Some(HandshakeKind::Resumed);
                let count = if is_resumed { &self.resumed } else { &self.full };
                count.fetch_add(1, Ordering::Relaxed);
            }
            let answer = head(&mut storage)?;
            let (_, fields) = parse_head(&answer);
            let length = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
            let length = length.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0);
            client.write_all(&answer)?;
            io::copy(&mut (&mut storage).take(length), &mut client)?;
            client.flush()?;
        }
    }

    /// A site whose storage stands behind the front.
    fn site(self: &Arc<Self>, lines: &str) -> Site {
        let site = Site::of(|storage| {
            let text = format!(
                "{}SSLProxyEngine on\nProxyPass \"/store/\" \"https://localhost:{}/\"\nUspStorageCache on\n{lines}\n",
                endpoint(&storage.host()),
                self.port
            );
            Conf::new(text).load("socache_shmcb").load("ssl")
        });
        self.storage.set(site.storage.port).expect("one storage");
        site
    }

    fn handshakes(&self) -> (usize, usize) {
        (self.full.load(Ordering::Relaxed), self.resumed.load(Ordering::Relaxed))
    }
}

/// Everything up to the empty line.
fn head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

#[test]
fn a_private_authority_is_taken_where_its_file_is_named_and_nowhere_else() {
    for is_named in [true, false] {
        let front = Front::start();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &front.certificate).expect("it can be written");
        let line = format!("UspStorageCacheCAFile \"{}\"", file.path().display());
        let site = front.site(if is_named { &line } else { "" });
        site.storage.put(FILM, Object::new("film"));
        let answer = site.get(FILM);
        assert_eq!(answer.cache_status() == STORED, is_named, "{} {}", answer.status, answer.cache_status());
        let refused = "cannot fill https://localhost";
        assert_eq!(site.httpd.count_in_log(refused), usize::from(!is_named));
        assert_eq!(site.httpd.count_in_log("(UspStorageCacheCAFile)"), usize::from(!is_named));
    }
}

#[test]
fn a_thousand_fetches_need_few_connections_and_one_handshake_in_full() {
    let front = Front::start();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &front.certificate).expect("it can be written");
    let site = front.site(&format!("UspStorageCacheCAFile \"{}\"", file.path().display()));
    for number in 0..1000 {
        let path = format!("/{number}.ism");
        // Storage ends some of its connections.
        if number % 100 == 50 {
            site.storage.fail_some(&path, Whom::Fetches, ..=1, Fault::Raw(Vec::new()));
        }
        site.storage.put(&path, Object::new("film"));
        assert_eq!(site.get(&path).cache_status(), STORED, "{path}");
    }
    let (full, resumed) = front.handshakes();
    assert!(full <= 2 && full + resumed <= 20, "{full} full and {resumed} resumed handshakes");
    assert!(resumed >= 10, "{resumed} resumed handshakes");
    assert_eq!(site.storage.asked().iter().filter(|asked| asked.by_proxy()).count(), 0);
}

#[test]
fn the_command_reads_media_behind_a_certificate_of_an_authority_that_it_is_told() {
    let (front, storage) = (Front::start(), Storage::start());
    front.storage.set(storage.port).expect("it is set once");
    storage.put("/film.cmfa", Object::new(film_file("film-aac-128k.cmfa")));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("ca.pem"), &front.certificate).expect("a file");
    let url = format!("https://localhost:{}/film.cmfa", front.port);
    let index = |arguments: &[&str]| {
        let mut command = uspcache(&["index", "-o", "a.mp4", &url]);
        ran(command
            .args(arguments)
            .env_remove("AWS_CA_BUNDLE")
            .current_dir(dir.path())
            .output()
            .expect("it can be run"))
    };
    let strange = index(&[]);
    assert!(strange.code == Some(3) && strange.err.ends_with("(--ca-file)\n"), "{strange:?}");
    let known = index(&["--ca-file", "ca.pem"]);
    assert!(known.code == Some(0) && known.out.starts_with("a.mp4: 1 track, 283 samples"), "{known:?}");
    let none = index(&["--ca-file", "none.pem"]);
    assert!(none.code == Some(2) && none.err.starts_with("uspcache: --ca-file none.pem: No such file"), "{none:?}");
}
