//! The real S3 server that `tests/with-s3` starts, and what tests put into it.
//!
//! Keys are given as they stand in a URL, percent-encoded. Each test puts its objects below a
//! prefix of its own, since all of them share the bucket.

use std::process::Command;

use crate::origin::escape;

/// The server and the credentials that it takes.
pub(crate) struct S3 {
    host: String,
    bucket: String,
    access_key: String,
    secret_key: String,
    prefix: String,
}

impl S3 {
    /// The server of this run, with a prefix for the test's keys.
    pub(crate) fn of_this_run(prefix: &str) -> Self {
        let endpoint = variable("S3_ENDPOINT");
        Self {
            host: endpoint.trim_start_matches("http://").trim_end_matches('/').into(),
            bucket: variable("S3_BUCKET"),
            access_key: variable("S3_ACCESS_KEY"),
            secret_key: variable("S3_SECRET_KEY"),
            prefix: prefix.into(),
        }
    }

    /// The URL below which the test's objects lie, with a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/{}/{}/", self.host, self.bucket, self.prefix)
    }

    /// Puts an object with a signed request; `fields` are whole header lines.
    pub(crate) fn put(&self, key: &str, body: &[u8], fields: &[&str]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), body).expect("the file can be written");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--path-as-is", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
        curl.args(["--user", &format!("{}:{}", self.access_key, self.secret_key)]);
        for field in fields {
            curl.args(["-H", field]);
        }
        let put = curl.arg("-T").arg(file.path()).arg(self.url() + key).output().expect("curl runs");
        let said = [put.stdout, put.stderr].concat();
        assert!(put.status.success(), "{key} cannot be put: {}", String::from_utf8_lossy(&said));
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
