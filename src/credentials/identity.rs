//! Whose keys are asked for: what the configuration names, as a value that outlives a request.

use std::fmt;
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::Keys;
use crate::config::signing;

/// Whose keys are asked for.
#[derive(Clone)]
pub struct Identity {
    pub(super) keys: Option<Keys>,
    pub(super) role: Option<Role>,
    /// The region whose STS is asked, where one is set.
    pub(super) region: Option<String>,
    digest: u64,
}

/// A role that is assumed.
#[derive(Clone)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session_name: String,
    pub(super) duration_secs: u32,
}

impl Identity {
    /// What a section names; `region` is what it says of the region.
    pub fn of(named: &signing::Identity<'_>, region: Option<&str>) -> Self {
        let keys = named.keys.map(|keys| Keys::of(&keys));
        let role = named.role.map(|role| Role {
            arn: role.arn.into(),
            session_name: role.session_name.into(),
            duration_secs: role.duration_secs,
        });
        let mut hasher = Sha256::new();
        let mut add = |text: Option<&str>| {
            // A text that is not there differs from an empty one, and none runs into the next.
            hasher.update(text.map_or(u64::MAX, |text| text.len() as u64).to_ne_bytes());
            hasher.update(text.unwrap_or_default());
        };
        add(named.keys.map(|keys| keys.access_key));
        add(named.keys.map(|keys| keys.secret_key));
        add(named.keys.and_then(|keys| keys.security_token));
        add(named.role.map(|role| role.arn));
        add(named.role.map(|role| role.session_name));
        add(region.filter(|_| role.is_some()));
        hasher.update(named.role.map_or(0, |role| role.duration_secs).to_ne_bytes());
        let digest = Sha256::digest(hasher.finalize()).first_chunk().copied().map_or(1, u64::from_ne_bytes).max(1);
        Self { keys, role, region: region.map(str::to_owned), digest }
    }

    /// A number that stands for it in memory that processes share; never 0.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether requests without its keys are no use: a role is named.
    pub fn is_required(&self) -> bool {
        self.role.is_some()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Some(role) => write!(f, "credentials of the role {}", role.arn),
            None => f.write_str("credentials of the environment, profile, container or instance"),
        }
    }
}

/// What entries are scoped by that are fetched with the chain's keys: the profile that httpd's environment names.
pub fn chain() -> &'static str {
    static CHAIN: OnceLock<String> = OnceLock::new();
    CHAIN.get_or_init(|| format!("chain:{}", std::env::var("AWS_PROFILE").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ_in_whatever_decides_on_their_keys() {
        let keys = signing::Keys { access_key: "id", secret_key: "secret", security_token: None };
        let role = signing::Role { arn: "arn", session_name: "name", duration_secs: 3600 };
        let none = signing::Identity { keys: None, role: None, is_explicit: true };
        let with = |keys, role| signing::Identity { keys, role, ..none };
        let rows = [
            (none, None),
            (with(None, Some(role)), None),
            (with(None, Some(role)), Some("eu-west-1")),
            (with(Some(keys), Some(role)), None),
            (with(Some(signing::Keys { secret_key: "other", ..keys }), Some(role)), None),
            (with(Some(signing::Keys { security_token: Some(""), ..keys }), Some(role)), None),
            (with(None, Some(signing::Role { session_name: "other", ..role })), None),
            (with(None, Some(signing::Role { duration_secs: 900, ..role })), None),
        ];
        let mut digests: Vec<_> = rows.iter().map(|(named, region)| Identity::of(named, *region).digest()).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), rows.len());
        let implicit = signing::Identity { is_explicit: false, ..none };
        assert_eq!(Identity::of(&implicit, Some("eu-west-1")).digest(), Identity::of(&none, None).digest());
    }
}
