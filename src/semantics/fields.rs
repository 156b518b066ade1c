//! Header fields of an answer: which of them belong to the object and are kept.
//!
//! What belongs to one connection or to one answer is dropped (RFC 9110, section 7.6.1; RFC 9111, section 3.1).

/// Fields that are not the object's: of the connection, of the one answer, or made anew for each answer.
const DROPPED: [&str; 18] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "content-length",
    "content-range",
    "age",
    "set-cookie",
    "set-cookie2",
    "alt-svc",
    "x-amz-request-id",
    "x-amz-id-2",
];

/// Whether the field `name` of an answer is kept with the object; `connection` is the value of the
/// answer's own `Connection` field, whose members are dropped as well.
pub fn is_kept(name: &str, connection: &str) -> bool {
    let is_name = |other: &str| other.trim().eq_ignore_ascii_case(name);
    !DROPPED.iter().copied().any(is_name) && !connection.split(',').any(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_to_end_fields_are_kept_and_the_others_dropped() {
        let kept = [
            "ETag",
            "Last-Modified",
            "x-amz-meta-a",
            "Content-Type",
            "Accept-Ranges",
            "Cache-Control",
            "x-amz-version-id",
        ];
        let dropped =
            ["Connection", "Keep-Alive", "Transfer-Encoding", "X-Amz-Request-Id", "x-amz-id-2", "Set-Cookie", "X-Hop"];
        for name in kept {
            assert!(is_kept(name, "close, x-hop"), "{name}");
        }
        for name in dropped {
            assert!(!is_kept(name, "close, x-hop"), "{name}");
        }
    }
}
