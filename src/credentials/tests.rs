//! What becomes of what was fetched. How it is fetched is seen from outside (tests/httpd/credentials.rs).

use std::time::UNIX_EPOCH;

use super::*;

const NOW_MS: u64 = 1_000_000_000;

fn chain_identity() -> Identity {
    Identity::of(&signing::Identity { keys: None, role: None, is_explicit: true }, None)
}

fn role_identity() -> Identity {
    let role = signing::Role { arn: "arn:aws:iam::1:role/media", session_name: "name", duration_secs: 900 };
    Identity::of(&signing::Identity { keys: None, role: Some(role), is_explicit: true }, None)
}

fn credentials(id: &str, expires_in_ms: Option<u64>) -> Credentials {
    let expiry = expires_in_ms.map(|ms| UNIX_EPOCH + Duration::from_millis(NOW_MS + ms));
    Credentials::new(id, "the secret", Some("the token".into()), expiry, "test")
}

/// The record that follows on `before`, and whether something is said of it, as a warning or not.
fn after(
    identity: &Identity,
    before: Option<Record>,
    came: Result<Credentials, Trouble>,
    random: u64,
) -> (Record, Option<bool>) {
    let (record, report) = outcome(identity, before, came, NOW_MS, random);
    (record, report.map(|report| report.is_warning))
}

fn failed() -> Result<Credentials, Trouble> {
    Err(Trouble::Failed("why".into()))
}

fn nothing() -> Result<Credentials, Trouble> {
    Err(Trouble::Nothing("why".into()))
}

#[test]
fn credentials_are_fetched_again_before_they_expire() {
    for random in [0, 1, MARGIN_MS - 1, u64::MAX] {
        for expires_in_ms in [4000, 600_000, 900_000, 3_600_000] {
            let at = refresh_at_ms(Some(NOW_MS + expires_in_ms), NOW_MS, random);
            let early = NOW_MS + expires_in_ms - at;
            assert!(early >= MARGIN_MS.min(expires_in_ms / 2), "{early} of {expires_in_ms}");
            assert!(early <= (2 * MARGIN_MS).min(expires_in_ms / 2), "{early} of {expires_in_ms}");
        }
        assert!(refresh_at_ms(Some(0), NOW_MS, random) > NOW_MS, "what has expired is not asked for all the time");
        assert!(refresh_at_ms(None, NOW_MS, random) >= NOW_MS + RECHECK_MS);
    }
}

#[test]
fn a_failure_leaves_the_keys_until_they_expire_and_is_tried_again_ever_less_often() {
    let identity = chain_identity();
    let (mut record, said) = after(&identity, None, Ok(credentials("AKID", Some(10_000))), 0);
    assert_eq!(said, Some(false));
    let (mut pauses, mut said) = (Vec::new(), 0);
    for came in [failed(), nothing(), failed(), nothing(), failed(), failed(), failed(), failed()] {
        let next = after(&identity, Some(record), came, 0);
        record = next.0;
        pauses.push(record.refresh_at_ms - NOW_MS);
        said += u32::from(next.1 == Some(true));
        assert_eq!(record.keys.as_ref().expect("they are kept").access_key(), "AKID");
    }
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
    assert_eq!(said, 4);
    assert!(matches!(record.known(NOW_MS + 9999), Known::Keys(_)));
    assert!(matches!(record.known(NOW_MS + 10_000), Known::Failed));
    let (record, _) = after(&identity, Some(record), Ok(credentials("OTHER", None)), 0);
    assert_eq!((record.failures, record.expires_at_ms), (0, None));
    assert!(matches!(record.known(u64::MAX), Known::Keys(keys) if keys.access_key() == "OTHER"));
}

#[test]
fn that_there_is_nothing_is_remembered_and_said_once() {
    let (first, said) = after(&chain_identity(), None, nothing(), 0);
    assert_eq!((said, first.refresh_at_ms), (Some(false), NOW_MS + RECHECK_MS));
    assert!(matches!(first.known(NOW_MS), Known::Nothing));
    let (again, said) = after(&chain_identity(), Some(first), nothing(), 0);
    assert!(said.is_none() && matches!(again.known(NOW_MS), Known::Nothing));
    // A role without keys to assume it with is a mistake.
    let (role, said) = after(&role_identity(), None, nothing(), 0);
    assert!(said == Some(true) && matches!(role.known(NOW_MS), Known::Failed));
}

#[test]
fn what_is_said_has_a_hint_and_no_secret() {
    let before = outcome(&role_identity(), None, Ok(credentials("AKID", Some(60_000))), NOW_MS, 0).0;
    let (_, report) = outcome(&role_identity(), Some(before), failed(), NOW_MS, 0);
    let text = report.expect("it is said").text;
    for word in ["arn:aws:iam::1:role/media", "why", "60 s", "S3RoleARN"] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
    assert!(!text.contains("the secret") && !text.contains("the token"), "{text}");
}

#[test]
fn two_processes_share_what_one_of_them_fetched() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = crate::store::Limits { store_len_max: 1 << 30, free_len_min: 0, generation: 0 };
    let open = || Store::open(dir.path(), limits).expect("a store");
    let table = Arc::new(Table::new().expect("a table"));
    let [one, other] = [open(), open()].map(|store| Keyring::new(table.clone(), store));
    // Keys of the directives are their own chain: nobody is asked.
    let keys = signing::Keys { access_key: "AKID", secret_key: "secret", security_token: None };
    let named = signing::Identity { keys: Some(keys), role: None, is_explicit: true };
    let identity = Arc::new(Identity::of(&named, None));
    assert!(matches!(other.known(&identity), Known::Unknown), "who asks first does not wait");
    for keyring in [&one, &other] {
        let known = keyring.settled(&identity, Duration::from_secs(20));
        assert!(matches!(known, Known::Keys(keys) if keys.access_key() == "AKID"));
    }
    assert_eq!(table.slot(identity.digest()).expect("a slot").current(), 1, "it was fetched once");
    // Storage does not take them, and there are no others.
    let refused = Keys::new("AKID", "secret", None);
    assert!(other.renewed(&identity, &refused, Duration::from_secs(20)).is_none());
    assert!(one.renewed(&identity, &refused, Duration::from_secs(20)).is_none());
    assert_eq!(table.slot(identity.digest()).expect("a slot").current(), 2, "it was fetched once more");
}
