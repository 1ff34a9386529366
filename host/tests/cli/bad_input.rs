//! Bad input gets one clear line, the right exit code, and leaves no file.

use crate::common::{Place, Tensor, WEIGHTS, check_failure, halves, models};
use safetensors::tensor::Dtype;

/// A run that would work, but for what is added.
fn refused(more: &[&str], says: &str) {
    Place::new().fail(&[&["sample", "--backend", "cpu", "--steps", "1"], more].concat(), 2, says);
}

fn mednist() -> String {
    models().join("mednist-ddpm").display().to_string()
}

#[test]
fn options_out_of_range() {
    let place = Place::new();
    place.fail(&["sample", "--steps", "0"], 2, "0 steps");
    place.fail(&["sample", "--steps", "1001"], 2, "1001 steps");
    place.fail(&["sample", "--steps", "x"], 2, "'x'");
    refused(&["--count", "0"], "--count 0");
    refused(&["--first", "18446744073709551615"], "--first");
    refused(&["--eta", "1.5"], "eta 1.5");
    refused(&["--eta", "nan"], "eta NaN");
    refused(&["--guidance", "inf", "--model", &mednist()], "--guidance inf");
    refused(&["--threads", "0"], "0 threads");
    refused(&["--size", "0x16"], "--size");
    refused(&["--size", "16"], "--size");
    refused(&["--size", "17x16"], "17x16");
    refused(&["--size", "16x18", "--model", &mednist()], "multiples of 8");
    refused(&["--size", "4294967294x4294967294"], "too large");
    refused(&["--count", "4000000000"], "sheet");
}

#[test]
fn unknown_names() {
    refused(&["--sampler", "foo"], "foo");
    refused(&["--schedule", "foo"], "known: linear, scaled_linear");
    refused(&["--sampler", "euler", "--sigmas", "foo"], "known: timesteps, karras");
    refused(&["--sampler", "euler", "--sigmas", "karras:x"], "karras:x");
    refused(&["--sampler", "euler", "--sigmas", "beta:2"], "takes no number");
    refused(&["--noise", "foo"], "known: philox, torch-cpu");
    refused(&["--guidance-rule", "foo"], "known: cfg, cfg-pp");
    refused(&["--parity", "foo"], "foo");
    refused(&["--precision", "f8"], "known: f32, f16, int8, q4");
    refused(&["--prompt", "a cat"], "--prompt");
    let place = Place::new();
    place.fail(&["sample", "--backend", "foo"], 2, "foo");
    place.fail(&["refine"], 2, "refine");
    place.fail(&[], 2, "no command");
}

#[test]
fn contradictions() {
    refused(&["--sampler", "ddpm", "--eta", "0"], "--eta");
    refused(&["--sigmas", "karras"], "--sigmas means nothing to the sampler ddim");
    refused(&["--device", "0"], "--device");
    Place::new().fail(&["sample", "--backend", "reference", "--threads", "2"], 2, "--threads");
    refused(&["--out", "a.png", "--latents-out", "a.png"], "same file");
}

#[test]
fn classes_and_guidance() {
    refused(&["--class", "0"], "no classes");
    refused(&["--guidance", "2"], "--guidance");
    let guided = |more: &[&str], says: &str| refused(&[&["--model", &mednist()], more].concat(), says);
    guided(&["--guidance-rescale", "0.7"], "--guidance-rescale means nothing without guidance");
    guided(&["--negative", "Hand"], "--negative means nothing without guidance");
    guided(&["--guidance", "2", "--guidance-rescale", "1.1"], "--guidance-rescale 1.1");
    guided(&["--guidance", "2", "--guidance-interval", "0.5,0.1"], "--guidance-interval");
    guided(&["--guidance", "2", "--guidance-interval", "0.5"], "two numbers");
    guided(&["--guidance", "2", "--guidance-rule", "cfg-pp"], "between 0 and 1");
    guided(&["--guidance", "2", "--guidance-rule", "perp-neg"], "give --negative");
    guided(&["--guidance", "2", "--negative", "Foot"], "Hand");
    refused(&["--class", "7", "--model", &mednist()], "no class 7");
    refused(&["--class", "-1", "--model", &mednist()], "-1");
    refused(&["--class", "Foot", "--model", &mednist()], "Hand");
}

