//! How long an index of two hours takes against merely reading the boxes that it is made of, and how much memory.
//!
//! `index_film measure FILE` makes a sparse film in FILE, 3600 fragments of 48 samples with B-frames, prints a line of JSON
//! and removes it; `index_film make FILE listed` or `unlisted` makes one with a `sidx` or without. Reading means: the header of each box, and the whole of each `moof`, by one read each.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mod_usp_storage_cache::mp4::media::LocalFile;
use mod_usp_storage_cache::mp4::{index, source::Source};

const FRAGMENTS: u32 = 3600;
const SAMPLES: u32 = 48;
/// Rounds, of which the fastest counts.
const ROUNDS: usize = 15;
/// The init of a film, and of a track at 24000 units a second.
const INIT: &[u8] = include_bytes!("../media/film-avc1-400k.cmfv");

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", path] => measure(Path::new(path)),
        ["make", path, how @ ("listed" | "unlisted")] => make(Path::new(path), how == "listed"),
        _ => Err(io::Error::other("usage: index_film measure FILE | make FILE listed|unlisted")),
    }
}

fn measure(path: &Path) -> io::Result<()> {
    make(path, false)?;
    let len = fs::metadata(path)?.len();
    let mut reading = Duration::MAX;
    let mut indexing = Duration::MAX;
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        // Indexing first: the memory of reading is none of its.
        let begun = Instant::now();
        bytes = make_index(path)?;
        indexing = indexing.min(begun.elapsed());
        let begun = Instant::now();
        read(path)?;
        reading = reading.min(begun.elapsed());
    }
    fs::remove_file(path)?;
    println!(
        "{{\"film_bytes\":{len},\"samples\":{},\"read_ms\":{:.2},\"index_ms\":{:.2},\"ratio\":{:.2},\"index_bytes\":{bytes},\"peak_kib\":{}}}",
        FRAGMENTS * SAMPLES,
        reading.as_secs_f64() * 1e3,
        indexing.as_secs_f64() * 1e3,
        indexing.as_secs_f64() / reading.as_secs_f64(),
        peak_kib()?
    );
    Ok(())
}

fn make_index(path: &Path) -> io::Result<usize> {
    let media = LocalFile::open(path)?;
    let source = Source::read(&media, None).map_err(io::Error::other)?;
    Ok(index::write(&[(&source, "film.cmfv")]).map_err(io::Error::other)?.len())
}

/// Reads the header of each box, and each `moof`.
fn read(path: &Path) -> io::Result<usize> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut at = 0;
    let mut total = 0;
    while at < len {
        let mut header = [0; 8];
        file.read_exact_at(&mut header, at)?;
        let [a, b, c, d, kind @ ..] = header;
        let size = u64::from(u32::from_be_bytes([a, b, c, d]));
        if &kind == b"moof" {
            let mut moof = vec![0; size as usize];
            file.read_exact_at(&mut moof, at)?;
            total += moof.len();
        }
        at += size;
    }
    Ok(total)
}

fn make(path: &Path, is_listed: bool) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    let init = INIT.windows(4).position(|window| window == b"moof").expect("it is fragmented") - 4;
    file.write_all(&INIT[..init])?;
    let list = if is_listed { sidx() } else { Vec::new() };
    file.write_all(&list)?;
    let mut at = (init + list.len()) as u64;
    for number in 0..FRAGMENTS {
        let (moof, mdat_len) = fragment(number);
        file.write_all(&moof)?;
        file.write_all(&(mdat_len + 8).to_be_bytes())?;
        file.write_all(b"mdat")?;
        at += moof.len() as u64 + 8 + u64::from(mdat_len);
        file.seek(SeekFrom::Start(at))?;
    }
    file.into_inner()?.set_len(at)
}

/// The list of all fragments.
fn sidx() -> Vec<u8> {
    let mut words = vec![1, 24_000, 0, 0, FRAGMENTS];
    for number in 0..FRAGMENTS {
        let (moof, mdat_len) = fragment(number);
        words.extend([moof.len() as u32 + 8 + mdat_len, 1000 * SAMPLES, 0x9000_0000]);
    }
    full(b"sidx", 0, &words)
}

/// A `moof` of two seconds, and the length of the data behind it.
fn fragment(number: u32) -> (Vec<u8>, u32) {
    // Sizes, flags and composition offsets in 1/24 s of I P B b b P B b b … P P P.
    let sizes = (0..SAMPLES).map(|n| 1000 + (number * 31 + n * 977) % 3000);
    let flags = |n: u32| if n == 0 { 0x0200_0000 } else { 0x0101_0000u32 };
    let offset = |n: u32| if n > 44 { 2 } else { [2, 5, 2, 0, 1][if n == 0 { 0 } else { 1 + (n as usize - 1) % 4 }] };
    let mut trun = vec![SAMPLES, 0];
    for (n, size) in (0..).zip(sizes.clone()) {
        trun.extend([size, flags(n), 1000 * offset(n)]);
    }
    let mut traf = full(b"tfhd", 0x2_0028, &[1, 1000, 0x0101_0000]);
    traf.extend(full(b"tfdt", 0, &[number * SAMPLES * 1000]));
    let trun_at = traf.len();
    traf.extend(full(b"trun", 0xe01, &trun));
    let mut moof = boxed(b"moof", &[full(b"mfhd", 0, &[number + 1]), boxed(b"traf", &traf)].concat());
    // The data offset stands behind the count; moof, mfhd and traf come before.
    let data_offset = (moof.len() as u32 + 8).to_be_bytes();
    let at = 8 + 16 + 8 + trun_at + 16;
    moof[at..at + 4].copy_from_slice(&data_offset);
    (moof, sizes.sum())
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), body].concat()
}

fn full(kind: &[u8; 4], flags: u32, words: &[u32]) -> Vec<u8> {
    let words = [flags].into_iter().chain(words.iter().copied()).flat_map(u32::to_be_bytes);
    boxed(kind, &words.collect::<Vec<_>>())
}

/// The most memory that this process ever had.
fn peak_kib() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("no VmHWM"))
}
