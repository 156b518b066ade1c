//! Content that is prepared where it lies: `uspcache index` and its like on objects in storage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use mod_usp_storage_cache::manifest::read::read as read_manifest;
use serde_json::Value;

use crate::cli::{Ran, ran, uspcache};
use crate::client::Request;
use crate::made::{Track, boxed, full, init, mdat, moof};
use crate::origin::{Sub, escape};
use crate::rows::{agreed, index_of};
use crate::s3::{Kind, S3, film_file};
use crate::server::{Conf, Httpd};
use crate::signing::conf;
use crate::site::{STORED, is_hit};
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
        let (there, here) = (
            s3.get(&escape("é +/a-index.mp4".as_bytes())),
            fs::read(dir.path().join("a-index.mp4")).expect("it was made"),
        );
        assert_eq!(agreed(&there), agreed(&index_of(&film_file("film-avc1-400k.cmfv"))));
        for index in [&there, &here] {
            assert!(String::from_utf8_lossy(index).contains("\0\0\0\x00100%25%20(film).cmfv\0"), "{:?}", s3.kind);
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

/// What `prepare` did, by the ends of names.
fn done(ran: &Ran) -> BTreeMap<String, String> {
    let one = |report: Value| {
        let text = |key: &str| report[key].as_str().expect("a text").to_owned();
        (text("file").rsplit_once("/prepared/").expect("below the prefix").1.to_owned(), text("done"))
    };
    ran.json().into_iter().map(one).collect()
}

fn names(what: &[(&str, &str)]) -> BTreeMap<String, String> {
    what.iter().map(|(name, done)| ((*name).to_owned(), (*done).to_owned())).collect()
}

#[test]
fn what_a_bucket_lacks_is_made_and_what_fits_is_left_alone() {
    for s3 in S3::both("prepared") {
        let dir = tempfile::tempdir().expect("a directory");
        let media = ["film-avc1-400k.cmfv", "film-aac-128k.cmfa"];
        for name in media {
            s3.put(&format!("solaris/{name}"), &film_file(name), &[]);
        }
        s3.put("solaris/notes.txt", b"no media", &[]);
        s3.put("other/no%20fragments.mp4", &film_file("film-aac-128k-index.mp4"), &[]);
        let prepare = |arguments: &[&str]| {
            let name = s3.name();
            let arguments = [&["prepare", "--json", name.trim_end_matches('/')], arguments].concat();
            run(with_keys(s3.keys(), &s3.endpoint(), dir.path(), &arguments))
        };
        // What was prepared as files fits as objects, whatever it is called.
        let local = dir.path().join("odd");
        fs::create_dir(&local).expect("a directory");
        for (name, file) in [("f (1).cmfv", media[0]), ("a+b's.cmfa", media[1])] {
            fs::write(local.join(name), film_file(file)).expect("a file");
        }
        assert_eq!(run(in_dir(dir.path(), &["prepare", "odd"])).code, Some(0));
        for file in fs::read_dir(&local).expect("a directory").flatten() {
            let name = file.file_name().into_string().expect("UTF-8");
            s3.put(&escape(format!("odd/{name}").as_bytes()), &fs::read(file.path()).expect("a file"), &[]);
        }
        let odd = format!("{}odd/", s3.name());
        let kept = run(with_keys(s3.keys(), &s3.endpoint(), dir.path(), &["prepare", &odd]));
        assert!(kept.code == Some(0) && kept.out.lines().count() == 3, "{kept:?}");
        assert!(kept.out.lines().all(|line| line.starts_with("kept ")), "{kept:?}");
        for name in ["odd/f%20%281%29-index.mp4", "odd/a%2Bb%27s-index.mp4", "odd/odd.ism"] {
            s3.delete(name);
        }
        for name in ["odd/f%20%281%29.cmfv", "odd/a%2Bb%27s.cmfa"] {
            s3.delete(name);
        }
        let indexes = ["solaris/film-avc1-400k-index.mp4", "solaris/film-aac-128k-index.mp4"];
        let all = |done| {
            names(&[
                (indexes[0], done),
                (indexes[1], done),
                ("solaris/solaris.ism", done),
                ("other/no fragments.mp4", "skipped"),
            ])
        };
        for (arguments, want) in [(&["-n"][..], "would-make"), (&[], "made"), (&[], "kept"), (&["--dry-run"], "kept")] {
            let prepared = prepare(arguments);
            assert_eq!((prepared.code, done(&prepared)), (Some(0), all(want)), "{:?}: {prepared:?}", s3.kind);
        }
        let manifest = read_manifest(&s3.get("solaris/solaris.ism")).expect("a manifest");
        let named: Vec<_> = manifest.tracks.iter().map(|track| track.src.as_str()).collect();
        assert_eq!(named, ["film-aac-128k-index.mp4", "film-avc1-400k-index.mp4"]);

        // Other media under the old name: its index and the manifest are made anew.
        s3.put(&format!("solaris/{}", media[0]), &film_file("film-avc1-1000k.cmfv"), &[]);
        let mut want = all("kept");
        want.extend(names(&[(indexes[0], "made"), ("solaris/solaris.ism", "made")]));
        assert_eq!(done(&prepare(&[])), want);
        assert_eq!(agreed(&s3.get(indexes[0])), agreed(&film_file("film-avc1-1000k-index.mp4")));

        // What somebody has written into the manifest stays, and where it lacks a file that is told.
        let keyed = |bytes: Vec<u8>| {
            String::from_utf8(bytes).expect("UTF-8").replace("</head>", "<meta name=\"key\" content=\"K\" /></head>")
        };
        let edited = keyed(s3.get("solaris/solaris.ism"));
        s3.put("solaris/solaris.ism", edited.as_bytes(), &[]);
        assert_eq!(done(&prepare(&[])), all("kept"));
        s3.put("solaris/more.cmfa", &film_file("film-aac-128k.cmfa"), &[]);
        let refused = prepare(&[]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert_eq!(done(&refused)["solaris/solaris.ism"], "refused");
        assert_eq!(s3.get("solaris/solaris.ism"), edited.as_bytes());
        assert_eq!((prepare(&["--force"]).code, prepare(&[]).code), (Some(0), Some(0)));
        // An index of something else is not taken for one that is out of date.
        s3.put(indexes[1], &s3.get(indexes[0]), &[]);
        let refused = prepare(&[]);
        assert_eq!((refused.code, done(&refused)[indexes[1]].as_str()), (Some(3), "refused"), "{refused:?}");
    }
}

#[test]
fn a_listing_of_several_pages_is_read_to_its_end() {
    for s3 in S3::both("pages") {
        let dir = tempfile::tempdir().expect("a directory");
        // curl puts it under 1200 names.
        s3.put("a%26b/[0-1199].txt", b"no media", &[]);
        s3.put("a%26b/z.cmfa", &film_file("film-aac-128k.cmfa"), &[]);
        let name = s3.name();
        let prepared = run(with_keys(s3.keys(), &s3.endpoint(), dir.path(), &["prepare", "-n", &name]));
        let want = format!("would make {name}a&b/z-index.mp4\nwould make {name}a&b/a&b.ism\n");
        assert_eq!((prepared.code, prepared.out.as_str()), (Some(0), want.as_str()), "{:?}: {prepared:?}", s3.kind);
    }
}

#[test]
fn what_somebody_else_has_put_there_meanwhile_stays() {
    let listing = "<ListBucketResult><Contents><Key>a.cmfa</Key><Size>1</Size></Contents></ListBucketResult>";
    // What storage answers to a PUT that wants to be the first, and how many it gets.
    for (status, puts, want) in
        [(412, 1, "has changed meanwhile"), (409, 1, "has changed meanwhile"), (501, 2, "no such")]
    {
        let storage = Storage::start();
        storage.put("/media/", Object::new(listing));
        storage.put("/media/a.cmfa", Object::new(film_file("film-aac-128k.cmfa")));
        // The first request looks whether it is there.
        storage.fail_some("/media/a-index.mp4", Whom::Everyone, 2..=2, Fault::Status(status));
        let dir = tempfile::tempdir().expect("a directory");
        let prepared = run(on(&storage, dir.path(), &["prepare", "s3://media/"]));
        let want = format!("uspcache: s3://media/a-index.mp4: s3://media/a-index.mp4: {want}");
        assert!(prepared.code == Some(3) && prepared.err.starts_with(&want), "{status}: {prepared:?}");
        let asked = storage.fetches("/media/a-index.mp4");
        let conditions: Vec<_> =
            asked.iter().filter(|asked| asked.method == "PUT").map(|asked| asked.field("If-None-Match")).collect();
        assert_eq!(conditions, [Some("*".into()), None][..puts], "{status}");
    }
}

#[test]
fn names_of_every_kind_are_listed() {
    for s3 in S3::both("odd-names") {
        let dir = tempfile::tempdir().expect("a directory");
        let stems = ["a b", "a+b", "100%", "a&b<c>\"'", "\u{e9}", "a%2Bb", "a\u{1}b"];
        // s3s-fs takes no name with a control character.
        let stems = if s3.kind == Kind::SeaweedFs { &stems[..] } else { &stems[..6] };
        for stem in stems {
            s3.put(&format!("x/{}", escape(format!("{stem}.cmfa").as_bytes())), &film_file("film-aac-128k.cmfa"), &[]);
        }
        let prepared = run(with_keys(s3.keys(), &s3.endpoint(), dir.path(), &["prepare", "-n", "--json", &s3.name()]));
        let made: Vec<_> = prepared.json().iter().map(|report| report["file"].as_str().map(str::to_owned)).collect();
        for stem in stems {
            let want = format!("{}x/{stem}-index.mp4", s3.name());
            assert!(made.contains(&Some(want.clone())), "{:?}: {want}: {prepared:?}", s3.kind);
        }
    }
}

#[test]
fn from_media_to_samples_the_whole_way() {
    let s3 = S3::of_this_run("whole-way");
    let dir = tempfile::tempdir().expect("a directory");
    let media = ["film-avc1-400k", "film-avc1-1000k", "film-aac-128k"];
    let mut inputs = Vec::new();
    for stem in media {
        let name = format!("{stem}.{}", if stem.contains("aac") { "cmfa" } else { "cmfv" });
        fs::write(dir.path().join(&name), film_file(&name)).expect("a file");
        s3.put(&name, &film_file(&name), &[]);
        let index = format!("{stem}-index.mp4");
        let made = run(in_dir(dir.path(), &["mp4split", "-o", &index, "--use_dref_no_subs", &name]));
        assert_eq!(made.code, Some(0), "{made:?}");
        inputs.push(index);
    }
    let line =
        [&["mp4split", "-o", "film.ism"], inputs.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat();
    assert_eq!(run(in_dir(dir.path(), &line)).code, Some(0));
    for name in inputs.iter().map(String::as_str).chain(["film.ism"]) {
        s3.put(name, &fs::read(dir.path().join(name)).expect("it was made"), &[]);
    }

    let httpd = Httpd::start(Conf::new(conf(&s3, &s3.lines(true))));
    // As the origin does: the manifest and the indexes in ranges by sub-requests, then the media.
    let in_ranges = |name: &str| {
        let whole = |from: usize| {
            Sub::get(format!("/{name}")).by_hand().range(format!("bytes={from}-{}", from + 699)).run(&httpd)
        };
        let mut body = Vec::new();
        loop {
            let answer = whole(body.len());
            assert!([206, 416].contains(&answer.status()), "{name}: {}", answer.status());
            let is_stored = |status: &str| is_hit(status) || status == STORED;
            assert!(
                is_stored(&answer.cache_status())
                    || answer.cache_status().starts_with("usp-storage-cache; fwd=uri-miss"),
                "{name}: {}",
                answer.cache_status()
            );
            if answer.status() == 416 {
                break;
            }
            body.extend_from_slice(answer.body());
            if answer.body().len() < 700 {
                break;
            }
        }
        body
    };
    let manifest = read_manifest(&in_ranges("film.ism")).expect("a manifest");
    assert_eq!(manifest.tracks.len(), media.len());
    for track in &manifest.tracks {
        let index = in_ranges(&track.src);
        let stem = track.src.strip_suffix("-index.mp4").expect("an index's name");
        let found = media_of(&index);
        assert!(found.starts_with(stem), "{} names {found}", track.src);
        let (source, golden) = (film_file(&found), film_file(&track.src));
        let (rows, want) = (agreed(&index), agreed(&golden));
        assert_eq!(rows, want, "{}: every sample is where GPAC finds it", track.src);
        let mut connection = httpd.connect();
        for row in &rows[0] {
            let last = row.offset + u64::from(row.size) - 1;
            let request = Request::get(format!("/store/{found}")).range(format!("bytes={}-{last}", row.offset));
            let answer = connection.exchange(&request).expect("it is answered");
            assert_eq!(answer.status, 206);
            assert!(answer.body == source[row.offset as usize..=last as usize], "{found} at {}", row.offset);
        }
    }
    assert_eq!(httpd.crashes(), 0);
}

/// The command in a directory, without storage.
fn in_dir(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = uspcache(arguments);
    command.current_dir(dir);
    command
}

/// What an index refers to.
fn media_of(index: &[u8]) -> String {
    let at = index.windows(4).position(|window| window == b"url ").expect("a reference") + 8;
    let len = index[at..].iter().position(|byte| *byte == 0).expect("its end");
    String::from_utf8(index[at..at + len].to_vec()).expect("UTF-8")
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
        assert!(made.code == Some(0) && made.out.starts_with("a.mp4: 1 track, 9"), "{made:?}");
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
        (Fault::NewEtags, "it changes while it is fetched"),
        (Fault::Raw(b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-9999999999/10000000000\r\nContent-Length: 10000000000\r\n\r\n".into()), "it is not the part that was asked for"),
        (Fault::Raw(b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-4095/18446744073709551615\r\nContent-Length: 4096\r\n\r\n".into()), "storage's answer broke off"),
    ];
    for (fault, want) in rows {
        let storage = Storage::start();
        storage.put(MEDIA, Object::new(film(true)));
        let is_late = matches!(fault, Fault::OtherTotal(_));
        if matches!(fault, Fault::NewEtags) {
            storage.ignore("If-Match");
        }
        storage.fail_some(MEDIA, Whom::Everyone, 1 + usize::from(is_late).., fault.clone());
        let dir = tempfile::tempdir().expect("a directory");
        let old = film_file("film-aac-128k-index.mp4");
        fs::write(dir.path().join("a.mp4"), &old).expect("a file");
        let made = run(on(&storage, dir.path(), &["index", "-o", "a.mp4", "s3://media/dir/film.cmfv"]));
        assert!(made.code == Some(3) && made.err.contains(want), "{fault:?}: {made:?}");
        assert!(!made.err.contains("panicked"), "{made:?}");
        assert!(made.err.starts_with("uspcache: s3://media/dir/film.cmfv: "), "{made:?}");
        assert_eq!(fs::read(dir.path().join("a.mp4")).ok(), Some(old));
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
        ("s3://media/a/../b.mp4", "uspcache: http://127.0.0.1:"),
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