#[test]
fn outputs_that_can_t_be_written() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    std::fs::create_dir(place.path("folder.png")).unwrap();
    let run = |out: &str, code, says| {
        place.fail(&["sample", "--backend", "cpu", "--steps", "1", "--out", out], code, says);
    };
    run("folder", 2, "no extension");
    run("folder.png", 2, "is a folder");
    run("none/a.png", 2, "none");
    run("a.xyz", 2, "unknown extension");
    run("a", 2, "no extension");
    run("a.ppm", 2, "channels");
    place.fail(&["sample", "--backend", "cpu", "--steps", "1", "--latents-out", "none/a"], 2, "none");
}

#[cfg(target_os = "linux")]
#[test]
fn full_disks_and_closed_folders() {
    let place = Place::new();
    let run = ["sample", "--backend", "cpu", "--steps", "1"];
    place.fail(&[&run[..], &["--out", "/dev/full"]].concat(), 1, "/dev/full");
    place.fail(&[&run[..], &["--quiet", "--latents-out", "/dev/full"]].concat(), 1, "/dev/full");
    place.fail(&[&run[..], &["--out", "/proc/a.png"]].concat(), 1, "/proc/a.png");
    std::fs::write(place.path("old.png"), "old").unwrap();
    std::fs::set_permissions(place.path("old.png"), std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    place.fail(&[&run[..], &["--out", "old.png"]].concat(), 1, "read-only");
    // Also what a command prints: a full disk behind standard output.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = place.command(&["schedule", "--steps", "9"]).stdout(full).stderr(std::process::Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn missing_models_and_files() {
    let place = Place::new();
    place.fail(&["sample", "--model", "none"], 1, "none");
    place.fail(&["inspect", "none"], 1, "none");
    place.fail(&["bench", "--model", "none"], 1, "none");
    place.fail(&["forward", "none.png"], 1, "none.png");
    place.fail(&["schedule", "--steps", "5", "--config", "none.json"], 1, "none.json");
    place.fail(&["sample", "--steps", "1", "--noise-in", "none"], 1, "none");
    std::fs::write(place.path("file"), "text").unwrap();
    place.fail(&["sample", "--model", "file"], 1, "is neither a model's folder nor a pack");
    place.fail(&["forward", "file"], 1, "file");
    for (file, says) in [
        ("unet/config.json", "config.json"),
        (WEIGHTS, "diffusion_pytorch_model.safetensors"),
        ("model_index.json", "model"),
    ] {
        let place = Place::new();
        let model = place.model();
        std::fs::remove_file(model.folder.join(file)).unwrap();
        model.fails(says);
    }
}

#[test]
fn a_model_without_a_schedule_needs_one_named() {
    let place = Place::new();
    let model = place.model();
    std::fs::remove_dir_all(model.folder.join("scheduler")).unwrap();
    model.fails("--schedule");
    place.succeed(&["sample", "--model", "model", "--backend", "cpu", "--steps", "1", "--schedule", "cosine"]);
}

#[test]
fn unknown_architectures_and_options() {
    let cases = [
        ("model_index.json", "DDIMPipeline", "StableDiffusionPipeline"),
        ("unet/config.json", "UNet2DModel", "UNet3DModel"),
        ("unet/config.json", "\"AttnDownBlock2D\"", "\"SkipDownBlock2D\""),
        ("unet/config.json", "\"AttnUpBlock2D\"", "\"SkipUpBlock2D\""),
        ("unet/config.json", "\"silu\"", "\"tanhexp\""),
        ("unet/config.json", "\"positional\"", "\"cubic\""),
        ("unet/config.json", "\"resnet_time_scale_shift\": \"default\"", "\"resnet_time_scale_shift\": \"ada\""),
        ("unet/config.json", "\"downsample_type\": \"conv\"", "\"downsample_type\": \"pool\""),
        ("unet/config.json", "\"class_embed_type\": null", "\"class_embed_type\": \"projection\""),
        ("unet/config.json", "\"mid_block_type\": \"UNetMidBlock2D\"", "\"mid_block_type\": \"Other\""),
        ("unet/config.json", "\"norm_num_groups\": 4", "\"norm_num_groups\": \"four\""),
        ("scheduler/scheduler_config.json", "DDIMScheduler", "VQDiffusionScheduler"),
        ("scheduler/scheduler_config.json", "squaredcos_cap_v2", "gaussian"),
        ("scheduler/scheduler_config.json", "\"leading\"", "\"trailing2\""),
        ("scheduler/scheduler_config.json", "\"epsilon\"", "\"flow\""),
    ];
    for (file, from, to) in cases {
        let place = Place::new();
        let model = place.model();
        model.replace(file, from, to);
        let named = to.rsplit(": ").next().unwrap().trim_matches('"');
        model.fails(named);
    }
}

/// One line that names the key, what it holds and what it may hold.
#[test]
fn scheduler_configs_that_can_t_be_followed() {
    let place = Place::new();
    for (config, says) in [
        (r#"{}"#, "_class_name is nothing, expected a scheduler's name; known: DDPMScheduler"),
        (r#"{"_class_name": 1}"#, "_class_name is 1, expected a text"),
        (r#"{"_class_name": "ScoreSdeVeScheduler"}"#, "ScoreSdeVeScheduler, which unfog does not know; known: DDPM"),
        (r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": 1}"#, "skip_prk_steps is 1, expected false or true"),
        (r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed"}"#, "variance_type is \"fixed\", expected"),
        (r#"{"_class_name": "DDPMScheduler", "beta_start": null}"#, "beta_start is null, expected a number"),
        (r#"{"_class_name": "DDPMScheduler", "beta_start": -Infinity}"#, "beta_start is \"-Infinity\", expected"),
        (r#"{"_class_name": "DDPMScheduler", "trained_betas": [0.1, "a"]}"#, "trained_betas is [0.1,\"a\"]"),
        (r#"{"_class_name": "EulerDiscreteScheduler", "interpolation_type": "cubic"}"#, "\"linear\" or \"log_linear\""),
        (r#"{"_class_name": "EulerDiscreteScheduler", "timestep_type": "odd"}"#, "\"discrete\" or \"continuous\""),
        (
            r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true, "use_beta_sigmas": true}"#,
            "use_beta_sigmas is true, expected false",
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver+"}"#,
            "algorithm_type is \"dpmsolver+\", expected dpmsolver or dpmsolver++ or sde-dpmsolver++",
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}"#,
            "solver_order is 4, expected 2 or 3 beside algorithm_type dpmsolver++",
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver", "thresholding": true}"#,
            "thresholding is true, expected false",
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true}"#,
            "prediction_type is \"epsilon\", expected \"flow_prediction\"",
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}"#,
            "prediction_type is \"flow_prediction\", expected \"epsilon\"",
        ),
        (r#"{"_class_name": "UniPCMultistepScheduler", "predict_x0": false}"#, "predict_x0 is false, expected true"),
        (r#"{"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]}"#, "disable_corrector is [0]"),
        (r#"{"_class_name": "UniPCMultistepScheduler", "shift_terminal": 0.1}"#, "shift_terminal is 0.1"),
        (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": true}"#, "invert_sigmas is true"),
        (r#"{"_class_name": "EDMEulerScheduler", "sigma_schedule": "linear"}"#, "\"karras\" or \"exponential\""),
        (r#"{"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}"#, "expected \"epsilon\""),
        (r#"{"_class_name": "DDPMScheduler""#, "is no JSON"),
        (r#"["DDPMScheduler"]"#, "no JSON object"),
    ] {
        std::fs::write(place.path("config.json"), config).unwrap();
        place.fail(&["schedule", "--steps", "5", "--config", "config.json"], 1, says);
    }
    // Values that are of the right kind, but can't be run.
    for (config, says) in [
        (r#"{"_class_name": "DDPMScheduler", "num_train_timesteps": 3}"#, "5 steps"),
        (r#"{"_class_name": "DDPMScheduler", "beta_end": 2}"#, "beta"),
        (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1}"#, "shift -1"),
        (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#, "--tokens"),
        (r#"{"_class_name": "LCMScheduler", "original_inference_steps": 4}"#, "5 steps"),
    ] {
        std::fs::write(place.path("config.json"), config).unwrap();
        place.fail(&["schedule", "--steps", "5", "--config", "config.json"], 2, says);
    }
}

#[test]
fn configs_that_are_no_network() {
    for (from, to, says) in [
        ("\"norm_num_groups\": 4", "\"norm_num_groups\": 5", "5 groups"),
        ("\"norm_num_groups\": 4", "\"norm_num_groups\": 0", "norm_num_groups"),
        ("\"layers_per_block\": 1", "\"layers_per_block\": 0", "layers_per_block"),
        ("\"attention_head_dim\": 16", "\"attention_head_dim\": 64", "attention_head_dim"),
        ("\"mid_block_scale_factor\": 1", "\"mid_block_scale_factor\": 0", "mid_block_scale_factor"),
        ("\"downsample_padding\": 1", "\"downsample_padding\": 4294967295", "conv2d"),
        ("\"in_channels\": 1", "\"in_channels\": 4", "4 channels"),
        ("\"UpBlock2D\"", "\"UpBlock2D\", \"UpBlock2D\"", "same length"),
        ("\"act_fn\"", "act_fn", "no JSON"),
    ] {
        let place = Place::new();
        let model = place.model();
        model.replace("unet/config.json", from, to);
        model.fails(says);
    }
}

#[test]
fn damaged_weight_files() {
    let damage = |change: fn(Vec<u8>) -> Vec<u8>, says: &str| {
        let place = Place::new();
        let model = place.model();
        let path = model.folder.join(WEIGHTS);
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
        model.fails(says);
    };
    damage(|bytes| bytes[..bytes.len() - 1].to_vec(), "no whole safetensors file");
    damage(|bytes| bytes[..100].to_vec(), "no whole safetensors file");
    damage(|bytes| bytes[..4].to_vec(), "no whole safetensors file");
    damage(|_| Vec::new(), "diffusion_pytorch_model.safetensors");
    damage(|bytes| [&bytes[..], &[0; 16]].concat(), "no whole safetensors file");
    // A header that claims to be longer than the file, and one longer than any.
    damage(|bytes| [&(bytes.len() as u64).to_le_bytes(), &bytes[8..]].concat(), "no whole safetensors file");
    damage(|bytes| [&u64::MAX.to_le_bytes(), &bytes[8..]].concat(), "no whole safetensors file");
    damage(|bytes| [&bytes[..8], b"x", &bytes[9..]].concat(), "no whole safetensors file");
}

#[test]
fn weights_that_don_t_fit() {
    let change = |change: fn(&mut Tensor), says: &str| {
        let place = Place::new();
        let model = place.model();
        model.change(|t| {
            if t.name == "conv_in.weight" {
                change(t);
            }
        });
        model.fails(says);
    };
    change(|t| t.name = "conv_in.other".into(), "lacks the weight conv_in.weight");
    change(|t| t.shape.swap(0, 1), "conv_in.weight has the shape [1, 16, 3, 3], expected [16, 1, 3, 3]");
    change(|t| t.shape.remove(1).clone_into(&mut 0), "expected [16, 1, 3, 3]");
    change(|t| t.dtype = Dtype::I32, "has the type I32");
    change(|t| t.bytes[20..24].copy_from_slice(&f32::NAN.to_le_bytes()), "conv_in.weight is NaN at index 5");
    change(|t| t.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()), "conv_in.weight is inf at index 0");
    change(
        |t| {
            t.bytes = halves(&t.bytes, false);
            t.dtype = Dtype::F16;
            t.bytes[3] = 0x7e;
        },
        "conv_in.weight is NaN at index 1",
    );
}

#[test]
fn shards_that_are_missing_or_lead_elsewhere() {
    let place = Place::new();
    let model = place.model();
    let (weights, index) =
        (model.folder.join(WEIGHTS), model.folder.join("unet/diffusion_pytorch_model.safetensors.index.json"));
    std::fs::rename(&weights, model.folder.join("elsewhere.safetensors")).unwrap();
    std::fs::write(&index, r#"{"weight_map": {"conv_in.weight": "shard-1.safetensors"}}"#).unwrap();
    model.fails("shard-1.safetensors");
    std::fs::write(&index, r#"{"weight_map": {"conv_in.weight": "../elsewhere.safetensors"}}"#).unwrap();
    model.fails("weight_map");
    std::fs::write(&index, r#"{"weight_map": {}}"#).unwrap();
    model.fails("weight_map");
    std::fs::remove_file(&index).unwrap();
    std::fs::write(model.folder.join("unet/diffusion_pytorch_model.bin"), "").unwrap();
    model.fails("safe_serialization");
}

#[test]
fn noise_that_does_not_fit() {
    let place = Place::new();
    let model = place.model();
    let write = |shape: &[usize], name: &str| {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        let tensor = Tensor { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes };
        model.write("noise", &[tensor]);
    };
    let run = |more: &[&str], code, says: &str| {
        let run = ["sample", "--backend", "cpu", "--steps", "3", "--noise-in", "model/noise"];
        place.fail(&[&run[..], more].concat(), code, says);
    };
    write(&[1, 1, 1, 16, 16], "other");
    run(&[], 1, "noise");
    write(&[1, 1, 16, 16], "noise");
    run(&[], 1, "shape");
    write(&[1, 1, 1, 16, 16], "noise");
    run(&["--count", "2"], 2, "expected [draws, 2, 1, 16, 16]");
    run(&["--eta", "1"], 2, "1 draws");
    std::fs::write(model.folder.join("noise"), [1, 2, 3]).unwrap();
    run(&[], 1, "safetensors");
}

#[cfg(feature = "vulkan")]
#[test]
fn no_vulkan_device() {
    let place = Place::new();
    let without = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("VK_DRIVER_FILES", "/none.json").env("VK_ICD_FILENAMES", "/none.json");
        command
    };
    check_failure(&place, &mut without(&["sample", "--backend", "vulkan", "--steps", "1"]), 1, "Vulkan");
    check_failure(&place, &mut without(&["bench", "--backend", "vulkan"]), 1, "Vulkan");
    // auto says why it takes the CPU, and works.
    let output = without(&["sample", "--steps", "1"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("backend cpu: "));
}

#[test]
fn other_commands() {
    let place = Place::new();
    place.fail(&["schedule", "--steps", "0"], 2, "0 steps");
    place.fail(&["schedule"], 2, "--steps");
    place.fail(&["schedule", "--steps", "5", "--plot", "a.xyz"], 2, "unknown extension");
    place.fail(&["inspect", "--size", "15x16"], 2, "15x16");
    place.fail(&["bench", "--size", "15x16", "--backend", "cpu"], 2, "15x16");
    place.fail(&["bench", "--device", "0", "--backend", "cpu"], 2, "--device");
    place.succeed(&["sample", "--backend", "cpu", "--steps", "1", "--quiet"]);
    place.fail(&["forward", "unfog.png", "--at", "1000"], 2, "1000");
    place.fail(&["forward", "unfog.png", "--out", "a.xyz"], 2, "unknown extension");
}
