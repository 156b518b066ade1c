//! Amounts and texts as the page shows them.

#![forbid(unsafe_code)]

/// Text as HTML shows it, in attributes too.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// `98.7 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Seconds in three digits or so, in the unit that suits them.
pub(super) fn time(secs: f64) -> String {
    let units = [("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)];
    // A tenth of a millionth of a part more, so that 1e-6 of a sum of powers is 1 µs and not 1000 ns.
    let (unit, times) = units.into_iter().find(|(_, times)| secs * times > 0.999_999).unwrap_or(("ns", 1e9));
    let value = secs * times;
    let decimals = if value >= 99.95 || (value - value.round()).abs() < 1e-6 { 0 } else { 1 };
    format!("{value:.decimals$} {unit}")
}

/// Bytes in the unit that suits them.
#[allow(clippy::cast_precision_loss, reason = "it is shown, and no more")]
pub(super) fn bytes(len: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = len as f64;
    let mut unit = "bytes";
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "bytes" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `12,345`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds as a person says them.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

/// The time of day, in UTC.
pub(super) fn clock(now_ms: u64) -> String {
    let secs = now_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", secs / 3600, secs / 60 % 60, secs % 60)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no measured value is negative or too large"
)]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_as_people_say_them() {
        let times = [
            (1.5e-6, "1.5 µs"),
            (1e-6, "1 µs"),
            (3.2e-8, "32 ns"),
            (0.25, "250 ms"),
            (12.0, "12 s"),
            (0.012_34, "12.3 ms"),
            (0.0, "0 ns"),
        ];
        for (secs, want) in times {
            assert_eq!(time(secs), want);
        }
        for (len, want) in
            [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (10 << 30, "10.0 GiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(len), want);
        }
        for (value, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), want);
        }
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
