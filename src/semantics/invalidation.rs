//! Requests that make what is stored under their URL invalid (RFC 9111, section 4.4).

/// Whether `method` may change the object: all but the safe ones, unknown ones included (RFC 9110, section 9.2.1).
pub fn is_unsafe(method: &[u8]) -> bool {
    !matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
}

/// Whether an answer of `status` to an unsafe request says that the object may have changed: it is no error.
pub fn invalidates(status: u16) -> bool {
    matches!(status, 200..=399)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_methods_but_the_safe_ones_are_unsafe() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
            assert!(!is_unsafe(method.as_bytes()), "{method}");
        }
        // Methods are case-sensitive (RFC 9110, section 9.1).
        for method in ["PUT", "POST", "DELETE", "PATCH", "COPY", "X-NEW", "get", "GET ", ""] {
            assert!(is_unsafe(method.as_bytes()), "{method:?}");
        }
    }

    #[test]
    fn only_an_answer_that_is_no_error_invalidates() {
        for (status, want) in [
            (100, false),
            (199, false),
            (200, true),
            (204, true),
            (299, true),
            (301, true),
            (399, true),
            (400, false),
            (403, false),
            (503, false),
        ] {
            assert_eq!(invalidates(status), want, "{status}");
        }
    }
}
