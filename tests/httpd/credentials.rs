//! Credentials that are asked for: from each source, shared, replaced in time, and never where they do not belong.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::aws::{AUTHORIZATION, Aws, WEB_TOKEN, bare};
use crate::client::{self, Request};
use crate::filling::kill;
use crate::server::{Conf, Httpd, Mpm};
use crate::site::{STORED, Site, is_hit};
use crate::storage::{Object, Storage};
use crate::wait::{rounds, until};

const AUTO: &str = "UspStorageCacheCredentials auto\nS3UseHeaders on\n";
const ROLE: &str = "S3RoleARN arn:aws:iam::123456789012:role/media\nS3UseHeaders on\n";
const HOUR: Duration = Duration::from_secs(3600);

/// A site whose section says `lines`, in an environment of the test's own.
fn site(lines: &str, environment: impl FnOnce(Conf) -> Conf) -> Site {
    Site::of(|storage| environment(Conf::new(Site::text(storage, lines))))
}

/// The key id that a fetch of an object is signed with, once it has been filled; the token goes with it.
fn signer(site: &Site) -> Option<String> {
    site.storage.put("/film.ism", Object::new("film"));
    let answer = site.get("/film.ism");
    assert_eq!((answer.status, answer.cache_status().as_str()), (200, STORED));
    let asked = site.storage.fetches("/film.ism").pop().expect("it was fetched");
    let id = asked.key_id();
    let token = asked.field("x-amz-security-token");
    assert!(token.is_none() || token == id.as_ref().map(|id| format!("token-of-{id}")), "{token:?} of {id:?}");
    id
}

/// A private bucket, filled by the keys of this id alone; for sources that give temporary ones.
fn filled_by(site: &Site, id: &str) {
    site.storage.accept(&[id]);
    assert_eq!(signer(site).as_deref(), Some(id));
    let asked = site.storage.fetches("/film.ism").pop().expect("it was fetched");
    assert_eq!(asked.field("x-amz-security-token"), Some(format!("token-of-{id}")));
}

