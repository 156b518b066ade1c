//! The samples of flat MP4s as three readers see them: ours, mp4-atom and shiguredo_mp4.

use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::moov::Moov;
use mod_usp_storage_cache::mp4::read::{Tables, read_moov};
use mod_usp_storage_cache::mp4::{index, source::Source};
use mp4_atom::{Co64, StszSamples};
use shiguredo_mp4::Decode as _;
use shiguredo_mp4::aux::SampleTableAccessor;
use shiguredo_mp4::boxes::MoovBox;

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub offset: u64,
    pub size: u32,
    pub decode_time: u64,
    pub duration: u32,
    pub composition_offset: i64,
    pub sync: bool,
}

/// An index of `media`.
pub fn index_of(media: &[u8]) -> Vec<u8> {
    let source = Source::read(media, None).expect("it can be indexed");
    index::write(&[(&source, "media.mp4")]).expect("an index")
}

/// The samples of each track, on which all readers agree.
pub fn agreed(file: &[u8]) -> Vec<Vec<Row>> {
    let rows = ours(file);
    assert_eq!(by_mp4_atom(file), rows, "mp4-atom");
    assert_eq!(by_shiguredo(file), rows, "shiguredo_mp4");
    rows
}

/// The samples of each track as our own reader has them.
pub fn ours(file: &[u8]) -> Vec<Vec<Row>> {
    let (bytes, offset) = read_moov(file).expect("a moov");
    let moov = Moov::read(Mp4Box::read(&bytes, offset).expect("a box")).expect("a moov");
    let rows = |tables: Tables<'_>| {
        let row = |s: mod_usp_storage_cache::mp4::read::FlatSample| Row {
            offset: s.offset,
            size: s.size,
            decode_time: s.decode_time,
            duration: s.duration,
            composition_offset: s.composition_offset,
            sync: s.sync,
        };
        tables.samples().map(row).collect()
    };
    moov.tracks.iter().map(|track| rows(Tables::read(track).expect("tables"))).collect()
}

/// The body of the file's moov.
fn moov(file: &[u8]) -> Vec<u8> {
    read_moov(file).expect("a moov").0
}

fn by_mp4_atom(file: &[u8]) -> Vec<Vec<Row>> {
    use mp4_atom::Decode as _;
    let moov = mp4_atom::Moov::decode(&mut moov(file).as_slice()).expect("mp4-atom reads it");
    moov.trak.iter().map(|trak| expand(&trak.mdia.minf.stbl)).collect()
}

/// Expands the tables as the format says, by the plainest way.
fn expand(stbl: &mp4_atom::Stbl) -> Vec<Row> {
    let durations = stbl.stts.entries.iter().flat_map(|e| vec![e.sample_delta; e.sample_count as usize]);
    let offsets: Vec<u64> = match (&stbl.stco, &stbl.co64) {
        (Some(stco), _) => stco.entries.iter().map(|offset| u64::from(*offset)).collect(),
        (None, Some(Co64 { entries })) => entries.clone(),
        (None, None) => panic!("no chunk offsets"),
    };
    let sizes = match &stbl.stsz.samples {
        StszSamples::Identical { count, size } => vec![*size; *count as usize],
        StszSamples::Different { sizes } => sizes.clone(),
    };
    let compositions: Vec<i64> = match &stbl.ctts {
        Some(ctts) => ctts.entries.iter().flat_map(|e| vec![e.sample_offset; e.sample_count as usize]).collect(),
        None => vec![0; sizes.len()],
    };
    let mut places = Vec::new();
    for (chunk, start) in (1..).zip(offsets) {
        let run = stbl.stsc.entries.iter().rfind(|run| run.first_chunk <= chunk).expect("a run");
        let mut at = start;
        for _ in 0..run.samples_per_chunk {
            places.push(at);
            at += u64::from(sizes[places.len() - 1]);
        }
    }
    assert_eq!(places.len(), sizes.len());
    let mut decode_time = 0;
    let durations: Vec<u32> = durations.collect();
    (0..sizes.len())
        .map(|n| {
            let sync = stbl.stss.as_ref().is_none_or(|stss| stss.entries.contains(&(n as u32 + 1)));
            let row = Row {
                offset: places[n],
                size: sizes[n],
                decode_time,
                duration: durations[n],
                composition_offset: compositions[n],
                sync,
            };
            decode_time += u64::from(durations[n]);
            row
        })
        .collect()
}

fn by_shiguredo(file: &[u8]) -> Vec<Vec<Row>> {
    let (moov, _) = MoovBox::decode(&moov(file)).expect("shiguredo_mp4 reads it");
    let rows = |trak: &shiguredo_mp4::boxes::TrakBox| {
        let tables = SampleTableAccessor::new(&trak.mdia_box.minf_box.stbl_box).expect("tables");
        let rows = tables.samples().map(|sample| Row {
            offset: sample.data_offset(),
            size: sample.data_size(),
            decode_time: sample.timestamp(),
            duration: sample.duration(),
            composition_offset: sample.composition_time_offset().unwrap_or(0),
            sync: sample.is_sync_sample(),
        });
        rows.collect()
    };
    moov.trak_boxes.iter().map(rows).collect()
}
