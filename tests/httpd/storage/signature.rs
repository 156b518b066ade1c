//! What S3 refuses of a signature before it computes it: another time, another region.

use super::answer::{Answer, amz_date};
use super::fault::Fault;
use super::ledger::Asked;

/// How far the time of a signature may be off, either way.
const OFF_SECS_MAX: i64 = 900;
/// How old a presigned request may be at most, which says so itself.
const PRESIGNED_SECS: i64 = 300;

/// The refusal of a request under a fault of clock or region.
pub(super) fn refusal(fault: &Fault, asked: &Asked) -> Option<Answer> {
    match fault {
        Fault::Clock(off_secs) => refused_time(asked, *off_secs),
        Fault::Region(region) => refused_region(asked, region),
        _ => None,
    }
}

fn refused_time(asked: &Asked, off_secs: i64) -> Option<Answer> {
    let (signed_at, since_secs, code) = match asked.field("x-amz-date") {
        Some(date) => (date, OFF_SECS_MAX, "RequestTimeTooSkewed"),
        None => (parameter(asked, "X-Amz-Date")?, PRESIGNED_SECS, "AccessDenied"),
    };
    // Such dates sort by time.
    let window = amz_date(off_secs - since_secs)..amz_date(off_secs + OFF_SECS_MAX);
    (!window.contains(&signed_at)).then(|| Answer::error(403, code, ""))
}

fn refused_region(asked: &Asked, region: &str) -> Option<Answer> {
    let (credential, code) = match asked.field("Authorization") {
        Some(field) => (field, "AuthorizationHeaderMalformed"),
        None => (parameter(asked, "X-Amz-Credential")?.replace("%2F", "/"), "AuthorizationQueryParametersError"),
    };
    let is_for_us = credential.contains(&format!("/{region}/s3/aws4_request"));
    (!is_for_us).then(|| Answer::error(400, code, &format!("<Region>{region}</Region>")))
}

fn parameter(asked: &Asked, name: &str) -> Option<String> {
    let pairs = asked.query.as_deref()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(had, _)| *had == name).map(|(_, value)| value.to_owned())
}
