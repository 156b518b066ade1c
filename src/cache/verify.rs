//! Whether what came is what storage has: its own checksums, where it states any.
//!
//! An ETag is the MD5 of an object only where S3 says nothing of another encryption (Amazon S3 API reference, "Object": "ETag"); of
//! `x-amz-checksum-*` only those of the full object count ("Checking object integrity").

#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};

use super::filler::Filler;
use crate::fetch::{Failure, Incoming};
use crate::store::Version;
use crate::store::format::BLOCK_LEN;

const CRC32: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISO_HDLC);
const CRC64: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_NVME);

/// The checksum of storage's that a version does not have; `None` where it has it, or storage states none.
pub(super) fn doubt(filler: &Filler, version: &Version, is_s3: bool) -> Result<Option<&'static str>, Failure> {
    if filler.cache.has_odd_etags(&filler.order.key) {
        return Ok(None);
    }
    if let Some(stated) = md5_of_etag(version) {
        return Ok((md5(version)? != stated).then_some("the ETag as MD5"));
    }
    if !is_s3 || version.is_empty() {
        return Ok(None);
    }
    // A part of an object comes without the checksums of the whole.
    let Ok(answer) = filler.head() else { return Ok(None) };
    if answer.field("etag") != version.field("etag") {
        return Err(Failure::Changed);
    }
    if answer.field("x-amz-checksum-type") != Some(b"FULL_OBJECT") {
        return Ok(None);
    }
    let stated = |name| answer.field(name).and_then(|value| BASE64_STANDARD.decode(value).ok());
    if let Some(stated) = stated("x-amz-checksum-crc64nvme") {
        let sum = fold(version, CRC64.digest(), |digest, piece| digest.update(piece))?.finalize();
        return Ok((stated != sum.to_be_bytes()).then_some("x-amz-checksum-crc64nvme"));
    }
    if let Some(stated) = stated("x-amz-checksum-crc32c") {
        let sum = fold(version, 0, |sum, piece| *sum = crc32c::crc32c_append(*sum, piece))?;
        return Ok((stated != sum.to_be_bytes()).then_some("x-amz-checksum-crc32c"));
    }
    if let Some(stated) = stated("x-amz-checksum-crc32") {
        let sum = fold(version, CRC32.digest(), |digest, piece| digest.update(piece))?.finalize();
        return Ok((stated != sum.to_be_bytes()).then_some("x-amz-checksum-crc32"));
    }
    if let Some(stated) = stated("x-amz-checksum-sha256") {
        let sum = fold(version, sha2::Sha256::new(), |digest, piece| digest.update(piece))?.finalize();
        return Ok((stated != sum.as_slice()).then_some("x-amz-checksum-sha256"));
    }
    Ok(None)
}

/// Whether a body has the bytes of a version.
pub(super) fn is_same(version: &Version, body: Incoming) -> Result<bool, Failure> {
    let (mut at, mut checksum, mut is_same) = (0, 0, true);
    body.copy(version.len(), |mut piece| {
        while !piece.is_empty() {
            let block = version.layout().block(at / BLOCK_LEN);
            let take = usize::try_from(block.end - at).unwrap_or(usize::MAX).min(piece.len());
            let (now, later) = piece.split_at(take);
            checksum = crc32c::crc32c_append(if at == block.start { 0 } else { checksum }, now);
            at += take as u64;
            is_same &= at < block.end || checksum == version.checksum(block.start / BLOCK_LEN);
            piece = later;
        }
        Ok(())
    })?;
    Ok(is_same)
}

/// The MD5 that an ETag states.
fn md5_of_etag(version: &Version) -> Option<[u8; 16]> {
    let is_plain = version.field("x-amz-server-side-encryption").is_none_or(|method| method == b"AES256");
    let has_customer_key = version.field("x-amz-server-side-encryption-customer-algorithm").is_some();
    let digits = version.field("etag")?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !is_plain || has_customer_key || digits.len() != 32 {
        return None;
    }
    let mut sum = [0; 16];
    for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(sum)
}

fn md5(version: &Version) -> Result<[u8; 16], Failure> {
    Ok(fold(version, Md5::new(), |digest, piece| digest.update(piece))?.finalize().into())
}

/// Goes through the bytes of a version that is whole.
fn fold<S>(version: &Version, mut state: S, mut add: impl FnMut(&mut S, &[u8])) -> Result<S, Failure> {
    for block in 0..version.layout().blocks() {
        let piece = version.body(&version.layout().block(block)).ok_or(Failure::Answer("a block is missing"))?;
        add(&mut state, piece);
    }
    Ok(state)
}
