//! The layout of an entry's file: docs/store-format.md, byte by byte.
//!
//! [`Layout::of`] says where things lie for an object, [`encode_head`] writes what stands before the block
//! table, and [`Head::decode`] reads it back.
//!
//! # Invariants
//!
//! - Each [`Span`] of a decoded head lies before the block table, ends in a NUL and holds no other.
//! - A decoded head's layout is the one that [`Layout::of`] gives for it: no offset is taken on trust.

#![forbid(unsafe_code)]

use std::ops::Range;

/// Bytes of a body that share one checksum.
pub const BLOCK_LEN: u64 = 256 * 1024;

const MAGIC: &[u8; 8] = b"USPSTORE";
const FORMAT: u32 = 1;
/// A body begins at a multiple of this.
pub const PAGE_LEN: u64 = 4096;
/// Where the URL begins.
pub(super) const TEXTS_AT: usize = FIXED_LEN as usize;
/// The bytes of a head that are laid out the same in every file.
pub const FIXED_LEN: u64 = 128;
/// No head is longer: storage's fields are bounded by the client that reads them.
const HEAD_LEN_MAX: u64 = 1 << 20;

/// What is stored about a version beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The canonical URL.
    pub url: String,
    /// What the configuration names as the credentials.
    pub scope: String,
    /// The length of the body, in bytes.
    pub body_len: u64,
    /// When storage was asked for it, in milliseconds since 1970.
    pub fetched_at_ms: u64,
    /// The answer's own age when it was fetched, in seconds.
    pub initial_age_secs: u32,
    /// What the control block said when it was asked for.
    pub purges: PurgeMark,
    /// Which storage was asked, if not the one that the URL names; else 0.
    pub source: u32,
    /// Stored header fields, names and values, in order.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// How often a key's slot of a control block had been purged: what was fetched before a purge is told by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeMark {
    /// Which control block it was.
    pub incarnation: u64,
    /// The slot's purge number.
    pub purges: u32,
}

/// Where the parts of a file lie, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The end of the head.
    pub head_len: u64,
    /// The block table.
    pub table_at: u64,
    /// The map of blocks that are present.
    pub present_at: u64,
    /// The body.
    pub body_at: u64,
    /// The length of the body.
    pub body_len: u64,
}

impl Layout {
    /// The layout of a file whose head ends at `head_len`; `None` where lengths overflow.
    pub fn of(head_len: u64, body_len: u64) -> Option<Self> {
        if head_len > HEAD_LEN_MAX || body_len > i64::MAX as u64 / 2 {
            return None;
        }
        let blocks = body_len.div_ceil(BLOCK_LEN);
        let table_at = head_len.next_multiple_of(8);
        let present_at = (table_at + 4 * blocks).next_multiple_of(8);
        let map_len = 8 * blocks.div_ceil(64);
        let body_at = (present_at + 2 * map_len + 8).next_multiple_of(PAGE_LEN);
        Some(Self { head_len, table_at, present_at, body_at, body_len })
    }

    /// The length of the whole file.
    pub fn file_len(&self) -> u64 {
        self.body_at + self.body_len
    }

    /// The number of blocks of the body.
    pub fn blocks(&self) -> u64 {
        self.body_len.div_ceil(BLOCK_LEN)
    }

    /// The bytes of the body that make a block.
    pub fn block(&self, block: u64) -> Range<u64> {
        let from = block * BLOCK_LEN;
        from..(from + BLOCK_LEN).min(self.body_len)
    }

    /// Where the checksum of a block stands.
    pub fn checksum_at(&self, block: u64) -> u64 {
        self.table_at + 4 * block
    }

    /// Where the word of the present map stands that has a block's bit.
    pub fn present_word_at(&self, block: u64) -> u64 {
        self.present_at + block / 64 * 8
    }

    /// Where the word of the wanted map stands that has a block's bit.
    pub fn wanted_word_at(&self, block: u64) -> u64 {
        self.present_word_at(block) + self.map_len()
    }

    /// Where the word stands that moves when a block has landed.
    pub fn progress_at(&self) -> u64 {
        self.present_at + 2 * self.map_len()
    }

    /// Where the word stands that moves when a block is wanted.
    pub fn demand_at(&self) -> u64 {
        self.progress_at() + 4
    }

    fn map_len(&self) -> u64 {
        8 * self.blocks().div_ceil(64)
    }
}

/// A text in a head: where it begins, and where its NUL ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from: u32,
    to: u32,
}

impl Span {
    /// The text with its NUL, as a range of the file.
    pub fn with_nul(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }

    /// The text without its NUL, as a range of the file.
    pub fn text(self) -> Range<usize> {
        self.from as usize..self.to as usize - 1
    }
}

