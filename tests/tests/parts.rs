//! The networks beside the denoiser, on every backend: text encoders against transformers, autoencoders against diffusers.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::model::{Autoencoder, Encoded, Model, Network, TextEncoder, Weights};
use unfog_core::denoise::Cond;
use unfog_core::nn::model::clip_text::Outputs;
use unfog_core::nn::model::latents::Moments;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::{close, psnr, same_bits};
use unfog_tests::golden::{Golden, Tensor, root};
use unfog_tests::{said, tolerance};

fn part(name: &str) -> PathBuf {
    root().join("tests/golden/parts").join(name)
}

/// A library error in words.
fn report(e: unfog::error::Error) -> String {
    e.report()
}

/// Evaluates a network on images or texts `x`, one after the other.
fn run(backend: &Backend, network: &Network, weights: &Weights, x: &[f32]) -> TestResult<Vec<f32>> {
    let (graph, data) = (network.graph(), weights.data());
    let images = x.len() / graph.sample_shape().ok_or("no input")?.len() as usize;
    let mut out = vec![f32::NAN; images * graph.shape(graph.output).len() as usize];
    backend.network(graph, &data, &[])?.predict(x, 0.0, &vec![Cond::None; images], &mut out)?;
    backend.check()?;
    Ok(out)
}

/// The cases of one kind: their numbers and networks' names.
fn cases(golden: &Golden, kind: &str) -> Vec<(usize, String)> {
    let name = |case: &Value| case["net"].as_str().unwrap_or_default().to_owned();
    let cases = golden.cases().iter().enumerate().filter(|(_, case)| case["kind"] == kind);
    let cases: Vec<_> = cases.map(|(number, case)| (number, name(case))).collect();
    assert!(cases.len() >= 4, "cases of {kind}: {cases:?}");
    cases
}

/// The backends that a network is tried on: in all ways one of each kind, since every op has cases of its own for those.
fn backends(name: &str) -> TestResult<Vec<Backend>> {
    let variants = if ["clip2", "kl3", "tiny"].contains(&name) { Backend::variants()? } else { Vec::new() };
    Ok(Backend::all()?.into_iter().chain(variants).collect())
}

#[test]
fn text_encoders_agree_with_transformers() -> TestResult {
    let golden = Golden::read("parts")?;
    let before = Outputs { skip: 0, final_norm: false, pooled: true };
    let skipped = Outputs { skip: 1, final_norm: true, pooled: false };
    let ways =
        [("last", Outputs::LAST), ("penultimate", Outputs::PENULTIMATE), ("before", before), ("skipped", skipped)];
    for (number, name) in cases(&golden, "text") {
        let encoder = TextEncoder::open(&part(&name)).map_err(report)?;
        let config = encoder.config();
        let rows = golden.part(number, "ids")?;
        let [texts, tokens] = rows.shape[..] else { return Err("ids of another shape".into()) };
        let ids: Vec<u32> = rows.values.iter().map(|id| *id as u32).collect();
        let mut x = vec![f32::NAN; ids.len()];
        for (ids, x) in ids.chunks_exact(tokens).zip(x.chunks_exact_mut(tokens)) {
            config.ids(ids, x).map_err(said)?;
        }
        for backend in &backends(&name)? {
            let tolerance = tolerance::part(backend);
            let mut worst = 0.0_f64;
            for (part, outputs) in ways {
                let what = format!("{name}, {part}, on {}", backend.name());
                let network = encoder.network(tokens as u32, outputs).map_err(report)?;
                let weights = encoder.weights(&network).map_err(report)?;
                let out = run(backend, &network, &weights, &x).map_err(|e| format!("{what}: {e}"))?;
                let mut states = vec![f32::NAN; ids.len() * config.hidden_size as usize];
                let mut pooled = vec![f32::NAN; texts * config.pooled_dim() as usize];
                for (i, out) in out.chunks_exact(out.len() / texts).enumerate() {
                    let (len, dim) = (states.len() / texts, pooled.len() / texts);
                    config.states(out, &mut states[i * len..][..len]).map_err(said)?;
                    if outputs.pooled {
                        let ids = &ids[i * tokens..][..tokens];
                        config.pooled(out, ids, &mut pooled[i * dim..][..dim]).map_err(said)?;
                    }
                }
                worst = worst.max(close(&what, &states, &golden.part(number, part)?.values, tolerance)?);
                if outputs.pooled {
                    let want = &golden.part(number, "pooled")?.values;
                    worst = worst.max(close(&format!("{what}, pooled"), &pooled, want, tolerance)?);
                }
            }
            println!("{name} on {}: at most {worst:.1e}", backend.name());
        }
    }
    Ok(())
}

