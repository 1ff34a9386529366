//! `UNet2DConditionModel` beyond one evaluation (which tests/networks.rs has): the published sizes, configs that can't be followed,
//! conditions that don't fit, packs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::backend::Precision;
use unfog::backend::{Backend, Kind, Request};
use unfog::model::Model;
use unfog::pack::pack;
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_tests::TestResult;
use unfog_tests::compare::same_bits;
use unfog_tests::golden::{Golden, root};
use unfog_tests::net::Net;
use unfog_tests::said;

const SMALL: [&str; 5] = ["sd1", "sd2", "sdxl", "guided", "table"];

fn small(name: &str) -> PathBuf {
    root().join("tests/golden/nets").join(name)
}

fn open(path: &Path) -> TestResult<Model> {
    Model::open(Some(path)).map_err(|e| e.report().into())
}

#[test]
fn the_published_networks_have_the_published_sizes() -> TestResult {
    // The published numbers of parameters of the networks of stable-diffusion-v1-5, -2-1 and -xl-base-1.0.
    for (name, size, parameters) in
        [("sd15", 64, 859_520_964), ("sd21", 96, 865_910_724), ("sdxl", 128, 2_567_463_684_u64)]
    {
        let model = open(&root().join("tests/bench/unets").join(name))?;
        assert_eq!((model.size(), model.channels()), (Some((size, size)), [4, 4]), "{name}");
        let network = model.network(size, size).map_err(|e| e.report())?;
        assert_eq!(network.parameters(), parameters, "{name}");
        let graph = network.graph();
        let mut slots = vec![Slot::default(); slots_needed(&graph)];
        let plan = plan(&graph, &Target::STORED, &mut slots).map_err(said)?;
        println!("{name}: {} nodes, {} bytes planned of {} at least", graph.nodes.len(), plan.bytes, plan.lower_bound);
        // The issue asks for a plan within a tenth of the largest live set.
        assert!(plan.bytes * 10 <= plan.lower_bound * 11, "{name}");
    }
    Ok(())
}

/// What opening a model says whose config is that of the net "sd1" with `key` set to `value`.
fn refusal(key: &str, value: Value) -> TestResult<String> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(small("sd1").join("config.json"))?)?;
    config[key] = value;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refused-{key}"));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let network = Model::open(Some(&folder)).and_then(|model| model.network(8, 8).map(|_| ()));
    match network {
        Ok(()) => Err(format!("a config with this {key} is taken").into()),
        Err(e) => Ok(e.report()),
    }
}

#[test]
fn what_is_not_supported_is_refused_by_its_key() -> TestResult {
    for (key, value) in [
        ("attention_type", json!("gated")),
        ("class_embeddings_concat", json!(true)),
        ("cross_attention_norm", json!("layer_norm")),
        ("dual_cross_attention", json!(true)),
        ("num_attention_heads", json!(8)),
        ("resnet_out_scale_factor", json!(1.5)),
        ("resnet_skip_time_act", json!(true)),
        ("reverse_transformer_layers_per_block", json!([[1], [2]])),
        ("time_embedding_act_fn", json!("silu")),
        ("time_embedding_type", json!("fourier")),
        ("timestep_post_act", json!("silu")),
        ("mid_block_only_cross_attention", json!(true)),
        ("encoder_hid_dim_type", json!("image_proj")),
        ("class_embed_type", json!("other")),
        ("addition_embed_type", json!("image")),
        ("act_fn", json!("tanhexp")),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("down_block_types", json!(["SimpleCrossAttnDownBlock2D", "DownBlock2D"])),
        ("up_block_types", json!(["UpBlock2D"])),
        ("attention_head_dim", json!([1, 2, 3])),
        ("attention_head_dim", json!(0)),
        ("attention_head_dim", json!(99)),
        ("cross_attention_dim", json!([6, 7])),
        ("transformer_layers_per_block", json!([[1], [2]])),
        ("only_cross_attention", json!("yes")),
        ("layers_per_block", json!(0)),
        ("conv_in_kernel", json!(4)),
        ("norm_num_groups", json!(null)),
        ("mid_block_scale_factor", json!(0)),
    ] {
        let said = refusal(key, value.clone())?;
        assert!(said.contains(key), "{key} {value}: {said}");
    }
    let without_dim = refusal("addition_embed_type", json!("text_time"))?;
    assert!(without_dim.contains("projection_class_embeddings_input_dim"), "{without_dim}");
    let groups = refusal("norm_num_groups", json!(3))?;
    assert!(groups.contains("3 groups of a normalisation don't divide 8 channels"), "{groups}");
    Ok(())
}

