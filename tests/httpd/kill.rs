//! Children that are killed while they fill: answers are right or visibly cut, nobody hangs, and what was on disk stays.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Request, Response};
use crate::content::{Random, content};
use crate::filling::{Moment, fillers, kill};
use crate::server::Mpm;
use crate::site::{Site, is_ours, sub};
use crate::storage::Object;
use crate::wait::{rounds, until};

const LINES: &str = "UspStorageCachePartSize 512K\nUspStorageCacheFillThreads 4\nUspStorageCacheWait 3\n\
                     UspStorageCachePrefetch off";
/// No multiple of a block.
const LENGTH: usize = 6_000_000;
/// What nobody's answer takes longer than: the wait, and all that a loaded machine adds to it.
const PATIENCE: Duration = Duration::from_secs(3 + 12);

/// What a client asks for while the filler is killed.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Whole,
    Main(usize),
    Sub(usize),
}

impl Wish {
    const LEN: usize = 300_000;

    fn any(random: &mut Random) -> Self {
        let from = random.below(LENGTH - Self::LEN);
        [Self::Whole, Self::Main(from), Self::Sub(from)][random.below(3)]
    }

    fn request(self, path: &str) -> Request {
        let range = |from: usize| format!("bytes={from}-{}", from + Self::LEN - 1);
        match self {
            Self::Whole => Request::get(format!("/store{path}")),
            Self::Main(from) => Request::get(format!("/store{path}")).range(range(from)),
            Self::Sub(from) => sub(path).range(range(from)).request(),
        }
    }

    /// Asks; a whole answer is right, and one that is not whole is seen to be so.
    fn come_true(self, site: &Site, path: &str, body: &[u8]) -> io::Result<Response> {
        let began = Instant::now();
        let answer = client::fetch(site.httpd.port, self.request(path));
        assert!(began.elapsed() < PATIENCE, "{self:?} of {path} took {:?}", began.elapsed());
        if let Ok(answer) = &answer {
            let want = match self {
                Self::Whole => body,
                Self::Main(from) | Self::Sub(from) => &body[from..from + Self::LEN],
            };
            assert!(matches!(answer.status, 200 | 206) && answer.body == want, "{self:?} of {path} is wrong");
        }
        answer
    }
}

/// Kills whoever fills once so many bytes have left storage; gives what was on disk just before.
fn kill_after(site: &Site, path: &str, bytes: usize) -> Option<Moment> {
    until("bytes to leave storage", 20, || (site.storage.bytes_sent(path) > bytes).then_some(()));
    // What is on disk stays so: the moment may be before the kill, but not after.
    let moment = Moment::now(site, path)?;
    let pids = fillers(&site.httpd);
    kill(&pids);
    (!pids.is_empty()).then_some(moment)
}

fn killed_again_and_again(mpm: Mpm, children: u32, threads: u32, count: usize) {
    let site = Site::wide(mpm, children, threads, LINES);
    site.storage.pace(5_000_000);
    let mut random = Random::new(60);
    let (mut killed, mut kept) = (0, 0);
    for round in 0..count {
        let path = format!("/{round}.mp4");
        let body = content(round as u64, LENGTH);
        site.storage.put(&path, Object::new(body.clone()));
        let wishes: Vec<Wish> = (0..4).map(|_| Wish::any(&mut random)).collect();
        let after = random.below(LENGTH);
        let moment = thread::scope(|scope| {
            for wish in wishes {
                let (site, path, body) = (&site, &path, &body);
                scope.spawn(move || wish.come_true(site, path, body));
            }
            kill_after(&site, &path, after)
        });
        let whole = Wish::Whole.come_true(&site, &path, &body).expect("nobody kills this one's child");
        assert!(is_ours(&whole.cache_status()), "{path}: {}", whole.cache_status());
        site.wait_for_entry(&path);
        if let Some(moment) = moment {
            moment.nothing_came_again(&site, &path);
            (killed, kept) = (killed + 1, kept + moment.landed.len());
        }
    }
    assert!(killed * 2 > count && kept > killed, "{killed} of {count} killed, with {kept} blocks");
}

#[test]
fn a_child_of_worker_that_is_killed_while_it_fills_costs_no_byte_that_was_on_disk() {
    killed_again_and_again(Mpm::Worker, 3, 16, rounds(20, 200));
}

#[test]
fn a_child_of_prefork_that_is_killed_while_it_fills_costs_no_byte_that_was_on_disk() {
    killed_again_and_again(Mpm::Prefork, 6, 1, rounds(10, 200));
}