#[test]
fn autoencoders_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("parts")?;
    for (number, name) in cases(&golden, "autoencoder") {
        let autoencoder = Autoencoder::open(&part(&name)).map_err(report)?;
        let size = |tensor: &Tensor| -> TestResult<[u32; 2]> {
            Ok([u32::try_from(tensor.shape[2])?, u32::try_from(tensor.shape[3])?])
        };
        let (picture, decoded) = (golden.part(number, "picture")?, golden.part(number, "decoded")?);
        let [[h, w], [rows, columns]] = [size(picture)?, size(decoded)?];
        let encoder = autoencoder.encoder(h, w).map_err(report)?;
        let decoder = autoencoder.decoder(rows, columns).map_err(report)?;
        let weights = [&encoder, &decoder].map(|network| autoencoder.weights(network).map_err(report));
        let [encoder_weights, decoder_weights] = weights;
        let (encoder_weights, decoder_weights) = (encoder_weights?, decoder_weights?);
        let latents = golden.part(number, "latents")?;
        let mut scaled = latents.values.clone();
        autoencoder.scaling().unscale(&mut scaled, latents.shape[2] * latents.shape[3]);
        for backend in &backends(&name)? {
            let what = format!("{name} on {}", backend.name());
            let tolerance = tolerance::part(backend);
            let check = |part: &str, got: &[f32]| -> TestResult<f64> {
                close(&format!("{what}, {part}"), got, &golden.part(number, part)?.values, tolerance)
            };
            let out = run(backend, &encoder, &encoder_weights, &picture.values).map_err(|e| format!("{what}: {e}"))?;
            let encoded = match autoencoder.encoded() {
                Encoded::Latents => check("encoded", &out)?,
                Encoded::Moments => {
                    let images = || out.chunks_exact(out.len() / picture.shape[0]).map(Moments::of);
                    let variances: Vec<f32> = images().flat_map(Moments::log_variance).collect();
                    let means: Vec<f32> = images().flat_map(|moments| moments.mean).copied().collect();
                    check("log_variance", &variances)?.max(check("encoded", &means)?)
                }
            };
            let out = run(backend, &decoder, &decoder_weights, &scaled).map_err(|e| format!("{what}: {e}"))?;
            println!("{what}: encoded {encoded:.1e}, decoded {:.1e}", check("decoded", &out)?);
        }
    }
    Ok(())
}

#[test]
fn a_batch_is_its_images_bit_by_bit() -> TestResult {
    let golden = Golden::read("parts")?;
    for backend in Backend::all()? {
        let encoder = TextEncoder::open(&part("clip1")).map_err(report)?;
        let network = encoder.network(77, Outputs::PENULTIMATE).map_err(report)?;
        let weights = encoder.weights(&network).map_err(report)?;
        let ids = &golden.part(0, "ids")?.values;
        let together = run(&backend, &network, &weights, ids)?;
        let apart: Vec<Vec<f32>> =
            ids.chunks_exact(77).map(|ids| run(&backend, &network, &weights, ids)).collect::<TestResult<_>>()?;
        same_bits(&format!("clip1 on {}", backend.name()), &together, &apart.concat())?;
    }
    Ok(())
}

