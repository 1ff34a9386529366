//! `unfog inspect`

use std::fmt::Write;
use std::path::PathBuf;

use unfog::Result;
use unfog::inspect::{Inspection, inspect};
use unfog::model::Model;

use super::args::{BackendArgs, Size};
use super::output::{self, bytes};

/// Show a model's layers, parameters, operations and memory plan
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the model [default: glyph-tiny, which is built in]
    model: Option<PathBuf>,
    /// Width and height of an image [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    #[command(flatten)]
    backend: BackendArgs,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// Inspects the model.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = Model::open(args.model.as_deref())?;
    let inspection = inspect(&model, args.size.map(|Size(w, h)| (w, h)), &args.backend.request())?;
    if args.json {
        return output::json(&inspection);
    }
    output::print(&text(&inspection))
}

fn text(i: &Inspection) -> String {
    let mut text = String::from("     op          output        parameters      MFLOP  name\n");
    let mut line = |args: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = text.write_fmt(args);
        text.push('\n');
    };
    for (number, layer) in i.layers.iter().enumerate() {
        let [h, w, c] = layer.output;
        let (shape, mflops) = (format!("{h}x{w}x{c}"), layer.flops as f64 / 1e6);
        line(format_args!(
            "{number:4} {:11} {shape:13} {:10} {mflops:10.3}  {}",
            layer.op, layer.parameters, layer.name
        ));
    }
    line(format_args!(""));
    line(format_args!(
        "model       {} ({}), {}x{}, {} channels in, {} out",
        i.model, i.architecture, i.width, i.height, i.in_channels, i.out_channels
    ));
    if !i.classes.is_empty() {
        let names: Vec<String> =
            i.classes.iter().take(20).map(|(label, name)| name.clone().unwrap_or_else(|| label.to_string())).collect();
        let more = if i.classes.len() > 20 { ", ..." } else { "" };
        line(format_args!("classes     {}: {}{more}", i.classes.len(), names.join(", ")));
    }
    if let (Some(sampler), Some(train_steps)) = (i.sampler, i.train_steps) {
        line(format_args!("chain       {train_steps} timesteps, sampler {sampler}"));
    }
    line(format_args!("parameters  {}", i.parameters));
    line(format_args!("weights     {} as stored, sha256 {}", bytes(i.weight_bytes), i.weights_sha256));
    line(format_args!("operations  {:.3} GFLOP an evaluation of one image", i.flops as f64 / 1e9));
    line(format_args!(
        "activations {} an image as planned; no plan can take less than {}",
        bytes(i.plan_bytes),
        bytes(i.plan_lower_bound)
    ));
    for needs in &i.memory {
        let device = needs.device.as_ref().map_or(String::new(), |device| format!(" ({device})"));
        line(format_args!("on {}{device}", needs.backend.name()));
        if let Some(reason) = &needs.refused {
            line(format_args!("   refused  {reason}"));
            continue;
        }
        let streamed = match needs.streamed_bytes {
            0 => String::new(),
            n => format!(", {} more for each evaluation through a window of {}", bytes(n), bytes(needs.window_bytes)),
        };
        line(format_args!("   weights  {}{streamed}", bytes(needs.weight_bytes)));
        line(format_args!(
            "   arena    {} an image, {} of it scratch memory; {} an image for transfers; {} images at once",
            bytes(needs.plan_bytes),
            bytes(needs.workspace_bytes),
            bytes(needs.transfer_bytes),
            needs.images
        ));
    }
    stages(i, &mut line);
    text
}

/// The stages of a whole pipeline, on each backend.
fn stages(i: &Inspection, line: &mut dyn FnMut(std::fmt::Arguments<'_>)) {
    for (number, needs) in i.stages.first().into_iter().flat_map(|stage| stage.memory.iter().enumerate()) {
        line(format_args!("the whole pipeline on {}, stage by stage", needs.backend.name()));
        for stage in &i.stages {
            let needs = &stage.memory[number];
            if let Some(reason) = &needs.refused {
                line(format_args!("   {:16}refused: {reason}", stage.stage));
                continue;
            }
            line(format_args!(
                "   {:16}{} stored, {} held, {} an image, {:.1} GFLOP",
                stage.stage,
                bytes(stage.weight_bytes),
                bytes(needs.weight_bytes.saturating_add(needs.window_bytes)),
                bytes(needs.plan_bytes.saturating_add(needs.transfer_bytes)),
                stage.flops as f64 / 1e9
            ));
        }
        let whole = i.stages.iter().filter(|stage| !stage.stage.starts_with("tiles"));
        let most = whole.map(|stage| stage.memory[number].total()).max().unwrap_or(0);
        line(format_args!("   {:16}{} beside the files' own pages", "at most", bytes(most)));
    }
}
