//! What the configuration says about signing: whose keys, and for which hosts.
//!
//! # Invariants
//!
//! - What an entry is scoped by is what the configuration names, never a secret, and never what that resolves to.
//! - The keys of the host itself are used where somebody has asked for them, or where Amazon is asked; nowhere else.

use super::{Invalid, Section};

/// What requests to one storage are signed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credentials<'c> {
    /// Requests go out unsigned.
    None,
    /// One of a pair of keys is not set.
    Incomplete {
        /// The directive that is missing.
        missing: &'static str,
    },
    /// Keys as they stand in the directives.
    Keys(Keys<'c>),
    /// Keys that have to be asked for.
    Asked(Identity<'c>),
}

/// Keys as they stand in the directives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys<'c> {
    /// `S3AccessKey`.
    pub access_key: &'c str,
    /// `S3SecretKey`.
    pub secret_key: &'c str,
    /// `S3SecurityToken`.
    pub security_token: Option<&'c str>,
}

/// Whose keys are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity<'c> {
    /// The directives' keys; without them the chain of the AWS SDKs tells.
    pub keys: Option<Keys<'c>>,
    /// The role that is assumed with those.
    pub role: Option<Role<'c>>,
    /// Whether the configuration asks for it in so many words: what somebody else has signed is then signed anew.
    pub is_explicit: bool,
}

/// A role of AWS's (STS API reference, "AssumeRole").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Role<'c> {
    /// `S3RoleARN`.
    pub arn: &'c str,
    /// `S3RoleSessionName`.
    pub session_name: &'c str,
    /// `S3RoleDuration`, in seconds.
    pub duration_secs: u32,
}

/// `UspStorageCacheCredentials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The directives' keys, else the chain's.
    Auto,
    /// The directives' keys.
    Static,
    /// None.
    None,
}

impl<'c> Section<'c> {
    /// What requests to `host`, with a port or without, are signed with.
    pub fn credentials(&self, host: impl AsRef<[u8]>) -> Credentials<'c> {
        let source = self.credentials.unwrap_or(Source::Auto);
        let role = self.role_arn.map(|arn| Role {
            arn,
            session_name: self.role_session_name.unwrap_or("usp-storage-cache"),
            duration_secs: self.role_duration.unwrap_or(3600),
        });
        let keys = match (self.access_key, self.secret_key) {
            _ if source == Source::None => return Credentials::None,
            (Some(access_key), Some(secret_key)) => {
                Some(Keys { access_key, secret_key, security_token: self.security_token })
            }
            (Some(_), None) => return Credentials::Incomplete { missing: "S3SecretKey" },
            (None, Some(_)) => return Credentials::Incomplete { missing: "S3AccessKey" },
            (None, None) => None,
        };
        let is_explicit = self.credentials.is_some() || role.is_some();
        match (keys, role) {
            (Some(keys), None) => Credentials::Keys(keys),
            (None, Some(_)) if source == Source::Static => Credentials::Incomplete { missing: "S3AccessKey" },
            (None, None) if source == Source::Static || !(is_explicit || is_amazons(host.as_ref())) => {
                Credentials::None
            }
            (keys, role) => Credentials::Asked(Identity { keys, role, is_explicit }),
        }
    }
}

impl<'c> Credentials<'c> {
    /// What an entry is scoped by; `profile` is the one that httpd's environment names.
    pub fn scope<'s>(&self, profile: &'s str) -> &'s str
    where
        'c: 's,
    {
        match self {
            Self::Keys(keys) => keys.access_key,
            Self::Asked(Identity { role: Some(role), .. }) => role.arn,
            Self::Asked(_) => profile,
            // What fails for want of a key says nothing about requests that go unsigned.
            Self::Incomplete { .. } => "incomplete",
            Self::None => "",
        }
    }

    /// Whether what somebody else has signed keeps that signature.
    pub fn yields(&self) -> bool {
        matches!(self, Self::None | Self::Asked(Identity { is_explicit: false, .. }))
    }
}

/// Whether a host is one of Amazon's: the instance's own keys are for nobody else's eyes.
fn is_amazons(host: &[u8]) -> bool {
    let digits = host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let host = host[..host.len() - digits].strip_suffix(b":").unwrap_or(host);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let below = |domain: &[u8]| {
        let at = host.len().checked_sub(domain.len()).filter(|at| *at > 0);
        at.is_some_and(|at| host[at..].eq_ignore_ascii_case(domain))
    };
    below(b".amazonaws.com") || below(b".amazonaws.com.cn")
}

