//! Progress on a terminal; none in a pipe, in JSON or where quiet was asked for.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Out;

/// A bar of bytes.
pub fn bytes(out: &Out) -> ProgressBar {
    bar(out, "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}")
}

/// A bar of objects.
pub fn objects(out: &Out) -> ProgressBar {
    bar(out, "{bar:30} {pos}/{len} objects {eta}")
}

fn bar(out: &Out, template: &str) -> ProgressBar {
    let is_wanted = !out.is_quiet() && !out.is_json();
    // To standard error, and to nothing where that is no terminal.
    let target = if is_wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}
