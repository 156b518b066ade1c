//! Lines over the last day, as SVG that any size fits.

#![forbid(unsafe_code)]

use std::fmt::Write;

use super::MinuteSeen;

/// Steps of a line: five minutes each.
pub(super) const STEPS: usize = 288;
const STEP_SECS: u64 = 300;
/// The drawing's own size.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;

/// Five minutes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) served: u64,
    pub(super) fetched: u64,
    /// The largest medians and percentiles of its minutes, in seconds.
    pub(super) hit: [Option<f64>; 2],
    pub(super) miss: [Option<f64>; 2],
}

/// The last day up to `now_secs`, in steps.
pub(super) fn steps(minutes: &[MinuteSeen], now_secs: u64) -> Vec<Step> {
    let mut steps = vec![Step::default(); STEPS];
    let last = now_secs / STEP_SECS;
    for minute in minutes {
        let Some(ago) = last.checked_sub(minute.at / STEP_SECS) else { continue };
        let at = (STEPS - 1).checked_sub(usize::try_from(ago).unwrap_or(usize::MAX));
        let Some(step) = at.and_then(|at| steps.get_mut(at)) else { continue };
        step.hits += minute.hits;
        step.misses += minute.misses;
        step.served += minute.served_bytes;
        step.fetched += minute.fetched_bytes;
        let times = [minute.hit_p50_seconds, minute.hit_p99_seconds, minute.miss_p50_seconds, minute.miss_p99_seconds];
        let [a, b] = &mut step.hit;
        let [c, d] = &mut step.miss;
        for (place, time) in [a, b, c, d].into_iter().zip(times) {
            *place = [*place, time].into_iter().flatten().reduce(f64::max);
        }
    }
    steps
}

/// A line of steps; heights are shares of the whole height, and where there is none the line is broken.
pub(super) fn line(class: &str, heights: impl Iterator<Item = Option<f64>>) -> String {
    let mut path = String::new();
    let mut is_drawn = false;
    for (step, height) in heights.enumerate() {
        let (from, to) = (x(step), x(step + 1));
        if let Some(height) = height {
            // Writing to a String does not fail.
            let _ = write!(path, "{}{from:.1} {:.1}H{to:.1}", if is_drawn { 'L' } else { 'M' }, y(height));
        }
        is_drawn = height.is_some();
    }
    format!("<path class=\"{class}\" d=\"{path}\"/>")
}

/// The same, filled down to the ground.
pub(super) fn area(class: &str, heights: impl Iterator<Item = f64>) -> String {
    let mut path = format!("M0 {HEIGHT}");
    for (step, height) in heights.enumerate() {
        let _ = write!(path, "V{:.1}H{:.1}", y(height), x(step + 1));
    }
    format!("<path class=\"{class}\" d=\"{path}V{HEIGHT}Z\"/>")
}

/// A drawing of these, over a grid of so many rows.
pub(super) fn drawing(what: &str, rows: u64, parts: &[String]) -> String {
    let grid: String = (0..=rows).map(|row| format!("M0 {}H{WIDTH}", 100 * row / rows)).collect();
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{what}\">\
         <path class=\"grid\" d=\"{grid}\"/>{}</svg>",
        parts.concat()
    )
}

#[allow(clippy::cast_precision_loss, reason = "a few hundred")]
fn x(step: usize) -> f64 {
    step as f64 * WIDTH / STEPS as f64
}

fn y(height: f64) -> f64 {
    // A line at the very edge would be cut in half.
    (HEIGHT - height * HEIGHT).clamp(0.8, HEIGHT - 0.8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(at: u64, hits: u64, p99: Option<f64>) -> MinuteSeen {
        MinuteSeen {
            at,
            hits,
            misses: 1,
            passed: 0,
            served_bytes: 10,
            fetched_bytes: 1,
            hit_p50_seconds: p99.map(|p99| p99 / 2.0),
            hit_p99_seconds: p99,
            miss_p50_seconds: None,
            miss_p99_seconds: None,
        }
    }

    #[test]
    fn a_step_holds_five_minutes_and_the_last_one_is_now() {
        let now = 1_700_000_100;
        let begin = now - now % STEP_SECS;
        let rows = [
            minute(begin - 86_400, 9, None),
            minute(begin - 60, 1, Some(0.5)),
            minute(begin, 2, None),
            minute(begin + 60, 3, Some(0.25)),
            minute(begin + 600, 7, None),
        ];
        let steps = steps(&rows, now);
        assert_eq!((steps[STEPS - 1].hits, steps[STEPS - 2].hits), (5, 1));
        assert_eq!(steps[STEPS - 1].hit, [Some(0.125), Some(0.25)]);
        assert_eq!(steps.iter().map(|step| step.hits).sum::<u64>(), 6, "yesterday and tomorrow are not shown");
    }

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let heights = [Some(0.5), Some(1.0), None, Some(0.0)];
        assert_eq!(
            line("a", heights.into_iter()),
            "<path class=\"a\" d=\"M0.0 50.0H3.5L3.5 0.8H6.9M10.4 99.2H13.9\"/>"
        );
    }
}