/// Real weights, which this repository does not have: `UNFOG_TAEF2` names a folder with taef2_encoder.safetensors and
/// taef2_decoder.safetensors.
#[test]
#[ignore = "needs the weights of taef2"]
fn taef2_is_as_good_as_torch_has_it() -> TestResult {
    let source = PathBuf::from(std::env::var_os("UNFOG_TAEF2").ok_or("UNFOG_TAEF2 is not set")?);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("taef2");
    std::fs::create_dir_all(&folder)?;
    let bytes = [
        std::fs::read(source.join("taef2_encoder.safetensors"))?,
        std::fs::read(source.join("taef2_decoder.safetensors"))?,
    ];
    let [encoder, decoder] = [&bytes[0], &bytes[1]].map(|bytes| safetensors::SafeTensors::deserialize(bytes));
    let (encoder, decoder) = (encoder?, decoder?);
    let mut named = Vec::new();
    for (name, view) in encoder.tensors() {
        named.push((format!("encoder.layers.{name}"), view));
    }
    for (name, view) in decoder.tensors() {
        // taesd counts the bend before the first layer, diffusers does not.
        let (number, rest) = name.split_once('.').ok_or("a weight without a layer")?;
        named.push((format!("decoder.layers.{}.{rest}", number.parse::<u32>()? - 1), view));
    }
    std::fs::write(folder.join("diffusion_pytorch_model.safetensors"), safetensors::serialize(named, None)?)?;
    let config = json!({"_class_name": "AutoencoderTiny", "latent_channels": 32, "use_midblock_gn": true});
    std::fs::write(folder.join("config.json"), config.to_string())?;

    let golden = Golden::read("taef2")?;
    let (picture, latents, decoded) = (golden.tensor("picture")?, golden.tensor("latents")?, golden.tensor("decoded")?);
    let picture: Vec<f32> = picture.values.iter().map(|v| v / 127.5 - 1.0).collect();
    let decoded: Vec<f32> = decoded.values.iter().map(|v| v * 2.0 - 1.0).collect();
    let quality = |picture_made: &[f32]| {
        let clipped: Vec<f32> = picture_made.iter().map(|v| v.clamp(-1.0, 1.0)).collect();
        psnr(&clipped, &picture)
    };
    let expected = golden.cases()[0]["psnr"].as_f64().ok_or("no quality")?;
    assert!((quality(&decoded) - expected).abs() < 1e-3, "the golden's own quality");
    let autoencoder = Autoencoder::open(&folder).map_err(report)?;
    let [encoder, decoder] = [autoencoder.encoder(96, 64), autoencoder.decoder(96, 64)];
    let (encoder, decoder) = (encoder.map_err(report)?, decoder.map_err(report)?);
    let [encoder_weights, decoder_weights] = [autoencoder.weights(&encoder), autoencoder.weights(&decoder)];
    let (encoder_weights, decoder_weights) = (encoder_weights.map_err(report)?, decoder_weights.map_err(report)?);
    for backend in Backend::all()? {
        let what = format!("taef2 on {}", backend.name());
        let tolerance = tolerance::part(&backend);
        let code = run(&backend, &encoder, &encoder_weights, &picture)?;
        let far = close(&format!("{what}, encoded"), &code, &latents.values, tolerance)?;
        let made = run(&backend, &decoder, &decoder_weights, &code)?;
        let quality = quality(&made);
        println!(
            "{what}: encoded {far:.1e}, decoded {:.1e}, {quality:.3} dB, torch {expected:.3} dB",
            close(&format!("{what}, decoded"), &made, &decoded, tolerance)?
        );
        assert!((quality - expected).abs() < 0.1, "{what}: {quality} dB instead of {expected}");
    }
    Ok(())
}

