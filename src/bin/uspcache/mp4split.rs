//! `uspcache mp4split`: the common packager's command lines that prepare content, as they stand.
//!
//! They become those of [`index`] and [`manifest`]. Nothing that was asked for is passed over in silence: an option that
//! is not known is refused by its name, by clap.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::failure::{Code, Failure};
use super::output::Out;
use super::{index, manifest};

/// Take the packager's command lines: an index with --use_dref_no_subs, a manifest for OUT.ism
#[derive(clap::Args)]
pub struct Args {
    /// The index or the manifest; it is replaced if it is there
    #[arg(short, value_name = "OUT")]
    output: PathBuf,
    /// Make an index, without sub-samples
    #[arg(long = "use_dref_no_subs")]
    use_dref_no_subs: bool,
    // With sub-samples.
    #[arg(long = "use_dref", hide = true)]
    use_dref: bool,
    /// Fragmented MP4s for an index; indexes or media for a manifest
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,
}

/// Makes what the name of the output says.
pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let refused = |why: &str| Err(Failure::Usage(format!("{}: {why}", args.output.display())));
    if args.use_dref {
        return refused("--use_dref lists sub-samples, which no index of ours does; use --use_dref_no_subs");
    }
    if args.output.as_os_str().as_bytes().starts_with(b"stdout:") {
        return refused("is put in the place of a file, never into a pipe; give -o a file's name");
    }
    let (output, inputs) = (args.output.clone(), args.inputs.clone());
    if manifest::is_manifest(&output) {
        return manifest::run(&manifest::Args { output, inputs }, out);
    }
    if !args.use_dref_no_subs {
        return refused("packaging is not what this does; it makes .ism, and indexes with --use_dref_no_subs");
    }
    index::run(&index::Args { output, tracks: Vec::new(), inputs }, out)
}
