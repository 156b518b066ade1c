//! Counting over several processes, and over files that are lost or damaged.

use std::fs;
use std::os::fd::AsFd as _;
use std::thread;

use tempfile::TempDir;

use super::*;

const MINUTE: u64 = 60_000;

struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    /// The counters of another process, as it were.
    fn counters(&self) -> Counters {
        let counters = Counters::new();
        self.refresh(&counters);
        counters
    }

    fn refresh(&self, counters: &Counters) {
        let v1 = File::open(self.0.path()).expect("it opens");
        let locks = File::options().create(true).truncate(false).write(true).open(self.0.path().join("locks"));
        counters.refresh(v1.as_fd(), &locks.expect("a file")).expect("it is there or made");
    }
}

fn hits(counters: &Counters) -> u64 {
    counters.counted(0).map_or(0, |counted| counted.totals.hits())
}

fn hit(counters: &Counters) {
    counters.add_named(Kind::Requests, "hit");
}

#[test]
fn what_many_threads_of_many_processes_count_is_there_once() {
    let dir = Dir::new();
    let processes = [dir.counters(), dir.counters(), dir.counters()];
    thread::scope(|scope| {
        for counters in &processes {
            for _ in 0..10 {
                scope.spawn(|| (0..1000).for_each(|_| hit(counters)));
            }
            scope.spawn(|| (0..100).for_each(|_| counters.flush()));
        }
    });
    processes.iter().for_each(Counters::flush);
    processes.iter().for_each(Counters::flush);
    assert_eq!(hits(&dir.counters()), 30_000);
}

#[test]
fn a_file_that_is_lost_or_damaged_is_begun_anew_and_nobody_counts_twice() {
    let damages: [fn(&std::path::Path); 4] = [
        |path| fs::remove_file(path).expect("it is there"),
        |path| fs::write(path, "short").expect("it can be written"),
        |path| fs::write(path, vec![0; LEN as usize]).expect("it can be written"),
        |path| {
            fs::remove_file(path).expect("it is there");
            fs::create_dir(path).expect("a directory");
        },
    ];
    for (row, damage) in damages.iter().enumerate() {
        let dir = Dir::new();
        let counters = dir.counters();
        hit(&counters);
        counters.flush();
        // Another file, as if it came from elsewhere: this one stays mapped and whole.
        let path = dir.0.path().join(COUNTERS);
        fs::rename(&path, dir.0.path().join("away")).expect("it is there");
        fs::write(&path, "").expect("it can be written");
        damage(&path);
        hit(&counters);
        dir.refresh(&counters);
        counters.flush();
        assert_eq!(hits(&counters), 1, "row {row}");
        assert_eq!(hits(&dir.counters()), 1, "row {row}");
    }
}

#[test]
fn nothing_is_lost_while_there_is_no_file() {
    let (dir, counters) = (Dir::new(), Counters::new());
    hit(&counters);
    counters.flush();
    assert!(counters.counted(0).is_none());
    dir.refresh(&counters);
    counters.flush();
    assert_eq!(hits(&counters), 1);
}

#[test]
fn each_minute_has_what_it_brought_whoever_leads() {
    let dir = Dir::new();
    let (one, other) = (dir.counters(), dir.counters());
    one.keep_minutes(1000 * MINUTE);
    for (counters, minute, count) in [(&one, 1001, 3_u64), (&other, 1002, 5), (&other, 1004, 7)] {
        (0..count).for_each(|_| hit(&one));
        one.own().took(Measure::Hit, Duration::from_micros(count));
        one.add(Kind::ServedBytes, count * 100);
        one.flush();
        counters.keep_minutes(minute * MINUTE);
    }
    hit(&other);
    other.flush();
    let counted = one.counted(1004 * MINUTE).expect("a file");
    let rows: Vec<_> = counted.minutes.iter().map(|row| (row.at, row.hits, row.served)).collect();
    // Nobody led from 1003 on.
    assert_eq!(rows, [(1000, 3, 300), (1001, 5, 500), (1002, 7, 700), (1004, 1, 0)]);
    let [median, high] = counted.minutes[0].hit_ns.expect("it was measured");
    assert!(median <= high && (2250..=3750).contains(&high), "{median} {high}");
    assert_eq!(counted.minutes[3].hit_ns, None);
    // A day later they have gone; what is under way stays.
    let later = one.counted((1004 + MINUTES) * MINUTE).expect("a file");
    assert_eq!(later.minutes.iter().map(|row| row.at).collect::<Vec<_>>(), [1004]);
}

#[test]
fn a_clock_that_is_set_back_begins_another_minute() {
    let dir = Dir::new();
    let counters = dir.counters();
    for minute in [1000, 1001, 900, 901] {
        hit(&counters);
        counters.flush();
        counters.keep_minutes(minute * MINUTE);
    }
    let counted = counters.counted(901 * MINUTE).expect("a file");
    assert_eq!(counted.minutes.iter().map(|row| (row.at, row.hits)).collect::<Vec<_>>(), [(900, 1), (901, 0)]);
}
