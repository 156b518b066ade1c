//! Fragmented MP4s that are made box by box.

/// A box around the bytes of `parts`.
pub fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), &body].concat()
}

/// A full box around words of 32 bits.
pub fn full(kind: &[u8; 4], version: u8, flags: u32, words: &[u32]) -> Vec<u8> {
    let mut body = (u32::from(version) << 24 | flags).to_be_bytes().to_vec();
    words.iter().for_each(|word| body.extend(word.to_be_bytes()));
    boxed(kind, &[&body])
}

/// A track of an init.
pub struct Track {
    pub id: u32,
    pub timescale: u32,
    pub coding: [u8; 4],
    /// Boxes behind `tkhd`.
    pub edts: Vec<u8>,
    /// Duration, size and flags of `trex`.
    pub defaults: [u32; 3],
}

impl Default for Track {
    fn default() -> Self {
        Self { id: 1, timescale: 1000, coding: *b"test", edts: Vec::new(), defaults: [10, 5, 0] }
    }
}

/// `ftyp` and `moov` of a fragmented file.
pub fn init(tracks: &[Track]) -> Vec<u8> {
    let mut mvhd = full(b"mvhd", 0, 0, &[0; 24]);
    mvhd[20..24].copy_from_slice(&1000u32.to_be_bytes());
    let traks: Vec<u8> = tracks.iter().flat_map(trak).collect();
    let trexs: Vec<u8> = tracks
        .iter()
        .flat_map(|track| {
            let [duration, size, flags] = track.defaults;
            full(b"trex", 0, 0, &[track.id, 1, duration, size, flags])
        })
        .collect();
    [boxed(b"ftyp", &[b"iso6\0\0\0\0"]), boxed(b"moov", &[&mvhd, &traks, &boxed(b"mvex", &[&trexs])])].concat()
}

fn trak(track: &Track) -> Vec<u8> {
    let mut tkhd = vec![0; 20];
    tkhd[2] = track.id;
    let entry = boxed(&track.coding, &[&[0, 0, 0, 0, 0, 0, 0, 1], &[0; 20]]);
    let stsd = boxed(b"stsd", &[&[0, 0, 0, 0, 0, 0, 0, 1], &entry]);
    let url = full(b"url ", 0, 1, &[]);
    let dref = boxed(b"dref", &[&[0, 0, 0, 0, 0, 0, 0, 1], &url]);
    let stbl = boxed(b"stbl", &[&stsd, &full(b"stsz", 0, 0, &[0, 0])]);
    let minf = boxed(b"minf", &[&full(b"nmhd", 0, 0, &[]), &boxed(b"dinf", &[&dref]), &stbl]);
    let hdlr = full(b"hdlr", 0, 0, &[0, u32::from_be_bytes(*b"soun"), 0, 0, 0]);
    let mdhd = full(b"mdhd", 0, 0, &[0, 0, track.timescale, 0, 0x55c4_0000]);
    boxed(b"trak", &[&full(b"tkhd", 0, 3, &tkhd), &track.edts, &boxed(b"mdia", &[&mdhd, &hdlr, &minf])])
}

/// A `moof` of `traf`s, each the bytes of its children.
pub fn moof(trafs: &[Vec<u8>]) -> Vec<u8> {
    let trafs: Vec<u8> = trafs.iter().flat_map(|traf| boxed(b"traf", &[traf])).collect();
    boxed(b"moof", &[&full(b"mfhd", 0, 0, &[1]), &trafs])
}

/// An `mdat` with a body of that many bytes.
pub fn mdat(len: usize) -> Vec<u8> {
    boxed(b"mdat", &[&vec![0x5a; len]])
}