pub(super) fn source(value: &str) -> Result<Source, Invalid> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(Source::Auto),
        "static" => Ok(Source::Static),
        "none" => Ok(Source::None),
        _ => Err(Invalid("auto, static or none".into())),
    }
}

/// `arn:partition:iam::account:role/name` (IAM user guide, "IAM ARNs").
pub(super) fn role_arn(value: &str) -> Result<&str, Invalid> {
    let parts: Vec<&str> = value.splitn(6, ':').collect();
    let is_role = matches!(parts[..], ["arn", partition, "iam", "", account, role]
        if !partition.is_empty() && !account.is_empty() && role.len() > 5 && role.starts_with("role/"));
    let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic());
    let invalid = || Invalid("the ARN of a role (arn:aws:iam::123456789012:role/media for example)".into());
    (is_role && is_plain).then_some(value).ok_or_else(invalid)
}

/// What STS takes for a session's name (STS API reference, "AssumeRole").
pub(super) fn role_session_name(value: &str) -> Result<&str, Invalid> {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    let fits = (2..=64).contains(&value.len()) && value.bytes().all(is_right);
    fits.then_some(value).ok_or_else(|| Invalid("2 to 64 letters, digits and characters of _+=,.@-".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:iam::123456789012:role/media";

    fn section(source: Option<Source>, has_keys: bool, has_role: bool) -> Section<'static> {
        let key = has_keys.then_some("AKID");
        Section {
            credentials: source,
            access_key: key,
            secret_key: key,
            role_arn: has_role.then_some(ARN),
            ..Section::default()
        }
    }

    #[test]
    fn whose_keys_are_used_is_what_the_section_and_the_host_tell() {
        let (ours, amazons) = ("storage.example", "bucket.s3.eu-west-1.amazonaws.com");
        let rows = [
            (None, false, false, ours, ""),
            (None, false, false, amazons, "chain:"),
            (None, true, false, ours, "AKID"),
            (None, false, true, ours, ARN),
            (None, true, true, ours, ARN),
            (Some(Source::Auto), false, false, ours, "chain:"),
            (Some(Source::Auto), true, false, ours, "AKID"),
            (Some(Source::Static), false, false, amazons, ""),
            (Some(Source::Static), true, false, ours, "AKID"),
            (Some(Source::Static), false, true, amazons, "incomplete"),
            (Some(Source::Static), true, true, ours, ARN),
            (Some(Source::None), true, true, amazons, ""),
        ];
        for (source, has_keys, has_role, host, want) in rows {
            let credentials = section(source, has_keys, has_role).credentials(host);
            assert_eq!(credentials.scope("chain:"), want, "{source:?} {has_keys} {has_role} {host}");
        }
    }

    #[test]
    fn only_what_ends_in_amazons_domains_is_amazons() {
        let rows = [
            ("s3.amazonaws.com", true),
            ("B.S3.AmazonAWS.com.", true),
            ("s3.cn-north-1.amazonaws.com.cn:443", true),
            ("amazonaws.com", false),
            (".amazonaws.com", false),
            ("evilamazonaws.com", false),
            ("s3.amazonaws.com.evil.example", false),
            ("é.amazonaws.com", true),
            ("127.0.0.1", false),
            ("", false),
        ];
        for (host, want) in rows {
            assert_eq!(is_amazons(host.as_bytes()), want, "{host}");
        }
    }

    #[test]
    fn a_role_is_an_arn_of_a_role_and_a_session_has_a_name_that_sts_takes() {
        let rows = [
            (ARN, true),
            ("arn:aws-cn:iam::123456789012:role/path/name", true),
            ("media", false),
            ("arn:aws:iam::123456789012:user/media", false),
            ("arn:aws:iam::123456789012:role/", false),
            ("arn:aws:sts::123456789012:role/a", false),
            ("arn:aws:iam::123456789012:role/a b", false),
        ];
        for (value, want) in rows {
            assert_eq!(role_arn(value).is_ok(), want, "{value}");
        }
        for (value, want) in [("ab", true), ("a", false), ("a b", false), ("edge-1@site", true), ("é1", false)] {
            assert_eq!(role_session_name(value).is_ok(), want, "{value}");
        }
    }

    #[test]
    fn half_a_pair_of_keys_is_no_pair() {
        let section = Section { access_key: Some("id"), ..Section::default() };
        assert!(matches!(section.credentials("h"), Credentials::Incomplete { missing: "S3SecretKey" }));
    }
}