#[test]
fn conditions_that_don_t_fit_are_refused() -> TestResult {
    for name in SMALL {
        let net = Net::open(&format!("tests/golden/nets/{name}"))?;
        let embedding = net.graph.interface().ok_or("no image")?.embedding;
        let (x, mut out) = (vec![0.5; net.len()], vec![0.0; net.out_len()]);
        for kind in [Kind::Reference, Kind::Cpu] {
            let request = Request { kind, ..Request::default() };
            let mut backend =
                Backend::open(&request, net.graph, net.weights, &Stop::default()).map_err(|e| e.report())?;
            for len in [0, embedding - 1, embedding + 1, 2 * embedding] {
                assert!(backend.load_embedding(&vec![0.5; len]).is_err(), "{name}, {kind:?}: {len} values");
            }
            let loaded = backend.load_embedding(&vec![0.5; embedding]).map_err(|e| e.report())?;
            for wrong in [Cond::None, Cond::Class(0), Cond::Loaded(7)] {
                assert!(backend.predict(&x, 1.0, &[wrong], &mut out).is_err(), "{name}, {kind:?}: {wrong:?}");
            }
            backend.predict(&x, 1.0, &[loaded], &mut out).map_err(|e| e.report())?;
            assert!(out.iter().all(|v| v.is_finite()), "{name}, {kind:?}");
        }
    }
    Ok(())
}

#[test]
fn sampling_takes_a_whole_pipeline() -> TestResult {
    let options = Options { model: Some(small("sd1")), schedule: Some("linear".into()), ..Options::default() };
    match sample(&options, &Stop::default(), &mut |_| ()) {
        Ok(_) => Err("a picture without a prompt".into()),
        Err(e) => {
            assert!(e.report().contains("has no text encoder and autoencoder beside it"), "{}", e.report());
            Ok(())
        }
    }
}

#[test]
fn packs_hold_these_networks_too() -> TestResult {
    let golden = Golden::read("nets")?;
    for name in SMALL {
        let number = golden.cases().iter().position(|case| case["net"] == name).ok_or("no case")?;
        let (x, condition) = (golden.part(number, "x")?, golden.part(number, "embedding")?);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pack"));
        pack(&open(&small(name))?, None, Precision::F32, &path).map_err(|e| e.report())?;
        let path = path.canonicalize()?;
        let (packed, plain) =
            (Net::open(path.to_str().ok_or("no text")?)?, Net::open(&format!("tests/golden/nets/{name}"))?);
        assert!(packed.model.takes_embedding(), "{name}");
        let evaluate = |net: &Net| -> TestResult<Vec<f32>> {
            let backend = unfog_tests::backend::Backend::Reference;
            let mut values = condition.values[..condition.shape[1]].to_vec();
            // What is concatenated to the noisy image comes last.
            values.resize(net.graph.interface().map_or(0, |interface| interface.embedding), 0.5);
            let mut denoiser = backend.denoiser(net, &[&values])?;
            let mut out = vec![f32::NAN; net.out_len()];
            denoiser.predict(&x.values[..net.len()], 7.0, &[Cond::Loaded(0)], &mut out)?;
            Ok(out)
        };
        same_bits(name, &evaluate(&packed)?, &evaluate(&plain)?)?;
    }
    Ok(())
}