/// A head that was read and found right.
#[derive(Debug)]
pub struct Head {
    /// Where the parts of the file lie.
    pub layout: Layout,
    /// When storage was asked for the version, in milliseconds since 1970.
    pub fetched_at_ms: u64,
    /// The answer's own age when it was fetched, in seconds.
    pub initial_age_secs: u32,
    /// What the control block said then.
    pub purges: PurgeMark,
    /// Which storage was asked, if not the one that the URL names; else 0.
    pub source: u32,
    /// The canonical URL.
    pub url: Span,
    /// The scope.
    pub scope: Span,
    /// Stored header fields, names and values, in order.
    pub fields: Box<[(Span, Span)]>,
}

/// The bytes of a file before its block table; `None` where a text holds a NUL or the head grows too long.
pub fn encode_head(meta: &Meta) -> Option<(Vec<u8>, Layout)> {
    let mut head = vec![0; TEXTS_AT];
    push_text(&mut head, meta.url.as_bytes())?;
    push_text(&mut head, meta.scope.as_bytes())?;
    for (name, value) in &meta.fields {
        push_text(&mut head, name.as_bytes())?;
        push_text(&mut head, value)?;
    }
    let layout = Layout::of(head.len() as u64, meta.body_len)?;
    head[0..8].copy_from_slice(MAGIC);
    put_u32(&mut head, 8, FORMAT);
    put_u32(&mut head, 16, u32::try_from(layout.head_len).ok()?);
    put_u32(&mut head, 20, BLOCK_LEN as u32);
    put_u64(&mut head, 24, layout.body_at);
    put_u64(&mut head, 32, layout.body_len);
    put_u64(&mut head, 40, layout.table_at);
    put_u32(&mut head, 48, u32::try_from(layout.blocks()).ok()?);
    put_u64(&mut head, 56, meta.fetched_at_ms);
    put_u32(&mut head, 64, meta.initial_age_secs);
    put_u32(&mut head, 68, u32::try_from(meta.url.len()).ok()?);
    put_u32(&mut head, 72, u32::try_from(meta.scope.len()).ok()?);
    put_u32(&mut head, 76, u32::try_from(meta.fields.len()).ok()?);
    put_u32(&mut head, 80, meta.purges.purges);
    put_u32(&mut head, 84, meta.source);
    put_u64(&mut head, 88, meta.purges.incarnation);
    let checksum = crc32c::crc32c(&head[16..]);
    put_u32(&mut head, 12, checksum);
    Some((head, layout))
}

/// Where the head of a file ends that begins with `fixed`; nothing is checked yet.
pub fn head_len(fixed: &[u8]) -> Option<u64> {
    u32_at(fixed, 16).map(u64::from).filter(|len| (FIXED_LEN..=HEAD_LEN_MAX).contains(len))
}

impl Head {
    /// Reads the bytes of a file up to [`head_len`]; `None` if anything is not as the layout says for a file of `file_len` bytes.
    pub fn decode(head: &[u8], file_len: u64) -> Option<Self> {
        let is_ours =
            head.len() >= TEXTS_AT && head.starts_with(MAGIC) && u32_at(head, 8)? == FORMAT && u32_at(head, 52)? == 0;
        if !is_ours || crc32c::crc32c(&head[16..]) != u32_at(head, 12)? {
            return None;
        }
        let layout =
            Layout::of(head.len() as u64, u64_at(head, 32)?).filter(|_| head_len(head) == Some(head.len() as u64))?;
        let offsets =
            (u64_at(head, 24)?, u64_at(head, 40)?, u64::from(u32_at(head, 48)?), u64::from(u32_at(head, 20)?));
        let is_laid_out = offsets == (layout.body_at, layout.table_at, layout.blocks(), BLOCK_LEN);
        if !is_laid_out || file_len != layout.file_len() {
            return None;
        }
        Self::decode_texts(head, layout)
    }

    fn decode_texts(head: &[u8], layout: Layout) -> Option<Self> {
        let mut texts = Texts { head, at: TEXTS_AT };
        let (url, scope) = (texts.next()?, texts.next()?);
        let is_length = |span: Span, at| Some(span.text().len()) == u32_at(head, at).map(|len| len as usize);
        if !is_length(url, 68) || !is_length(scope, 72) {
            return None;
        }
        let mut fields = Vec::new();
        for _ in 0..u32_at(head, 76)? {
            fields.push((texts.next()?, texts.next()?));
        }
        (texts.at == head.len()).then_some(Self {
            layout,
            fetched_at_ms: u64_at(head, 56)?,
            initial_age_secs: u32_at(head, 64)?,
            purges: PurgeMark { purges: u32_at(head, 80)?, incarnation: u64_at(head, 88)? },
            source: u32_at(head, 84)?,
            url,
            scope,
            fields: fields.into(),
        })
    }
}

