//! `unfog pack`

use std::path::PathBuf;

use unfog::Result;
use unfog::backend::Precision;
use unfog::model::Model;
use unfog::pack::pack;

use super::args::Size;
use super::output::{self, bytes};

/// Write a model's network as one flat file, which firmware can run where it lies
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the model [default: glyph-tiny, which is built in]
    model: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Width and height of an image [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// How the weights of convolutions and linear layers are stored: f32, f16, int8 or q4
    #[arg(long, value_name = "NAME", default_value = "f32")]
    precision: Precision,
}

/// Packs the model.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = Model::open(args.model.as_deref())?;
    let packed = pack(&model, args.size.map(|Size(w, h)| (w, h)), args.precision, &args.out)?;
    output::print(&format!(
        "{}: {}; an image's activations take {}\n",
        args.out.display(),
        bytes(packed.bytes),
        bytes(packed.arena_bytes)
    ))
}
