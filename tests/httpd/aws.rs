//! A double of what gives credentials on AWS: the instance's metadata service, a container's endpoint, and STS.
//!
//! Each answers in the words of its own documentation and refuses what it refuses there: the metadata service without a token
//! of its own, the container's endpoint without its authorization, STS an unsigned `AssumeRole`. What was asked is remembered.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::client::{Fields, find, parse_head};
use crate::server::Conf;

/// What the container's endpoint wants to see.
pub(crate) const AUTHORIZATION: &str = "Basic the-authorization";
/// What a web identity is told by.
pub(crate) const WEB_TOKEN: &str = "the-web-identity";
const IMDS_TOKEN: &str = "the-imds-token";
const HOUR: Duration = Duration::from_secs(3600);

/// The double itself; it ends when it is dropped.
pub(crate) struct Aws {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

struct State {
    key_id: String,
    lasts: Duration,
    /// What is answered instead of credentials.
    instead: Option<(u16, String)>,
    is_held: bool,
    is_over: bool,
    asked: Vec<Asked>,
}

/// A request, as the double saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The method and path, or the action of STS.
    pub(crate) what: String,
    pub(crate) body: String,
    /// The key id of its signature, where it has one.
    pub(crate) key_id: Option<String>,
}

impl Aws {
    /// Gives keys of this id to who asks, for an hour.
    pub(crate) fn giving(key_id: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = State {
            key_id: key_id.into(),
            lasts: HOUR,
            instead: None,
            is_held: false,
            is_over: false,
            asked: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), released: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.lock().is_over {
                    return;
                }
                let shared = accepting.clone();
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { port, shared }
    }

    /// Gives other keys from now on, for so long.
    pub(crate) fn give(&self, key_id: &str, lasts: Duration) {
        let mut state = self.shared.lock();
        (state.key_id, state.lasts, state.instead) = (key_id.into(), lasts, None);
    }

    /// Gives no credentials from now on, but this.
    pub(crate) fn give_instead(&self, status: u16, body: &str) {
        self.shared.lock().instead = Some((status, body.into()));
    }

    /// Lets who asks wait.
    pub(crate) fn hold(&self) {
        self.shared.lock().is_held = true;
    }

    /// Answers who has waited.
    pub(crate) fn release(&self) {
        self.shared.lock().is_held = false;
        self.shared.released.notify_all();
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// How often this was asked.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|asked| asked.what == what).count()
    }

    /// `http://127.0.0.1:port` and a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// An httpd whose metadata service this is.
    pub(crate) fn as_imds(&self, conf: Conf) -> Conf {
        bare(conf).environment("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.url("/"))
    }

    /// An httpd whose STS this is, and which has nothing else.
    pub(crate) fn as_sts(&self, conf: Conf) -> Conf {
        bare(conf).environment("AWS_ENDPOINT_URL_STS", self.url("/")).environment("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// An httpd in a container whose endpoint this is.
    pub(crate) fn as_container(&self, conf: Conf) -> Conf {
        let conf = bare(conf).environment("AWS_CONTAINER_CREDENTIALS_FULL_URI", self.url("/container"));
        conf.environment("AWS_EC2_METADATA_DISABLED", "true")
    }
}

/// An httpd that sees nothing of what the tests' own environment says, nor of the machine's user.
pub(crate) fn bare(conf: Conf) -> Conf {
    conf.environment("HOME", "/nonexistent").environment("AWS_REGION", "eu-west-1")
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.release();
        // What accepts looks up.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes what is asked, and answers it when nothing is held.
    fn answer(&self, asked: Asked, fields: &Fields) -> (u16, String) {
        let mut state = self.lock();
        state.asked.push(asked.clone());
        let state = self.released.wait_while(state, |state| state.is_held && !state.is_over);
        state.unwrap_or_else(|poisoned| poisoned.into_inner()).answer(&asked, fields)
    }
}

impl State {
    fn answer(&self, asked: &Asked, fields: &Fields) -> (u16, String) {
        let has = |name, value: &str| find(fields, name) == Some(value.as_bytes());
        let refusal = match asked.what.as_str() {
            "PUT /latest/api/token" if find(fields, "x-aws-ec2-metadata-token-ttl-seconds").is_some() => {
                return (200, IMDS_TOKEN.into());
            }
            "GET /latest/meta-data/iam/security-credentials/" if self.instead.as_ref().is_some_and(|i| i.0 == 404) => {
                return (404, String::new());
            }
            "GET /latest/meta-data/iam/security-credentials/" if has("x-aws-ec2-metadata-token", IMDS_TOKEN) => {
                return (200, "media".into());
            }
            "GET /latest/meta-data/iam/security-credentials/media" => {
                (!has("x-aws-ec2-metadata-token", IMDS_TOKEN)).then_some(401)
            }
            "GET /container" => (!has("authorization", AUTHORIZATION)).then_some(403),
            "AssumeRole" => asked.key_id.is_none().then_some(403),
            "AssumeRoleWithWebIdentity" => {
                (!asked.body.contains(&format!("WebIdentityToken={WEB_TOKEN}"))).then_some(400)
            }
            _ => Some(404),
        };
        match (refusal, &self.instead) {
            (Some(status), _) => (status, String::new()),
            (None, Some(instead)) => instead.clone(),
            (None, None) if asked.what.starts_with("Assume") => (200, self.xml(&asked.what)),
            (None, None) => (200, self.json()),
        }
    }

    fn json(&self) -> String {
        let (id, until) = (&self.key_id, iso(SystemTime::now() + self.lasts));
        format!(
            "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"LastUpdated\":\"2020-01-01T00:00:00Z\",\"AccessKeyId\":\"{id}\",\
             \"SecretAccessKey\":\"secret-of-{id}\",\"Token\":\"token-of-{id}\",\"Expiration\":\"{until}\"}}"
        )
    }

    fn xml(&self, action: &str) -> String {
        let (id, until) = (&self.key_id, iso(SystemTime::now() + self.lasts));
        format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser>\
             <AssumedRoleId>AROA:session</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/media/session</Arn>\
             </AssumedRoleUser><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>secret-of-{id}\
             </SecretAccessKey><SessionToken>token-of-{id}</SessionToken><Expiration>{until}</Expiration></Credentials>\
             </{action}Result></{action}Response>"
        )
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let (line, fields) = parse_head(&head);
        let len = find(&fields, "content-length").and_then(|len| str::from_utf8(len).ok()?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let action = body.split('&').find_map(|pair| pair.strip_prefix("Action="));
        let mut words = line.split(' ');
        let what = || [words.next().unwrap_or_default(), words.next().unwrap_or_default()].join(" ");
        let what = action.map_or_else(what, str::to_owned);
        let authorization = String::from_utf8_lossy(find(&fields, "authorization").unwrap_or_default()).into_owned();
        let key_id = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
        let asked = Asked { what, key_id: key_id.map(str::to_owned), body };
        let (status, body) = shared.answer(asked, &fields);
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
        let answer = format!("HTTP/1.1 {status} Double\r\n{ttl}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = stream;
        stream.write_all(answer.as_bytes())?;
    }
}

/// A time as AWS writes it.
fn iso(time: SystemTime) -> String {
    let text = httpdate::fmt_http_date(time);
    let parts: Vec<_> = text.split(' ').collect();
    let [_, day, month, year, clock, _] = parts[..] else { panic!("{text} is no date") };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month).expect("a month") + 1;
    format!("{year}-{month:02}-{day}T{clock}Z")
}
