//! How much of the media is read, and in how many round trips.

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use mod_usp_storage_cache::mp4::media::Media;
use mod_usp_storage_cache::mp4::source::Source;

use crate::golden::sample;
use crate::made::{Track, boxed, full, init, mdat, moof};

/// A file whose tail is zeros that take no memory, and a box `mdat` behind `head` that holds them.
pub struct Sparse {
    head: Vec<u8>,
    len: u64,
}

impl Sparse {
    pub fn new(mut head: Vec<u8>, len: u64) -> Self {
        // A long size: the rest of the file.
        head.extend([0, 0, 0, 1]);
        head.extend(b"mdat");
        let rest = len - (head.len() as u64 - 8);
        head.extend(rest.to_be_bytes());
        Self { head, len }
    }
}

impl Media for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let byte = |at: u64| self.head.get(at as usize).copied().unwrap_or(0);
        Ok(ranges.iter().map(|range| range.clone().map(byte).collect()).collect())
    }
}

/// Media that counts what is read of it.
struct Counted<'a> {
    bytes: &'a [u8],
    /// Round trips, and bytes.
    read: RefCell<(u64, u64)>,
}

impl Media for Counted<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let mut read = self.read.borrow_mut();
        read.0 += 1;
        read.1 += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        self.bytes.read(ranges)
    }
}

/// Round trips and bytes of making an index.
fn cost(bytes: &[u8]) -> (u64, u64) {
    let media = Counted { bytes, read: RefCell::default() };
    Source::read(&media, None).expect("it can be indexed");
    media.read.into_inner()
}

/// 200 fragments of 2 s at 400 kbit/s, whose `moof`s differ in length by a third; and where they begin.
fn film(before: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let mut film = init(&[Track::default()]);
    film.extend(before);
    let mut starts = Vec::new();
    for number in 0..200u32 {
        let count = 40 + number * 7 % 16;
        let sizes = [[count].as_slice(), &vec![100_000 / count; count as usize]].concat();
        starts.push(film.len());
        let traf = [full(b"tfhd", 0, 0x2_0000, &[1]), full(b"trun", 0, 0x200, &sizes)].concat();
        film.extend(moof(&[traf]));
        film.extend(mdat(100_000));
    }
    (film, starts)
}

/// Media that nothing long is read of.
struct Frugal(Sparse);

impl Media for Frugal {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(len < 17 << 20, "{len} bytes are asked for at once");
        self.0.read(ranges)
    }
}

#[test]
fn hints_that_overlap_have_little_read() {
    // A sidx that points at 64 places, each of which says that a fragment of 100 MB begins there.
    let places: Vec<u32> = (0..64).flat_map(|_| [16, 0, 0]).collect();
    let claims: Vec<u8> = (0..64).flat_map(|_| [&[6, 0, 0, 0][..], b"moof", &[0; 8]].concat()).collect();
    let track = moof(&[[full(b"tfhd", 0, 0, &[1]), full(b"trun", 0, 0, &[0])].concat()]);
    let lies = boxed(b"moof", &[&boxed(b"free", &[&claims])]);
    let sidx = full(b"sidx", 0, 0, &[&[1, 1000, 0, track.len() as u32 + 16, 64][..], &places].concat());
    let head = [init(&[Track::default()]), sidx, track, lies].concat();
    let source = Source::read(&Frugal(Sparse::new(head, 300 << 20)), None).expect("it has fragments");
    assert_eq!(source.tables[0].1.samples, 0);
}

#[test]
fn a_sidx_that_cannot_be_read_is_no_hint() {
    let mut media = sample("packager-video.cmfv");
    let right = Source::read(media.as_slice(), None).expect("it is right").tables[0].1.samples;
    let sidx = media.windows(4).position(|window| window == b"sidx").expect("a sidx");
    media[sidx + 26..sidx + 28].copy_from_slice(&60_000u16.to_be_bytes());
    assert_eq!(Source::read(media.as_slice(), None).expect("it is as right").tables[0].1.samples, right);
}

#[test]
fn without_a_list_of_fragments_each_takes_a_round_trip_at_most() {
    let (film, starts) = film(&[]);
    let (trips, bytes) = cost(&film);
    // The init, and the last bytes, where an mfra would be told.
    assert!(trips <= starts.len() as u64 + 2, "{trips} round trips");
    assert!(bytes * 100 < film.len() as u64, "{bytes} bytes of {}", film.len());
}

#[test]
fn with_a_sidx_100_fragments_take_fewer_than_10_round_trips() {
    let (_, starts) = film(&[]);
    let sidx_len = 32 + 12 * starts.len();
    let mut references = vec![1, 1000, 0, 0, starts.len() as u32];
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(film(&[]).0.len());
        references.extend([(end - start) as u32, 2000, 0x9000_0000]);
    }
    let sidx = full(b"sidx", 0, 0, &references);
    assert_eq!(sidx.len(), sidx_len);
    let (film, starts) = film(&sidx);
    let (trips, bytes) = cost(&film);
    assert!(trips <= starts.len() as u64 / 10, "{trips} round trips");
    assert!(bytes * 100 < film.len() as u64, "{bytes} bytes of {}", film.len());
}

#[test]
fn an_mfra_does_as_well_and_one_that_lies_does_no_harm() {
    let (film, starts) = film(&[]);
    let with_mfra = |places: &[usize]| {
        let mut entries = vec![1, 0, places.len() as u32];
        // Numbers of traf, trun and sample take a byte each; words are put together from the bytes below.
        let mut tfra = full(b"tfra", 0, 0, &[]);
        let mut body: Vec<u8> = entries.drain(..).flat_map(u32::to_be_bytes).collect();
        for place in places {
            body.extend([0; 4]);
            body.extend((*place as u32).to_be_bytes());
            body.extend([1, 1, 1]);
        }
        tfra.extend(&body);
        let len = tfra.len() as u32;
        tfra[..4].copy_from_slice(&len.to_be_bytes());
        let mfro = full(b"mfro", 0, 0, &[len + 8 + 16]);
        [film.clone(), boxed(b"mfra", &[&tfra, &mfro])].concat()
    };
    let told = with_mfra(&starts);
    let (trips, bytes) = cost(&told);
    assert!(trips <= starts.len() as u64 / 10, "{trips} round trips");
    assert!(bytes * 100 < told.len() as u64, "{bytes} bytes");
    let indexed = |file: &[u8]| crate::rows::ours(&crate::rows::index_of(file));
    let lies: Vec<usize> = starts.iter().map(|start| start + 13).chain([usize::MAX >> 33]).collect();
    assert_eq!(indexed(&with_mfra(&lies)), indexed(&film));
}

#[test]
fn real_files_are_read_in_few_round_trips_too() {
    // Three fragments: the init with the first, the others, the end of the file; with a sidx all others at once.
    for (name, trips_max) in [("film-avc1-1000k.cmfv", 4), ("packager-video.cmfv", 3), ("packager-audio.cmfa", 3)] {
        let (trips, _) = cost(&sample(name));
        assert!(trips <= trips_max, "{name}: {trips} round trips");
    }
}

#[test]
fn a_box_that_ends_where_numbers_do_is_no_panic() {
    let mut head = init(&[Track::default()]);
    let size = u64::MAX - 64 - head.len() as u64;
    head.extend([0, 0, 0, 1]);
    head.extend(b"free");
    head.extend(size.to_be_bytes());
    assert!(Source::read(&Sparse { head, len: u64::MAX }, None).is_err());
}