#[test]
fn the_published_networks_have_the_published_sizes() -> TestResult {
    let folder = |name: &str, config: Value| -> TestResult<PathBuf> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("published-{name}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("config.json"), config.to_string())?;
        Ok(folder)
    };
    // What torch counts in the encoders of Stable Diffusion 1, 2 and XL.
    for (name, config, parameters) in [
        ("large", json!({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}), 123_060_480),
        (
            "huge",
            json!({"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23}),
            340_387_840,
        ),
        (
            "giant",
            json!({"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "intermediate_size": 5120,
                   "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280}),
            694_659_840,
        ),
    ] {
        let encoder = TextEncoder::open(&folder(name, config)?).map_err(report)?;
        let network = encoder.network(77, Outputs::PENULTIMATE).map_err(report)?;
        assert_eq!(network.parameters(), parameters, "{name}");
    }
    // Of the autoencoder of Stable Diffusion 1, and of TAESD, whose config equals diffusers' defaults.
    let kl = json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "down_block_types": vec!["DownEncoderBlock2D"; 4],
                    "up_block_types": vec!["UpDecoderBlock2D"; 4]});
    for (name, config, parameters) in [
        ("kl", kl, [34_163_664, 49_490_199]),
        ("tiny", json!({"_class_name": "AutoencoderTiny"}), [1_222_532, 1_222_531]),
    ] {
        let autoencoder = Autoencoder::open(&folder(name, config)?).map_err(report)?;
        let [encoder, decoder] = [autoencoder.encoder(512, 512), autoencoder.decoder(512, 512)];
        let counts = [encoder.map_err(report)?.parameters(), decoder.map_err(report)?.parameters()];
        assert_eq!((counts, autoencoder.multiples()), (parameters, [8, 8]), "{name}");
    }
    Ok(())
}

/// What opening the part `name` and building its networks says, with `key` of its config set to `value`.
fn refusal(name: &str, key: &str, value: &Value) -> TestResult<String> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(part(name).join("config.json"))?)?;
    config[key] = value.clone();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refused-{name}-{key}"));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("config.json"), config.to_string())?;
    for file in ["model.safetensors", "diffusion_pytorch_model.safetensors"] {
        if part(name).join(file).is_file() {
            std::fs::copy(part(name).join(file), folder.join(file))?;
        }
    }
    let result = match part(name).join("model.safetensors").is_file() {
        true => TextEncoder::open(&folder).and_then(|encoder| {
            let network = encoder.network(21, Outputs::PENULTIMATE)?;
            encoder.weights(&network)
        }),
        false => Autoencoder::open(&folder).and_then(|autoencoder| {
            autoencoder.weights(&autoencoder.encoder(144, 144)?)?;
            autoencoder.weights(&autoencoder.decoder(144, 144)?)
        }),
    };
    match result {
        Ok(_) => Err(format!("{name} with {key} {value} is taken").into()),
        Err(e) => Ok(e.report()),
    }
}

