//! Who may purge from elsewhere than this host: what the `Require` lines of a section say of it.
//!
//! httpd holds each request against its access rules, a PURGE too. But a rule that lets viewers in was not written with purges in
//! mind: it opens nothing. Only lines that speak of purging do.
//!
//! # Invariants
//!
//! - What is not understood opens nothing.

/// What was met in one section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requires {
    /// A line within a `<Limit>` that names PURGE.
    named: bool,
    /// A line that holds for PURGE as for other methods, and says who.
    other: bool,
    /// A line that holds for PURGE as for other methods, and does not say who; or rules of several sections are joined.
    open: bool,
}

/// What of PURGE the `<Limit>` or `<LimitExcept>` around a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// It names PURGE.
    Named,
    /// There is none, or a `<LimitExcept>` that leaves PURGE in.
    In,
    /// It leaves PURGE out.
    Out,
}

impl Requires {
    /// Notes a line of `Require`.
    pub fn note(&mut self, line: &str, limit: Limit) {
        let first = line.split_whitespace().next().unwrap_or_default();
        let says_who = !["all", "method", "not"].iter().any(|word| first.eq_ignore_ascii_case(word));
        match limit {
            Limit::Named => self.named = true,
            Limit::In if says_who => self.other = true,
            Limit::In => self.open = true,
            Limit::Out => {}
        }
    }

    /// Notes that the rules of several sections are joined.
    pub fn note_merging(&mut self) {
        self.open = true;
    }

    /// Whether the lines say who may purge; `is_beside` says that `UspStorageCachePurge on` stands in the same section.
    pub fn say(&self, is_beside: bool) -> bool {
        let is_said = if self.other { is_beside } else { self.named };
        is_said && !self.open
    }

    /// The same for an inner section, where lines and directive no longer stand in one.
    pub fn settled(&self, is_beside: bool) -> Self {
        let says = self.say(is_beside);
        Self { named: says, other: false, open: !says }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_speak_of_purging_say_who_may() {
        use Limit::{In, Named, Out};
        type Lines<'l> = &'l [(&'l str, Limit)];
        // Alone, and beside `UspStorageCachePurge on`.
        let rows: [(Lines<'_>, bool, bool); 15] = [
            (&[], false, false),
            (&[("ip 10.0.0.0/8", Named)], true, true),
            (&[("all granted", Named)], true, true),
            (&[("ip 10.0.0.0/8", In)], false, true),
            (&[("valid-user", In), ("host h", In)], false, true),
            (&[("all granted", In)], false, false),
            (&[("\"all\" granted", In), ("all granted", In)], false, false),
            (&[("ip 10.0.0.0/8", In), ("All granted", In)], false, false),
            (&[("method GET PURGE", In)], false, false),
            (&[("not ip 10.0.0.1", In)], false, false),
            (&[("ip 10.0.0.0/8", Named), ("ip 192.168.0.0/16", In)], false, true),
            (&[("ip 10.0.0.0/8", Named), ("all granted", In)], false, false),
            (&[("ip 10.0.0.0/8", Named), ("all granted", Out)], true, true),
            (&[("ip 10.0.0.0/8", Out)], false, false),
            (&[("", In)], false, true),
        ];
        for (lines, alone, beside) in rows {
            let mut requires = Requires::default();
            lines.iter().for_each(|(line, limit)| requires.note(line, *limit));
            assert_eq!((requires.say(false), requires.say(true)), (alone, beside), "{lines:?}");
            for (is_beside, want) in [(false, alone), (true, beside)] {
                let settled = requires.settled(is_beside);
                assert_eq!((settled.say(false), settled.say(true)), (want, want), "{lines:?}");
            }
            requires.note_merging();
            assert!(!requires.say(true), "{lines:?}");
        }
    }
}
