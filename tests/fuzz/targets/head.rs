//! The head of an entry: whatever lies in the store is read or refused, and what was written is read back.
//!
//! The first byte of an input says what is made of the rest: a file as it stands, a file whose head is put
//! right as far as the bits of the second byte say, or a version that is written, read back and damaged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mod_usp_storage_cache::store::format::{BLOCK_LEN, Head, Layout, Meta, PurgeMark, Span, encode_head, head_len};

/// Where the texts of a head begin (docs/store-format.md).
const TEXTS_AT: usize = 128;
/// Bodies stay so short that a file fits in memory many times over.
const BODY_LEN_MAX: u64 = 3 * BLOCK_LEN;

fuzz_target!(|input: &[u8]| match input {
    [0, file @ ..] => read(file),
    [1, fields, head @ ..] => read(&put_right(*fields, head)),
    [2, rest @ ..] => write_and_read(rest),
    _ => {}
});

fn decode(file: &[u8]) -> Option<Head> {
    let head = file.get(..usize::try_from(head_len(file)?).ok()?)?;
    Head::decode(head, file.len() as u64)
}

/// Reads `file`, which may be anything, and looks at what was made of it.
fn read(file: &[u8]) {
    let Some(head) = decode(file) else { return };
    assert_eq!(Some(head.layout), Layout::of(head.layout.head_len, head.layout.body_len));
    assert_eq!(head.layout.file_len(), file.len() as u64);
    let mut at = TEXTS_AT;
    for span in spans(&head) {
        assert_eq!(span.with_nul().start, at, "texts follow one another");
        let (text, end) = file[span.with_nul()].split_at(span.text().len());
        assert!(end == b"\0" && !text.contains(&0), "a NUL at the end and nowhere else");
        at = span.with_nul().end;
    }
    assert_eq!(at as u64, head.layout.head_len);
    if let Some(meta) = meta_of(&head, file) {
        let (again, layout) = encode_head(&meta).expect("what was read can be written");
        assert_eq!(layout, head.layout);
        assert_eq!(again[TEXTS_AT..], file[TEXTS_AT..at]);
    }
}

/// A file around `head` with a right checksum, and with those of its numbers right whose bit is set in `fields`.
fn put_right(fields: u8, head: &[u8]) -> Vec<u8> {
    let mut file = head.to_vec();
    file.resize(head.len().max(TEXTS_AT), 0);
    let texts: Vec<&[u8]> = head.get(TEXTS_AT..).unwrap_or_default().split(|b| *b == 0).collect();
    let text_len = |at: usize| texts.get(at).map_or(0, |text| text.len() as u64);
    let head_len = file.len() as u64;
    let body_len = body_len(u64_at(&file, 32));
    let layout = Layout::of(head_len, body_len).expect("both are small");
    let numbers = [
        (0, 8, u64::from_le_bytes(*b"USPSTORE")),
        (8, 4, 1),
        (16, 4, head_len),
        (20, 4, BLOCK_LEN),
        (24, 8, layout.body_at),
        (32, 8, body_len),
        (40, 8, layout.table_at),
        (48, 8, layout.blocks()),
        (68, 4, text_len(0)),
        (72, 4, text_len(1)),
        (76, 4, (texts.len() as u64).saturating_sub(3) / 2),
    ];
    for (number, (at, len, value)) in numbers.into_iter().enumerate() {
        // The first ones have to be right for anything else to be looked at.
        if number < 3 || fields & (1 << (number - 3)) != 0 {
            file[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
    }
    let checksum = crc32c::crc32c(&file[16..]);
    file[12..16].copy_from_slice(&checksum.to_le_bytes());
    file.resize(usize::try_from(layout.file_len()).expect("it is small"), 0);
    file
}

/// Writes the version that `input` describes, and reads it; then with one bit of its head turned.
fn write_and_read(input: &[u8]) {
    let Some(meta) = meta_from(input) else { return };
    let has_nul = meta.fields.iter().any(|(name, value)| name.contains('\0') || value.contains(&0))
        || meta.url.contains('\0')
        || meta.scope.contains('\0');
    let Some((head, layout)) = encode_head(&meta) else {
        assert!(has_nul, "only a NUL makes a short head unfit");
        return;
    };
    assert!(!has_nul && head.len() as u64 == layout.head_len);
    let mut file = head.clone();
    file.resize(usize::try_from(layout.file_len()).expect("it is small"), 0);
    let decoded = decode(&file).expect("what was written");
    let meta_read = meta_of(&decoded, &file).expect("the URL is a text");
    assert_eq!(meta_read, meta);
    assert_eq!(encode_head(&meta_read), Some((head, layout)), "written again it is the same");
    let bit = input.iter().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b)));
    let bit = bit % (8 * usize::try_from(layout.head_len).expect("it is small"));
    file[bit / 8] ^= 1 << (bit % 8);
    assert!(decode(&file).is_none(), "bit {bit} is turned");
}

/// A body's length; most are short, since long files take their time.
fn body_len(number: u64) -> u64 {
    if number % 16 == 0 { number % BODY_LEN_MAX } else { number % 5000 }
}

/// A version: numbers in eighteen bytes, then texts with a line end between each two.
fn meta_from(input: &[u8]) -> Option<Meta> {
    let (numbers, texts) = input.split_at_checked(18)?;
    let mut texts = texts.split(|b| *b == b'\n');
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut meta = Meta {
        url: text(texts.next()?),
        scope: text(texts.next()?),
        body_len: body_len(u64::from(u16::from_le_bytes([numbers[0], numbers[1]])) * 17),
        fetched_at_ms: u64_at(numbers, 2),
        initial_age_secs: u64_at(numbers, 10) as u32,
        purges: PurgeMark { incarnation: u64_at(numbers, 6), purges: u64_at(numbers, 3) as u32 },
        source: u64_at(numbers, 8) as u32,
        fields: Vec::new(),
    };
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        meta.fields.push((text(name), value.to_vec()));
    }
    Some(meta)
}

/// What was decoded, as it would be written; `None` where a name is no text, which nobody writes.
fn meta_of(head: &Head, file: &[u8]) -> Option<Meta> {
    let text = |span: Span| String::from_utf8(file[span.text()].to_vec()).ok();
    let field = |(name, value): &(Span, Span)| Some((text(*name)?, file[value.text()].to_vec()));
    Some(Meta {
        url: text(head.url)?,
        scope: text(head.scope)?,
        body_len: head.layout.body_len,
        fetched_at_ms: head.fetched_at_ms,
        initial_age_secs: head.initial_age_secs,
        purges: head.purges,
        source: head.source,
        fields: head.fields.iter().map(field).collect::<Option<_>>()?,
    })
}

fn spans(head: &Head) -> impl Iterator<Item = Span> {
    [head.url, head.scope].into_iter().chain(head.fields.iter().flat_map(|(name, value)| [*name, *value]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}