#[test]
fn bad_configs_are_refused_in_one_line() -> TestResult {
    for (name, key, value, says) in [
        ("clip2", "hidden_act", json!("gelu_new"), "hidden_act is \"gelu_new\", expected \"quick_gelu\" or \"gelu\""),
        ("clip2", "num_attention_heads", json!(3), "3 attention heads don't divide its 10 channels"),
        ("clip2", "num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("clip2", "hidden_size", json!(null), "hidden_size is null, expected a whole number"),
        ("clip2", "vocab_size", json!(99_999_999), "vocab_size"),
        ("clip2", "vocab_size", json!(38), "text_model.embeddings.token_embedding.weight has the shape [37, 10]"),
        ("clip2", "max_position_embeddings", json!(20), "room for 1 to 20"),
        ("clip2", "num_hidden_layers", json!(0), "has 0 layers"),
        ("clip2", "num_hidden_layers", json!(3), "lacks the weight text_model.encoder.layers.2.layer_norm1.weight"),
        ("clip2", "architectures", json!(["CLIPModel"]), "architectures is [\"CLIPModel\"]"),
        ("clip2", "architectures", json!(["CLIPTextModelWithProjection"]), "lacks the weight text_projection.weight"),
        ("clip2", "model_type", json!("t5"), "model_type is \"t5\""),
        ("clip2", "eos_token_id", json!([1, 2]), "eos_token_id is [1,2]"),
        ("kl1", "_class_name", json!("VQModel"), "the autoencoder is a VQModel"),
        ("kl1", "act_fn", json!("tanhexp"), "act_fn is \"tanhexp\""),
        ("kl1", "norm_num_groups", json!(3), "3 groups of a normalisation don't divide 8 channels"),
        ("kl1", "down_block_types", json!(["DownBlock2D"]), "down_block_types"),
        ("kl1", "block_out_channels", json!([8, 12]), "block_out_channels must have the same length"),
        ("kl1", "layers_per_block", json!(0), "layers_per_block is 0"),
        ("kl1", "layers_per_block", json!(2), "lacks the weight encoder.down_blocks.0.resnets.1"),
        ("kl1", "latent_channels", json!(0), "latent_channels is 0"),
        ("kl1", "scaling_factor", json!(0), "scaling_factor is 0"),
        ("kl1", "latents_mean", json!([1.0]), "latents_mean is [1.0], expected 4 numbers"),
        ("kl1", "latents_std", json!([1.0, 1.0, 1.0, 1.0]), "expected a list where latents_mean is one"),
        ("kl-plain", "latents_std", json!([1.0, 0.0, 1.0]), "expected numbers other than 0"),
        ("kl-plain", "mid_block_add_attention", json!(true), "lacks the weight encoder.mid_block.attentions.0"),
        ("tiny", "upsample_fn", json!("bilinear"), "upsample_fn is \"bilinear\""),
        ("tiny", "num_decoder_blocks", json!([3, 3]), "as many numbers as decoder_block_out_channels has"),
        ("tiny", "decoder_block_out_channels", json!([8, 8, 4, 8]), "would combine"),
        ("tiny", "upsampling_scaling_factor", json!(0), "upsampling_scaling_factor is 0"),
        ("tiny", "use_midblock_gn", json!(true), "lacks the weight encoder.layers.11.pool.0.weight"),
    ] {
        let said = refusal(name, key, &value)?;
        assert!(said.contains(says), "{name}, {key} {value}: {said}");
        assert!(
            said.lines().next().is_some_and(|line| line.contains(says)),
            "{name}, {key} {value}: not in one line: {said}"
        );
    }
    let autoencoder = Autoencoder::open(&part("kl1")).map_err(report)?;
    let size = autoencoder.decoder(18, 16).err().ok_or("an odd size is taken")?.report();
    assert!(size.contains("16x18") && size.contains("multiples of 4"), "{size}");
    Ok(())
}

#[test]
fn a_whole_pipelines_parts_are_found() -> TestResult {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipeline");
    let parts = [
        ("unet", root().join("tests/golden/nets/sd1")),
        ("text_encoder", part("clip1")),
        ("text_encoder_2", part("clip-projection")),
        ("vae", part("kl1")),
    ];
    for (name, from) in parts {
        std::fs::create_dir_all(folder.join(name))?;
        for file in std::fs::read_dir(from)? {
            let file = file?;
            std::fs::copy(file.path(), folder.join(name).join(file.file_name()))?;
        }
    }
    std::fs::write(folder.join("model_index.json"), json!({"_class_name": "StableDiffusionXLPipeline"}).to_string())?;
    let model = Model::open(Some(&folder)).map_err(report)?;
    let encoders = model.text_encoders().map_err(report)?;
    let projections: Vec<_> = encoders.iter().map(|encoder| encoder.config().projection_dim).collect();
    assert_eq!(projections, [None, Some(11)]);
    for encoder in &encoders {
        encoder.weights(&encoder.network(77, Outputs::PENULTIMATE).map_err(report)?).map_err(report)?;
    }
    let autoencoder = model.autoencoder().map_err(report)?.ok_or("no autoencoder")?;
    assert_eq!((autoencoder.latent_channels(), autoencoder.channels()), (4, [3, 3]));
    autoencoder.weights(&autoencoder.decoder(16, 16).map_err(report)?).map_err(report)?;
    // A network alone has no parts, and neither has a model of pixels.
    for path in [root().join("tests/golden/nets/sd1"), root().join("models/mednist-ddpm")] {
        let model = Model::open(Some(&path)).map_err(report)?;
        assert!(model.text_encoders().map_err(report)?.is_empty() && model.autoencoder().map_err(report)?.is_none());
    }
    Ok(())
}
