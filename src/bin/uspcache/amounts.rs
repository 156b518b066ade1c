//! Times, ages and lengths as people read them.

use std::time::{Duration, UNIX_EPOCH};

/// Seconds in their largest unit: `59s`, `12m`, `5h`, `3d`.
pub fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..172_800 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// A time in milliseconds since 1970, and how long ago it was.
pub fn time(at_ms: u64, now_ms: u64) -> String {
    // Beyond the year 9999 there are no dates of HTTP, and such a time is damage.
    if at_ms / 1000 >= 253_402_300_800 {
        return "no time".into();
    }
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(at_ms));
    match now_ms.checked_sub(at_ms) {
        Some(ago_ms) => format!("{date} ({} ago)", span(ago_ms / 1000)),
        None => format!("{date} (in the future)"),
    }
}

/// Bytes, and a rounded number of them where there are many.
pub fn bytes(len: u64) -> String {
    match len {
        0..10_000 => format!("{len} bytes"),
        _ => format!("{len} bytes ({})", indicatif::BinaryBytes(len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_largest_unit() {
        let rows = [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (172_800, "2d")];
        for (secs, want) in rows {
            assert_eq!(span(secs), want, "{secs}");
        }
    }

    #[test]
    fn any_time_has_a_text() {
        assert_eq!(time(0, 61_000), "Thu, 01 Jan 1970 00:00:00 GMT (1m ago)");
        assert_eq!(time(1000, 0), "Thu, 01 Jan 1970 00:00:01 GMT (in the future)");
        assert_eq!(time(u64::MAX, 0), "no time");
    }
}
