//! The real S3 servers that `tests/with-s3` starts, and what tests put into them.
//!
//! Keys are given as they stand in a URL, percent-encoded. Each test puts its objects below a
//! prefix of its own, since all of them share the buckets.

use std::process::Command;

use crate::origin::escape;

/// Which of the servers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SeaweedFs,
    S3sFs,
}

/// A server, a bucket and the credentials that it takes.
#[derive(Clone)]
pub(crate) struct S3 {
    pub(crate) kind: Kind,
    host: String,
    bucket: String,
    /// The host that is the bucket, where that is how it is asked for.
    bucket_host: Option<String>,
    access_key: String,
    secret_key: String,
    prefix: String,
}

impl S3 {
    /// The server of this run, with a prefix for the test's keys.
    pub(crate) fn of_this_run(prefix: &str) -> Self {
        Self::at(Kind::SeaweedFs, prefix)
    }

    /// Both servers of this run.
    pub(crate) fn both(prefix: &str) -> [Self; 2] {
        [Kind::SeaweedFs, Kind::S3sFs].map(|kind| Self::at(kind, prefix))
    }

    fn at(kind: Kind, prefix: &str) -> Self {
        let endpoint = variable(match kind {
            Kind::SeaweedFs => "S3_ENDPOINT",
            Kind::S3sFs => "S3_OTHER_ENDPOINT",
        });
        Self {
            kind,
            host: endpoint.trim_start_matches("http://").trim_end_matches('/').into(),
            bucket: variable("S3_BUCKET"),
            bucket_host: None,
            access_key: variable("S3_ACCESS_KEY"),
            secret_key: variable("S3_SECRET_KEY"),
            prefix: prefix.into(),
        }
    }

    /// The same with a bucket that is a host name, and no part of the path.
    pub(crate) fn by_host(&self) -> Self {
        let bucket = variable("S3_HOST_BUCKET");
        let port = self.host.rsplit(':').next().unwrap_or_default();
        let bucket_host = Some(format!("{bucket}.{}:{port}", variable("S3_HOST_DOMAIN")));
        Self { bucket, bucket_host, ..self.clone() }
    }

    /// The key id and the secret that the server knows.
    pub(crate) fn keys(&self) -> (&str, &str) {
        (&self.access_key, &self.secret_key)
    }

    /// The URL below which the test's objects lie, with a slash at its end.
    pub(crate) fn url(&self) -> String {
        match &self.bucket_host {
            Some(host) => format!("http://{host}/{}/", self.prefix),
            None => self.path_url(),
        }
    }

    /// The server.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.host)
    }

    /// What the names of the test's objects begin with, for the CLI.
    pub(crate) fn name(&self) -> String {
        format!("s3://{}/{}/", self.bucket, self.prefix)
    }

    fn path_url(&self) -> String {
        format!("http://{}/{}/{}/", self.host, self.bucket, self.prefix)
    }

    /// Puts an object with a signed request; `fields` are whole header lines.
    pub(crate) fn put(&self, key: &str, body: &[u8], fields: &[&str]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), body).expect("the file can be written");
        let mut curl = self.curl();
        for field in fields {
            curl.args(["-H", field]);
        }
        let put = curl.arg("-T").arg(file.path()).arg(self.path_url() + key).output().expect("curl runs");
        let said = [put.stdout, put.stderr].concat();
        assert!(put.status.success(), "{key} cannot be put: {}", String::from_utf8_lossy(&said));
    }

    /// What lies under a key.
    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        let got = self.curl().arg(self.path_url() + key).output().expect("curl runs");
        assert!(got.status.success(), "{key} cannot be read: {}", String::from_utf8_lossy(&got.stderr));
        got.stdout
    }

    /// A signed request.
    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--path-as-is", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
        curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        curl.args(["--user", &format!("{}:{}", self.access_key, self.secret_key)]);
        curl
    }

    /// Puts the film of `tests/media`: its manifest, its indexes and its media.
    pub(crate) fn put_film(&self) {
        for (name, body) in film() {
            self.put(&escape(name.as_bytes()), &body, &[]);
        }
    }

    /// The lines that sign with the right keys, in the header or in the query.
    pub(crate) fn lines(&self, use_headers: bool) -> String {
        self.lines_with(&self.secret_key, use_headers)
    }

    /// The lines that sign with a secret key that the server does not know.
    pub(crate) fn wrong_lines(&self, use_headers: bool) -> String {
        self.lines_with("not/the/secret", use_headers)
    }

    fn lines_with(&self, secret_key: &str, use_headers: bool) -> String {
        let mode = if use_headers { "on" } else { "off" };
        format!("S3AccessKey {}\nS3SecretKey {secret_key}\nS3Region us-east-1\nS3UseHeaders {mode}\n", self.access_key)
    }
}

/// The files of `tests/media`.
pub(crate) fn film() -> Vec<(String, Vec<u8>)> {
    let media = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/media");
    let files = std::fs::read_dir(media).expect("tests/media is there").flatten();
    let named = files.filter_map(|file| Some((file.file_name().into_string().ok()?, std::fs::read(file.path()).ok()?)));
    named.filter(|(name, _)| name.starts_with("film")).collect()
}

/// One file of `tests/media`.
pub(crate) fn film_file(name: &str) -> Vec<u8> {
    film().into_iter().find(|(had, _)| had == name).expect("the film has that file").1
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through tests/with-s3"))
}
