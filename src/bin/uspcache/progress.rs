//! Progress on a terminal; none in a pipe, in JSON or where quiet was asked for.

use std::io;
use std::ops::Range;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use mod_usp_storage_cache::mp4::media::Media;

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

/// Media that is read from its start to its end, and how far that is.
pub struct Watched<'m, M: ?Sized> {
    media: &'m M,
    bar: &'m ProgressBar,
}

impl<'m, M: Media + ?Sized> Watched<'m, M> {
    /// Shows it on `bar`, whose unit is bytes.
    pub fn new(media: &'m M, bar: &'m ProgressBar) -> Self {
        bar.set_length(media.len());
        Self { media, bar }
    }
}

impl<M: Media + ?Sized> Watched<'_, M> {
    /// What is read up to the end is the list of fragments that lies there, or the last of all.
    fn show(&self, end: u64) {
        if end < self.media.len() {
            self.bar.set_position(end);
        }
    }
}

impl<M: Media + ?Sized> Media for Watched<'_, M> {
    fn len(&self) -> u64 {
        self.media.len()
    }

    fn etag(&self) -> Option<&str> {
        self.media.etag()
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let read = self.media.read(ranges)?;
        ranges.last().inspect(|last| self.show(last.end));
        Ok(read)
    }

    fn read_into(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.show(range.end);
        self.media.read_into(range, bytes)
    }
}
