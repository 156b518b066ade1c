//! Fills that somebody has left behind.

use super::*;
use crate::semantics::range::ByteRange;
use crate::store::Fill;
use crate::store::fill::Landing;
use crate::store::format::{BLOCK_LEN, Meta};

/// Twelve blocks.
const LEN: usize = 3 << 20;

impl Case {
    /// Leaves a fill of a version whose first `blocks` blocks are there.
    fn leave(&self, body: &[u8], blocks: usize, etag: Option<&str>) {
        let store = &self.cache.store;
        let lock = Arc::new(store.lock(&self.name()).expect("a lock file").expect("nobody fills"));
        let meta = Meta {
            url: self.key.url().into(),
            scope: self.key.scope().into(),
            body_len: body.len() as u64,
            fetched_at_ms: now_ms(),
            purges: store.control().purge_mark(&self.name()),
            fields: etag.map(|etag| ("ETag".into(), etag.into())).into_iter().collect(),
            ..Meta::default()
        };
        let fill = Fill::begin(&lock, &meta).expect("there is room");
        let end = (blocks * BLOCK_LEN as usize).min(body.len());
        Landing::new(&fill, 0).write(&body[..end]).expect("written");
        fill.keep();
    }

    fn left(&self) -> std::path::PathBuf {
        self.dir.path().join("v1/fills").join(self.name().file())
    }
}

/// The bytes of an answer that is whole.
fn bytes(found: &Found) -> Option<&[u8]> {
    let version = match found {
        Found::Entry(version, _) => version,
        Found::Filling(stream, _) => stream.version(),
        _ => return None,
    };
    let all = 0..version.len();
    version.check(&all).ok().and_then(|()| version.body(&all))
}

#[test]
fn an_object_that_has_shrunk_since_is_filled_anew() {
    // A 416 to what was asked for by the left fill's length was an answer, again and again.
    for asked in [Asked::One(ByteRange::Last(100)), Asked::Whole] {
        let body = vec![7; 100_000];
        let storage = Storage::with(&body, "\"2\"", "");
        let case = Case::new(storage.port, Section::default());
        case.leave(&vec![1; LEN], 2, Some("\"1\""));
        let found = case.find_part(&case.section, asked);
        assert_eq!(outcome(&found), "100000 bytes, fwd=uri-miss; fwd-status=200; stored", "{asked:?}");
        assert!(bytes(&found) == Some(&body), "{asked:?}");
    }
}

#[test]
fn a_stream_does_not_begin_with_a_version_that_storage_no_longer_has() {
    // It began with the blocks that were there, and broke off behind them.
    for (left, now) in [(None, "W/\"1\""), (Some("\"1\""), "\"2\""), (Some("W/\"1\""), "W/\"1\"")] {
        let body = vec![7; LEN];
        let storage = Storage::with(&body, now, "");
        let case = Case::new(storage.port, Section::default());
        case.leave(&vec![1; LEN], 2, left);
        let want = Want { asked: Asked::Whole, streams: true };
        let ask = Ask { key: &case.key, section: &case.section, want, base: None, may_fill: true, now_ms: now_ms() };
        let mut sent = Vec::new();
        match case.cache.find(&ask) {
            Found::Filling(stream, _) => {
                while let rest @ 0.. = sent.len() as u64
                    && rest < LEN as u64
                {
                    let wait::Piece::Bytes(piece) = stream.read(&(rest..LEN as u64), true) else { break };
                    sent.extend_from_slice(piece);
                }
            }
            found => sent.extend_from_slice(bytes(&found).unwrap_or_default()),
        }
        assert!(sent == body, "{left:?}, then {now}: {} bytes", sent.len());
    }
}

#[test]
fn a_left_fill_that_is_whole_is_proved_before_it_is_published() {
    // "hello" has this MD5. What a filler leaves that dies before its proof is as good as any other.
    const ETAG: &str = "\"5d41402abc4b2a76b9719d911017c592\"";
    for left in ["jello", "longer than hello"] {
        let storage = Storage::with(b"hello", ETAG, "");
        let case = Case::new(storage.port, Section::default());
        case.leave(left.as_bytes(), 1, Some(ETAG));
        let found = case.find();
        assert!(bytes(&found).is_none_or(|bytes| bytes == b"hello"), "{left}: {}", outcome(&found));
        case.settle();
        let entry = case.cache.on_disk(&case.key, &case.name()).expect("an answer");
        assert!(entry.is_none_or(|entry| entry.body(&(0..entry.len())) == Some(b"hello")), "{left}");
    }
}

#[test]
fn a_left_fill_that_is_whole_takes_the_place_of_a_stale_entry_and_is_not_fetched_again() {
    // It stood beside the entry for ever: storage's answer brought nothing that was missing.
    let body = vec![7; LEN];
    let new = body.clone();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let storage = Storage::answering(move |number, head| match number {
        0 => OK.into(),
        _ => {
            let answer = part_of(&new, head, "\"2\"", "");
            count.fetch_add(answer.len(), Ordering::SeqCst);
            answer
        }
    });
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.age(7200 + 400);
    case.leave(&body, LEN, Some("\"2\""));
    let found = case.find();
    assert_eq!(outcome(&found), format!("{LEN} bytes, fwd=stale; fwd-status=200; stored"));
    assert!(bytes(&found) == Some(&body));
    case.settle();
    assert!(!case.left().exists() && case.outcome().contains("hit; ttl=7"));
    assert_eq!((storage.asked(), sent.load(Ordering::SeqCst) / BLOCK_LEN as usize), (2, 1));
}

#[test]
fn a_fill_that_has_just_failed_is_not_gone_on_with_by_who_saw_it_alive() {
    // Who found its lock free a moment after had storage asked once more.
    let storage = Storage::with(&vec![7; LEN], "\"1\"", "");
    let case = Case::new(storage.port, Section::default());
    case.leave(&vec![7; LEN], 2, Some("\"1\""));
    let order = Arc::new(case.order());
    let fill = case.cache.store.fill(order.sought()).expect("an answer").expect("it was left");
    let now = now_ms();
    for (since_ms, noted) in [(Some(now), true), (None, true), (Some(now), false)] {
        if noted {
            let note = Note::Pass(Reason::Failed).encode(now_ms(), now_ms() + FAILED_MS);
            case.cache.store.control().put_note(&order.digest, note);
        } else {
            case.cache.store.control().forget_note(&order.digest);
        }
        let follower = wait::Follower { cache: &case.cache, order: &order, since_ms };
        follower.look_around(&fill);
        case.settle();
        assert_eq!(storage.asked() > 0, !noted, "{since_ms:?}");
    }
}

#[test]
fn a_left_fill_that_was_given_up_and_is_damaged_is_gone_on_with() {
    use std::os::unix::fs::FileExt as _;
    let body = vec![7; LEN];
    let storage = Storage::with(&body, "\"1\"", "");
    let case = Case::new(storage.port, Section::default());
    case.leave(&body, LEN, Some("\"1\""));
    let lock = case.cache.store.lock(&case.name()).expect("a lock file").expect("nobody fills");
    Fill::mark_left(&lock, case.key.url(), case.key.scope()).expect("marked");
    drop(lock);
    let file = std::fs::File::options().write(true).open(case.left()).expect("it was left");
    let body_at = file.metadata().expect("it has a length").len() - LEN as u64;
    file.write_all_at(b"flipped", body_at + 5 * BLOCK_LEN).expect("written");
    let found = case.find();
    assert!(bytes(&found) == Some(&body), "{}", outcome(&found));
    assert_eq!(storage.asked(), 1, "of one block");
}
