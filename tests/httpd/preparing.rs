//! Content that is prepared where it lies: `uspcache index` and its like on objects in storage.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::cli::{Ran, ran, uspcache};
use crate::made::{Track, boxed, full, init, mdat, moof};
use crate::origin::escape;
use crate::s3::{S3, film_file};
use crate::storage::{Fault, Object, Storage, Whom};

/// A key that scripted storage has never heard of, but nobody has told it to mind.
const KEY_ID: &str = "AKIDEXAMPLE";
const MEDIA: &str = "/media/dir/film.cmfv";

/// The command with keys in its environment, and nothing else of AWS's.
fn with_keys((id, secret): (&str, &str), endpoint: &str, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = uspcache(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_ENDPOINT_URL_S3", endpoint);
    command.env("HOME", dir).current_dir(dir);
    command
}

/// On scripted storage.
fn on(storage: &Storage, dir: &Path, arguments: &[&str]) -> Command {
    with_keys((KEY_ID, "secret"), &format!("http://{}", storage.host()), dir, arguments)
}

fn run(mut command: Command) -> Ran {
    ran(command.output().expect("it can be run"))
}

/// 200 fragments of 2 s at 400 kbit/s, after a list of them or without one.
fn film(is_listed: bool) -> Vec<u8> {
    let fragment = |number: u32| {
        let count = 40 + number * 7 % 16;
        let sizes = [[count].as_slice(), &vec![100_000 / count; count as usize]].concat();
        let traf = [full(b"tfhd", 0, 0x2_0000, &[1]), full(b"trun", 0, 0x200, &sizes)].concat();
        [moof(&[traf]), mdat(100_000)].concat()
    };
    let fragments: Vec<_> = (0..200).map(fragment).collect();
    let mut references = vec![1, 1000, 0, 0, fragments.len() as u32];
    fragments.iter().for_each(|fragment| references.extend([fragment.len() as u32, 2000, 0x9000_0000]));
    let sidx = if is_listed { full(b"sidx", 0, 0, &references) } else { boxed(b"free", &[]) };
    [init(&[Track::default()]), sidx, fragments.concat()].concat()
}

#[test]
fn an_object_is_indexed_as_its_file_is() {
    for s3 in S3::both("preparing") {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "100% (film).cmfv";
        fs::write(dir.path().join(name), film_file("film-avc1-400k.cmfv")).expect("a file");
        let key = escape(format!("é +/{name}").as_bytes());
        s3.put(&key, &film_file("film-avc1-400k.cmfv"), &[]);
        let uspcache = |arguments: &[&str]| run(with_keys(s3.keys(), &s3.endpoint(), dir.path(), arguments));
        let index = format!("{}é +/a-index.mp4", s3.name());
        let made = uspcache(&["index", "-o", &index, &format!("{}é +/{name}", s3.name())]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let verified = uspcache(&["verify-index", &index, "--json"]);
        assert!(verified.code == Some(0) && verified.out.contains(r#""fits":true"#), "{verified:?}");
        assert_eq!(uspcache(&["index", "-o", "a-index.mp4", name]).code, Some(0));
        // The reference is spelt alike for objects and files but for what either may leave plain.
        let reference = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("%28", "(").replace("%29", ")");
        let (there, here) = (
            s3.get(&escape("é +/a-index.mp4".as_bytes())),
            fs::read(dir.path().join("a-index.mp4")).expect("it was made"),
        );
        let tables = |index: &[u8]| {
            let at = index.windows(4).position(|window| window == b"stbl").expect("tables");
            index[at..].windows(4).position(|window| window == b"uuid").map(|len| index[at..at + len - 4].to_vec())
        };
        assert_eq!(tables(&there), tables(&here));
        for index in [&there, &here] {
            assert!(reference(index).contains("\0\0\0\0100%25%20(film).cmfv\0"), "{:?}", s3.kind);
        }
        // The index fits the file, too, of which nobody knows an ETag.
        fs::write(dir.path().join("a-index.mp4"), there).expect("a file");
        assert_eq!(uspcache(&["verify-index", "a-index.mp4"]).out, "a-index.mp4: fits\n");
        // Where the object has changed, the index no longer fits it.
        s3.put(&key, &film_file("film-avc1-1000k.cmfv"), &[]);
        let verified = uspcache(&["verify-index", &index]);
        assert!(
            verified.code == Some(1) && verified.out.contains("the media had 113646 bytes and has"),
            "{verified:?}"
        );
    }
}

#[test]
fn little_is_read_of_an_object_and_much_of_it_at_once() {
    for (is_listed, requests_max) in [(true, 203), (false, 202)] {
        let storage = Storage::start();
        let film = film(is_listed);
        storage.put(MEDIA, Object::new(film.clone()));
        storage.delay(std::time::Duration::from_millis(5));
        let dir = tempfile::tempdir().expect("a directory");
        let made = run(on(&storage, dir.path(), &["index", "-o", "a.mp4", "s3://media/dir/film.cmfv"]));
        assert!(made.code == Some(0) && made.out.starts_with("a.mp4: 1 tracks, 9"), "{made:?}");
        let (requests, bytes) = (storage.fetches(MEDIA).len(), storage.bytes_sent(MEDIA));
        assert!(requests <= requests_max, "listed: {is_listed}: {requests} requests");
        assert!(bytes * 100 < film.len(), "listed: {is_listed}: {bytes} bytes of {}", film.len());
        if is_listed {
            assert!(storage.most_at_once(MEDIA) >= 8, "{} at once", storage.most_at_once(MEDIA));
        }
        let etag = storage.versions(MEDIA)[0].etag();
        let named = storage.fetches(MEDIA)[1..].iter().all(|asked| asked.field("If-Match") == Some(etag.clone()));
        assert!(named, "each request names the version");
    }
}

#[test]
fn what_passes_or_can_be_learned_does_no_harm() {
    let rows = [Fault::Status(503), Fault::ResetAfter(100), Fault::Clock(7200), Fault::Region("eu-west-1")];
    for fault in rows {
        let storage = Storage::start();
        storage.put(MEDIA, Object::new(film(true)));
        let passes = matches!(fault, Fault::Status(_) | Fault::ResetAfter(_));
        match passes {
            true => storage.fail_some(MEDIA, Whom::Everyone, ..=2, fault.clone()),
            false => storage.fail(MEDIA, Whom::Everyone, fault.clone()),
        }
        let dir = tempfile::tempdir().expect("a directory");
        let made = run(on(&storage, dir.path(), &["index", "-o", "a.mp4", "s3://media/dir/film.cmfv"]));
        assert_eq!(made.code, Some(0), "{fault:?}: {made:?}");
    }
}

#[test]
fn what_storage_refuses_is_told_and_the_index_there_was_stays() {
    let rows = [
        (Fault::Status(404), "no such object"),
        (Fault::Status(403), "storage answered 403; the keys of the environment, profile or instance may not do this"),
        (Fault::Status(500), "storage answered 500"),
        (
            Fault::Ignores("Range"),
            "storage's answer does not fit: the server ignores Range: download the file, and use that",
        ),
        (Fault::OtherTotal(12_345_678), "it changes while it is fetched"),
    ];
    for (fault, want) in rows {
        let storage = Storage::start();
        storage.put(MEDIA, Object::new(film(true)));
        let is_late = matches!(fault, Fault::OtherTotal(_));
        storage.fail_some(MEDIA, Whom::Everyone, 1 + usize::from(is_late).., fault.clone());
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("a.mp4"), "old").expect("a file");
        let made = run(on(&storage, dir.path(), &["index", "-o", "a.mp4", "s3://media/dir/film.cmfv"]));
        assert!(made.code == Some(3) && made.err.contains(want), "{fault:?}: {made:?}");
        assert!(made.err.starts_with("uspcache: s3://media/dir/film.cmfv: "), "{made:?}");
        assert_eq!(fs::read(dir.path().join("a.mp4")).ok().as_deref(), Some(b"old".as_slice()));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }
}

#[test]
fn an_object_that_changes_while_it_is_read_gives_no_index() {
    let storage = Storage::start();
    storage.put(MEDIA, Object::new(film(false)));
    storage.fail(MEDIA, Whom::Everyone, Fault::HoldFrom(3));
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = on(&storage, dir.path(), &["index", "-o", "a.mp4", "s3://media/dir/film.cmfv"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let indexing = thread::spawn(move || run(command));
    storage.wait_for_fetches(MEDIA, 3);
    let mut other = film(false);
    other[500_000] ^= 1;
    storage.put(MEDIA, Object::new(other));
    storage.release(MEDIA);
    let made = indexing.join().expect("it ends");
    assert!(made.code == Some(3) && made.err.contains("it changes while it is fetched"), "{made:?}");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[test]
fn keys_sign_for_the_endpoint_and_for_nobody_else() {
    let (storage, other) = (Storage::start(), Storage::start());
    let dir = tempfile::tempdir().expect("a directory");
    for storage in [&storage, &other] {
        storage.put(MEDIA, Object::new(film(true)));
    }
    let urls = [format!("http://{}{MEDIA}", storage.host()), format!("http://{}{MEDIA}", other.host())];
    let made = run(on(&storage, dir.path(), &["index", "-o", "a.mp4", &urls[0], &urls[1]]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let index = fs::read(dir.path().join("a.mp4")).expect("it was made");
    let text = String::from_utf8_lossy(&index);
    assert!(urls.iter().all(|url| text.contains(&format!("{url}\0"))), "what is on a web server is named by its URL");
    assert!(storage.fetches(MEDIA).iter().all(|asked| asked.key_id().as_deref() == Some(KEY_ID)));
    assert!(other.fetches(MEDIA).iter().all(|asked| asked.key_id().is_none()));
    let rows = [
        ("s3://media", "uspcache: s3://media names no object"),
        ("s3://media/dir/", "uspcache: s3://media/dir/ names no object"),
        (
            "http://h/a.mp4?X-Amz-Signature=1",
            "uspcache: http://h/a.mp4?X-Amz-Signature=1 is signed; leave the signature out",
        ),
        ("http://h/a.mp4?acl", "uspcache: http://h/a.mp4?acl: its query asks for something other than the object"),
    ];
    for (input, want) in rows {
        let refused = run(on(&storage, dir.path(), &["index", "-o", "b.mp4", input]));
        assert!(refused.code == Some(2) && refused.err.starts_with(want), "{input}: {refused:?}");
    }
    let apart = run(on(&storage, dir.path(), &["index", "-o", "s3://one/a.mp4", "s3://other/b.cmfv"]));
    let want =
        "uspcache: no reference leads from s3://one/a.mp4 to s3://other/b.cmfv: they are to lie in the same bucket\n";
    assert_eq!((apart.code, apart.err.as_str()), (Some(2), want));
}