/// The NUL-terminated texts of a head, one after the other.
struct Texts<'f> {
    head: &'f [u8],
    at: usize,
}

impl Texts<'_> {
    fn next(&mut self) -> Option<Span> {
        let from = self.at;
        let len = self.head.get(from..)?.iter().position(|b| *b == 0)?;
        self.at = from + len + 1;
        Some(Span { from: u32::try_from(from).ok()?, to: u32::try_from(self.at).ok()? })
    }
}

fn push_text(head: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    head.extend_from_slice(text);
    head.push(0);
    (!text.contains(&0)).then_some(())
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta(body_len: u64) -> Meta {
        Meta {
            url: "http://h/a.ism".into(),
            scope: "AKID".into(),
            body_len,
            fetched_at_ms: 1_700_000_000_000,
            initial_age_secs: 7,
            purges: PurgeMark { incarnation: u64::MAX, purges: 3 },
            source: 5,
            fields: vec![("ETag".into(), b"\"1\"".to_vec()), ("X-Empty".into(), vec![])],
        }
    }

    fn file(meta: &Meta) -> Vec<u8> {
        let (mut file, layout) = encode_head(meta).expect("a plain head");
        file.resize(usize::try_from(layout.file_len()).expect("a small file"), 0);
        file
    }

    fn decode(file: &[u8]) -> Option<Head> {
        let head = file.get(..usize::try_from(head_len(file)?).ok()?)?;
        Head::decode(head, file.len() as u64)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for body_len in [0, 1, BLOCK_LEN, BLOCK_LEN + 1, 70 * BLOCK_LEN] {
            let meta = meta(body_len);
            let file = file(&meta);
            let head = decode(&file).expect("a whole file");
            let text = |span: Span| &file[span.text()];
            assert_eq!((text(head.url), text(head.scope)), (meta.url.as_bytes(), meta.scope.as_bytes()));
            let read = (head.fetched_at_ms, head.initial_age_secs, head.purges, head.source);
            assert_eq!(read, (meta.fetched_at_ms, 7, meta.purges, 5));
            let fields: Vec<_> = head.fields.iter().map(|(n, v)| (text(*n), text(*v))).collect();
            assert_eq!(fields, [(&b"ETag"[..], &b"\"1\""[..]), (b"X-Empty", b"")]);
        }
    }

    #[test]
    fn a_small_object_takes_two_pages() {
        let (_, layout) = encode_head(&meta(2000)).expect("a plain head");
        assert_eq!(layout.body_at, PAGE_LEN);
        assert!(layout.file_len() <= 2 * PAGE_LEN);
    }

    #[test]
    fn each_word_has_its_place_between_head_and_body() {
        let (_, layout) = encode_head(&meta(130 * BLOCK_LEN + 1)).expect("a plain head");
        let table_end = layout.checksum_at(layout.blocks());
        let maps = [0, 64, 128].map(|block| layout.present_word_at(block) - layout.present_at);
        assert_eq!((layout.blocks(), maps), (131, [0, 8, 16]));
        assert!(table_end <= layout.present_at);
        assert_eq!(layout.wanted_word_at(0), layout.present_at + 24);
        assert_eq!((layout.progress_at(), layout.demand_at()), (layout.present_at + 48, layout.present_at + 52));
        assert!(layout.demand_at() + 4 <= layout.body_at);
        assert_eq!(layout.block(130), 130 * BLOCK_LEN..130 * BLOCK_LEN + 1);
    }

    #[test]
    fn a_nul_in_a_text_is_refused() {
        let meta = Meta { fields: vec![("A".into(), b"b\0c".to_vec())], ..meta(1) };
        assert!(encode_head(&meta).is_none());
    }

    #[test]
    fn a_flipped_bit_a_short_and_a_long_file_are_refused() {
        let file = file(&meta(100));
        let head_len = u32_at(&file, 16).expect("it is there") as usize;
        for bit in 0..head_len * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_none(), "bit {bit}");
        }
        assert!(decode(&file[..file.len() - 1]).is_none());
        assert!(decode(&[file.as_slice(), b"x"].concat()).is_none());
        assert!(decode(&[]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_behind_a_right_checksum_are_read_or_refused(mut bytes: Vec<u8>, len in 128u32..400) {
            bytes.resize(8192, 0);
            bytes[0..8].copy_from_slice(MAGIC);
            put_u32(&mut bytes, 8, FORMAT);
            put_u32(&mut bytes, 16, len);
            let checksum = crc32c::crc32c(&bytes[16..len as usize]);
            put_u32(&mut bytes, 12, checksum);
            if let Some(head) = decode(&bytes) {
                prop_assert!(head.url.with_nul().end <= len as usize);
            }
        }
    }
}
