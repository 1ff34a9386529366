//! `unfog pack`

use std::path::PathBuf;

use clap::ValueEnum;
use unfog::Result;
use unfog::model::Model;
use unfog::pack::{Storage, pack};

use super::args::Size;
use super::output::{self, bytes};

/// How kernels are stored.
#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Int8,
}

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
    /// How the weights of convolutions and linear layers are stored
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Precision::F32)]
    precision: Precision,
}

/// Packs the model.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = Model::open(args.model.as_deref())?;
    let storage = match args.precision {
        Precision::F32 => Storage::F32,
        Precision::F16 => Storage::F16,
        Precision::Int8 => Storage::Int8,
    };
    let packed = pack(&model, args.size.map(|Size(w, h)| (w, h)), storage, &args.out)?;
    output::print(&format!(
        "{}: {}; an image's activations take {}\n",
        args.out.display(),
        bytes(packed.bytes),
        bytes(packed.arena_bytes)
    ))
}