/// A file that httpd's user can read.
fn file(text: &str) -> tempfile::TempPath {
    use std::os::unix::fs::PermissionsExt as _;
    let path = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
    fs::write(&path, text).expect("it can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    path
}

fn with_keys(conf: Conf, id: &str) -> Conf {
    let conf =
        conf.environment("AWS_ACCESS_KEY_ID", id).environment("AWS_SECRET_ACCESS_KEY", format!("secret-of-{id}"));
    conf.environment("AWS_SESSION_TOKEN", format!("token-of-{id}"))
}

#[test]
fn the_environment_gives_keys() {
    let site = site(AUTO, |conf| with_keys(bare(conf), "ENVIRONMENT"));
    filled_by(&site, "ENVIRONMENT");
}

#[test]
fn a_profile_gives_keys() {
    let keys = file(
        "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = x\n\
         [media]\naws_access_key_id = PROFILE\naws_secret_access_key = x\naws_session_token = token-of-PROFILE\n",
    );
    let config = file("[profile media]\nregion = eu-west-3\n");
    let path = |path: &tempfile::TempPath| path.display().to_string();
    let with_files = |conf| {
        let conf = bare(conf).environment("AWS_SHARED_CREDENTIALS_FILE", path(&keys));
        conf.environment("AWS_CONFIG_FILE", path(&config))
    };
    let site = site(AUTO, |conf| with_files(conf).environment("AWS_PROFILE", "media"));
    filled_by(&site, "PROFILE");
    let other = self::site(AUTO, with_files);
    other.storage.accept(&["DEFAULT"]);
    assert_eq!(signer(&other).as_deref(), Some("DEFAULT"));
}

#[test]
fn a_profile_with_a_role_asks_sts() {
    let aws = Aws::giving("ASSUMED");
    let config = file(
        "[profile base]\naws_access_key_id = BASE\naws_secret_access_key = x\n\
         [profile media]\nrole_arn = arn:aws:iam::123456789012:role/media\nsource_profile = base\nregion = eu-west-1\n",
    );
    let site = site(AUTO, |conf| {
        let conf = aws.as_sts(conf).environment("AWS_CONFIG_FILE", config.display().to_string());
        conf.environment("AWS_PROFILE", "media")
    });
    filled_by(&site, "ASSUMED");
    assert_eq!(aws.asked()[0].key_id.as_deref(), Some("BASE"));
}

#[test]
fn a_web_identity_gives_keys() {
    let aws = Aws::giving("WEB");
    let token = file(WEB_TOKEN);
    let site = site(AUTO, |conf| {
        let conf = aws.as_sts(conf).environment("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string());
        conf.environment("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod")
    });
    filled_by(&site, "WEB");
    assert_eq!(aws.count("AssumeRoleWithWebIdentity"), 1);
}

#[test]
fn a_container_s_endpoint_gives_keys_for_its_authorization() {
    let aws = Aws::giving("CONTAINER");
    let token = file(AUTHORIZATION);
    let by_value = |conf| aws.as_container(conf).environment("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION);
    filled_by(&site(AUTO, by_value), "CONTAINER");
    // As EKS Pod Identity gives it.
    let path = token.display().to_string();
    let by_file = |conf| aws.as_container(conf).environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path);
    filled_by(&site(AUTO, by_file), "CONTAINER");
    assert_eq!(aws.count("GET /container"), 2);
}

#[test]
fn a_home_that_is_closed_to_httpd_s_user_keeps_no_other_source_from_being_asked() {
    let home = tempfile::tempdir().expect("a directory");
    fs::create_dir(home.path().join(".aws")).expect("it is empty");
    for name in ["config", "credentials"] {
        fs::write(home.path().join(".aws").join(name), "[default]\nregion = eu-west-1\n").expect("it can be written");
    }
    // A temporary directory is 0700, and httpd's children are somebody else where it was started by root.
    let aws = Aws::giving("INSTANCE");
    let site = site(AUTO, |conf| aws.as_imds(conf).environment("HOME", home.path().display().to_string()));
    filled_by(&site, "INSTANCE");
}

#[test]
fn the_instance_s_metadata_service_gives_keys_for_its_token() {
    let aws = Aws::giving("INSTANCE");
    let site = site(AUTO, |conf| aws.as_imds(conf));
    filled_by(&site, "INSTANCE");
    let asked: Vec<_> = aws.asked().into_iter().map(|asked| asked.what).collect();
    let want = [
        "PUT /latest/api/token",
        "GET /latest/meta-data/iam/security-credentials/",
        "GET /latest/meta-data/iam/security-credentials/media",
    ];
    assert_eq!(asked, want);
}

#[test]
fn a_role_is_assumed_with_the_directives_keys_or_with_the_chain_s() {
    let lines = "S3RoleSessionName edge-1\nS3RoleDuration 1800\n";
    let keys = "S3AccessKey STATIC\nS3SecretKey x\n";
    for (source, with, want) in [("static", keys, "STATIC"), ("auto", keys, "STATIC"), ("auto", "", "ENVIRONMENT")] {
        let aws = Aws::giving("ASSUMED");
        let lines = format!("{ROLE}{lines}{with}UspStorageCacheCredentials {source}\n");
        let site = site(&lines, |conf| with_keys(aws.as_sts(conf), "ENVIRONMENT"));
        filled_by(&site, "ASSUMED");
        // Nothing goes out that is not signed.
        assert_eq!(site.storage.fetches("/film.ism").len(), 1);
        let asked = &aws.asked()[0];
        assert_eq!(asked.key_id.as_deref(), Some(want), "{source}");
        for words in ["RoleSessionName=edge-1", "DurationSeconds=1800", "role%2Fmedia"] {
            assert!(asked.body.contains(words), "{words} is not in {}", asked.body);
        }
    }
}

#[test]
fn the_chain_has_the_sdks_order() {
    let aws = Aws::giving("CONTAINER");
    let site = site(AUTO, |conf| {
        let conf = with_keys(aws.as_container(conf), "ENVIRONMENT");
        conf.environment("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION)
    });
    filled_by(&site, "ENVIRONMENT");
    assert!(aws.asked().is_empty());
}

#[test]
fn no_host_but_amazon_s_gets_the_chain_s_keys_unasked() {
    for lines in [
        "",
        "S3Region eu-west-1\nS3UseHeaders on\n",
        "UspStorageCacheCredentials static\n",
        "UspStorageCacheCredentials none\n",
    ] {
        let aws = Aws::giving("INSTANCE");
        let site = site(lines, |conf| with_keys(aws.as_imds(conf), "ENVIRONMENT"));
        assert_eq!(signer(&site), None, "{lines}");
        let asked = &site.storage.fetches("/film.ism")[0];
        assert_eq!((asked.field("x-amz-security-token"), asked.query.clone()), (None, None), "{lines}");
        assert!(aws.asked().is_empty());
    }
}

#[test]
fn a_public_bucket_does_not_wait_until_somebody_knows_whether_there_are_keys() {
    let aws = Aws::giving("INSTANCE");
    aws.hold();
    let site = site(AUTO, |conf| aws.as_imds(conf));
    // The metadata service has not answered anything when this is back.
    assert_eq!(signer(&site), None);
    aws.release();
}

#[test]
fn that_there_are_no_keys_is_found_once_for_all_children() {
    let aws = Aws::giving("INSTANCE");
    aws.give_instead(404, "");
    let text = |storage: &Storage| Site::text(storage, AUTO);
    let site = Site::of(|storage| aws.as_imds(Conf::new(text(storage)).mpm(Mpm::Prefork).size(4, 1)));
    // There is a service, and no role.
    let last = "GET /latest/meta-data/iam/security-credentials/";
    for number in 0..20 {
        let path = format!("/{number}.ism");
        site.storage.put(&path, Object::new("film"));
        let answers = site.each_child(4, &Request::get(&path));
        assert!(answers.iter().all(|answer| answer.status == 200));
        assert_eq!(site.storage.fetches(&path)[0].key_id(), None);
        until("an answer", 20, || (aws.count(last) > 0).then_some(()));
    }
    assert_eq!(aws.count(last), 1);
    until("the notice", 20, || {
        // The child that asked says so.
        site.each_child(4, &Request::get("/0.ism"));
        (site.httpd.count_in_log("requests go out unsigned") == 1).then_some(())
    });
}

#[test]
fn without_a_metadata_service_requests_go_out_unsigned() {
    let closed = { std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port() };
    let nobody = format!("http://127.0.0.1:{closed}/");
    let site = site(AUTO, |conf| bare(conf).environment("AWS_EC2_METADATA_SERVICE_ENDPOINT", nobody));
    assert_eq!(signer(&site), None);
    until("the notice", 20, || {
        site.get("/film.ism");
        (site.httpd.count_in_log("requests go out unsigned") == 1).then_some(())
    });
    site.fill("/other.ism", Object::new("other"));
}

#[test]
fn a_role_that_cannot_be_assumed_sends_nothing_unsigned_and_says_what_to_look_at() {
    let aws = Aws::giving("ASSUMED");
    aws.give_instead(403, "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>");
    let site = site(ROLE, |conf| with_keys(aws.as_sts(conf), "ENVIRONMENT"));
    site.storage.put("/film.ism", Object::new("film"));
    site.get("/film.ism");
    assert_eq!(site.storage.fetches("/film.ism").len(), 0);
    until("the warning", 20, || {
        site.get("/film.ism");
        (site.httpd.count_in_log("not you") > 0).then_some(())
    });
    for words in ["role/media cannot be fetched", "S3RoleARN", "there are no credentials to sign with"] {
        assert!(site.httpd.count_in_log(words) > 0, "{words}: {}", site.httpd.error_log());
    }
    // It is tried again, and works.
    aws.give("ASSUMED", HOUR);
    until("the role", 20, || (site.get("/film.ism").cache_status() == STORED).then_some(()));
}

#[test]
fn an_answer_that_is_no_credentials_is_none_and_is_not_shown() {
    let half = "{\"AccessKeyId\":\"CONTAINER\",\"SecretAccessKey\":\"the-secret\"";
    let without_id =
        "{\"SecretAccessKey\":\"the-secret\",\"Token\":\"the-secret\",\"Expiration\":\"2100-01-01T00:00:00Z\"}";
    let without_time = "{\"Code\":\"Success\",\"AccessKeyId\":\"CONTAINER\",\"SecretAccessKey\":\"the-secret\",\
                        \"Token\":\"the-secret\",\"Expiration\":\"the-secret\"}";
    for (status, body) in
        [(200, half), (200, without_id), (200, without_time), (200, "the-secret"), (500, "the-secret")]
    {
        for is_instance in [false, true] {
            let aws = Aws::giving("CONTAINER");
            aws.give_instead(status, body);
            let site = site(&format!("{AUTO}LogLevel usp_storage_cache:trace8\n"), |conf| match is_instance {
                true => aws.as_imds(conf),
                false => aws.as_container(conf).environment("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION),
            });
            assert_eq!(signer(&site), None, "{body}");
            until("the warning", 20, || {
                site.get("/film.ism");
                (site.httpd.count_in_log("cannot be fetched") > 0).then_some(())
            });
            assert!(!site.httpd.error_log().contains("the-secret"), "{body}");
        }
    }
}

#[test]
fn keys_that_come_late_are_used_from_then_on() {
    let aws = Aws::giving("INSTANCE");
    aws.give_instead(500, "");
    let site = site(AUTO, |conf| aws.as_imds(conf));
    site.storage.accept(&["INSTANCE"]);
    site.storage.put("/film.ism", Object::new("film"));
    assert_eq!(site.get("/film.ism").status, 403);
    aws.give("INSTANCE", HOUR);
    until("the keys", 30, || (site.get("/film.ism").cache_status() == STORED).then_some(()));
}

#[test]
fn keys_that_storage_no_longer_takes_are_renewed_once_and_the_request_is_sent_once_more() {
    let aws = Aws::giving("FIRST");
    let site = site(AUTO, |conf| aws.as_imds(conf));
    filled_by(&site, "FIRST");
    aws.give("SECOND", HOUR);
    site.storage.accept(&["SECOND"]);
    site.fill("/a.ism", Object::new("a"));
    let ids: Vec<_> = site.storage.fetches("/a.ism").iter().map(|asked| asked.key_id().unwrap_or_default()).collect();
    assert_eq!(ids, ["FIRST", "SECOND"]);
    // Not again and again: a key that was taken away would have each request ask for others.
    aws.give("THIRD", HOUR);
    site.storage.accept(&["THIRD"]);
    site.storage.put("/b.ism", Object::new("b"));
    assert_eq!(site.get("/b.ism").status, 403);
    assert_eq!(aws.count("GET /latest/meta-data/iam/security-credentials/media"), 2);
    // What was filled by whatever keys stays.
    assert!(is_hit(&site.get("/film.ism").cache_status()) && is_hit(&site.get("/a.ism").cache_status()));
}

#[test]
fn keys_that_are_valid_outlive_a_failed_renewal() {
    let aws = Aws::giving("FIRST");
    let site = site(AUTO, |conf| aws.as_imds(conf));
    filled_by(&site, "FIRST");
    aws.give_instead(500, "the-secret");
    site.storage.accept(&["OTHER"]);
    site.storage.put("/a.ism", Object::new("a"));
    assert_eq!(site.get("/a.ism").status, 403);
    until("the warning", 30, || {
        site.get("/film.ism");
        (site.httpd.count_in_log("stay in use for") > 0).then_some(())
    });
    site.storage.accept(&["FIRST"]);
    site.fill("/b.ism", Object::new("b"));
    assert!(!site.httpd.error_log().contains("secret"));
}

#[test]
fn another_child_takes_over_from_one_that_dies_while_it_fetches_credentials() {
    let aws = Aws::giving("INSTANCE");
    aws.hold();
    let text = |storage: &Storage| Site::text(storage, &format!("{AUTO}UspStorageCacheTimeout 30\n"));
    let site = Site::of(|storage| aws.as_imds(Conf::new(text(storage)).mpm(Mpm::Worker).size(3, 4)));
    site.storage.accept(&["INSTANCE"]);
    let asking = |httpd: &Httpd| -> Vec<u32> {
        let named = |pid: &u32| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            names.into_iter().any(|name| name.trim() == "usc-credentials")
        };
        httpd.children().into_iter().filter(named).collect()
    };
    for number in 0..30 {
        site.storage.put(&format!("/{number}.ism"), Object::new("film"));
    }
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..30 {
            let (answered, port) = (&answered, site.httpd.port);
            scope.spawn(move || {
                // Those of the child that is killed have no answer.
                let answer = client::fetch(port, Request::get(format!("/store/{number}.ism")));
                answered.fetch_add(usize::from(answer.is_ok_and(|a| a.cache_status() == STORED)), Ordering::Relaxed);
            });
        }
        let first = until("a child that asks", 20, || asking(&site.httpd).first().copied());
        kill(&[first]);
        let second = until("another child", 20, || asking(&site.httpd).into_iter().find(|pid| *pid != first));
        assert_ne!(first, second);
        aws.release();
    });
    assert!(answered.load(Ordering::Relaxed) > 0, "nobody was served by what the second one fetched");
    assert_eq!(site.get("/0.ism").status, 200);
}

/// Objects are asked for without a pause while the keys change, three times.
#[test]
fn no_request_is_refused_and_nothing_fetched_again_while_keys_rotate() {
    let aws = Aws::giving("KEY0");
    aws.give("KEY0", Duration::from_secs(6));
    let count = rounds(600, 10_000);
    let pause = Duration::from_millis(90_000 / count as u64);
    let text = |storage: &Storage| Site::text(storage, AUTO);
    let site = Site::of(|storage| aws.as_imds(Conf::new(text(storage)).mpm(Mpm::Worker).size(3, 16)));
    (0..count).for_each(|number| site.storage.put(&format!("/{number}.ism"), Object::new("film")));
    site.storage.accept(&["KEY0"]);
    let (is_over, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) || next.load(Ordering::Relaxed) < count {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let answer = site.get(&format!("/{}.ism", number % count));
                    assert_eq!(answer.status, 200, "number {number}");
                    let status = answer.cache_status();
                    assert!(status == STORED || is_hit(&status), "number {number}: {status}");
                    // Cold objects shall be left for each of the keys.
                    thread::sleep(pause);
                }
            });
        }
        let signed_by = |id: &String| {
            let is_it = || site.storage.asked().iter().any(|asked| asked.key_id().as_ref() == Some(id));
            until("requests with the next keys", 30, || is_it().then_some(()));
        };
        signed_by(&"KEY0".into());
        for number in 1..=3 {
            let [old, new] = [number - 1, number].map(|number| format!("KEY{number}"));
            site.storage.accept(&[&old, &new]);
            aws.give(&new, if number < 3 { Duration::from_secs(6) } else { HOUR });
            signed_by(&new);
            site.storage.accept(&[&new]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for number in 0..count {
        let path = format!("/{number}.ism");
        let taken =
            site.storage.exchanges(&path).iter().filter(|exchange| matches!(exchange.status, Some(200 | 206))).count();
        assert_eq!(taken, 1, "{path} was fetched again");
    }
    let fetched = aws.count("GET /latest/meta-data/iam/security-credentials/media");
    assert!((4..12).contains(&fetched), "{fetched} times for four keys");
    assert_eq!(site.httpd.crashes(), 0);
}

#[test]
fn another_generation_of_children_asks_for_itself_and_finds_what_was_filled() {
    let aws = Aws::giving("FIRST");
    let site = site(AUTO, |conf| aws.as_imds(conf));
    filled_by(&site, "FIRST");
    aws.give("SECOND", HOUR);
    site.storage.accept(&["SECOND"]);
    site.httpd.graceful();
    until("the second keys", 20, || {
        site.storage.put("/a.ism", Object::new("a"));
        (site.get("/a.ism").status == 200).then_some(())
    });
    assert!(is_hit(&site.get("/film.ism").cache_status()));
    assert_eq!(site.storage.fetches("/a.ism").pop().and_then(|asked| asked.key_id()).as_deref(), Some("SECOND"));
}

#[test]
fn no_secret_that_was_fetched_is_in_the_log_or_in_the_store() {
    let aws = Aws::giving("ASSUMED");
    let lines = format!("{ROLE}LogLevel usp_storage_cache:trace8\n");
    let site = site(&lines, |conf| with_keys(aws.as_sts(conf), "ENVIRONMENT"));
    filled_by(&site, "ASSUMED");
    site.storage.accept(&[]);
    site.get("/absent.ism");
    let log = site.httpd.error_log();
    for secret in ["secret-of", "token-of", "Signature="] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    for entry in site.httpd.entries() {
        let bytes = String::from_utf8_lossy(&fs::read(entry).expect("an entry")).into_owned();
        assert!(!bytes.contains("secret-of") && !bytes.contains("token-of"));
    }
}
