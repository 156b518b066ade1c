//! `uspcache mp4split`: the common packager's command lines that prepare content, as they stand.
//!
//! They become those of [`index`] and [`manifest`]. Nothing that was asked for is passed over in silence: an option that
//! is not known is refused by its name, by clap.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use super::failure::{Code, Failure};
use super::output::Out;
use super::place::Place;
use super::{index, manifest, storage};

/// Take the packager's command lines: an index with --use_dref_no_subs, a manifest for OUT.ism
#[derive(clap::Args)]
pub struct Args {
    /// The index or the manifest; it is replaced if it is there
    #[arg(short, value_name = "OUT")]
    output: OsString,
    /// Make an index, without sub-samples
    #[arg(long = "use_dref_no_subs")]
    use_dref_no_subs: bool,
    // With sub-samples.
    #[arg(long = "use_dref", hide = true)]
    use_dref: bool,
    /// Fragmented MP4s for an index; indexes or media for a manifest
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<OsString>,
    #[command(flatten)]
    storage: storage::Options,
}

/// Makes what the name of the output says.
pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let refused = |why: &str| Err(Failure::Usage(format!("{}: {why}", args.output.to_string_lossy())));
    if args.use_dref {
        return refused("--use_dref lists sub-samples, which no index of ours does; use --use_dref_no_subs");
    }
    if args.output.as_bytes().starts_with(b"stdout:") {
        return refused("is put in the place of a file, never into a pipe; give -o a file's name");
    }
    let storage = args.storage.open()?;
    let output = Place::parse(&args.output, &storage)?;
    let inputs: Result<Vec<_>, _> = args.inputs.iter().map(|input| Place::parse(input, &storage)).collect();
    let is_manifest = output.has_suffix(".ism");
    if is_manifest && args.use_dref_no_subs {
        return refused(
            "--use_dref_no_subs makes an index, and a manifest is none; leave it out, or give -o another name",
        );
    }
    if is_manifest {
        manifest::make(&storage, &output, &inputs?, out)?;
    } else if args.use_dref_no_subs {
        index::make(&storage, &output, &inputs?, &[], out)?;
    } else {
        return refused("packaging is not what this does; it makes .ism, and indexes with --use_dref_no_subs");
    }
    Ok(Code::Done)
}
