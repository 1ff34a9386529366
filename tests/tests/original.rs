//! A file with Stable Diffusion's original names is the same network as diffusers' folder.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use unfog::model::Model;
use unfog_core::denoise::Cond;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::same_bits;
use unfog_tests::golden::root;
use unfog_tests::net::Net;

/// Values from -0.1 to 0.1, the same ones for the same seed.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 * 0.2 - 0.1
    };
    (0..count).map(|_| next()).collect()
}

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn write(path: &PathBuf, tensors: &Tensors) -> TestResult {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let stored: Vec<_> = tensors.iter().map(|(name, shape, values)| (name, shape, bytes(values))).collect();
    let mut views = Vec::new();
    for tensor in &stored {
        let (name, shape, bytes) = tensor;
        views.push((name.to_string(), TensorView::new(Dtype::F32, shape.to_vec(), bytes)?));
    }
    Ok(fs::write(path, safetensors::serialize(views, None)?)?)
}

/// Both files of a model of the golden: diffusers' folder of the network, and the single file with everything.
fn both(model: &str) -> TestResult<[PathBuf; 2]> {
    let golden: Value = serde_json::from_slice(&fs::read(root().join("tests/golden/original.json"))?)?;
    let golden = &golden[model];
    let mut original = Tensors::new();
    for (seed, (name, shape)) in golden["shapes"].as_object().ok_or("no shapes")?.iter().enumerate() {
        let shape: Vec<usize> = serde_json::from_value(shape.clone())?;
        let count = shape.iter().product();
        original.push((name.clone(), shape, values(seed as u64 + 1, count)));
    }
    let by_name: HashMap<&str, usize> = original.iter().zip(0..).map(|((name, ..), i)| (name.as_str(), i)).collect();
    let mut diffusers = Tensors::new();
    for (name, from) in golden["unet"]["names"].as_object().ok_or("no names")? {
        let (_, shape, values) = &original[by_name[from.as_str().ok_or("no name")?]];
        diffusers.push((name.clone(), shape.clone(), values.clone()));
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("original-{model}"));
    fs::create_dir_all(&folder)?;
    let mut config = golden["unet"]["config"].clone();
    config["_class_name"] = "UNet2DConditionModel".into();
    fs::write(folder.join("config.json"), config.to_string())?;
    write(&folder.join("diffusion_pytorch_model.safetensors"), &diffusers)?;
    let file = folder.join("single.safetensors");
    write(&file, &original)?;
    Ok([folder, file])
}

#[test]
fn both_ways_of_saving_give_the_same_bits() -> TestResult {
    for model in ["sd1", "sd2", "sdxl"] {
        let paths = both(model)?;
        let mut nets = Vec::new();
        for path in &paths {
            let opened = Model::open(Some(path)).map_err(|e| e.report())?;
            let size = opened.size().ok_or("no size")?;
            assert_eq!((size.0 % 32, opened.architecture()), (0, "UNet2DConditionModel"), "{model}");
            nets.push(Net::sized(opened, (8, 8))?);
        }
        let x = values(7, nets[0].len());
        let embedding = values(8, nets[0].graph.interface().ok_or("no image")?.embedding);
        for backend in [Backend::Reference, Backend::Cpu(Default::default())] {
            let mut outs = Vec::new();
            for net in &nets {
                let mut denoiser = backend.denoiser(net, &[&embedding])?;
                let mut out = vec![f32::NAN; net.out_len()];
                denoiser.predict(&x, 321.0, &[Cond::Loaded(0)], &mut out)?;
                outs.push(out);
            }
            same_bits(&format!("{model} on {}", backend.name()), &outs[0], &outs[1])?;
            let spread = outs[0].iter().fold(0.0_f32, |most, v| most.max((v - outs[0][0]).abs()));
            assert!(outs[0].iter().all(|v| v.is_finite()) && spread > 1e-3, "{model}");
        }
        let scheduler = nets[1].model.scheduler().map_err(|e| e.report())?;
        assert!(scheduler.is_some() && nets[0].model.scheduler().map_err(|e| e.report())?.is_none(), "{model}");
    }
    Ok(())
}

#[test]
fn files_that_are_no_model_say_why() -> TestResult {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-models");
    fs::create_dir_all(&folder)?;
    let refused = |name: &str, bytes: &[u8], says: &str| -> TestResult {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        let said = Model::open(Some(&path)).err().ok_or("it was taken")?.report();
        assert!(said.contains(says), "{name}: {said}");
        Ok(())
    };
    // However they are called.
    for name in ["model.ckpt", "model.pt", "pytorch_model.bin", "model.safetensors"] {
        refused(name, b"PK\x03\x04\0\0\0\0\0", "is a pickle")?;
        refused(name, &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9], "is a pickle")?;
        refused(name, b"GGUF\x03\0\0\0\0", "is no whole GGUF file: it was cut off")?;
    }
    refused("cut.safetensors", b"\xff\0\0\0\0\0\0\0{\"a\":", "no whole safetensors file")?;
    let lora = vec![("lora_unet.down.weight".to_string(), vec![2], vec![0.0; 2])];
    write(&folder.join("lora.safetensors"), &lora)?;
    let bytes = fs::read(folder.join("lora.safetensors"))?;
    refused("lora.safetensors", &bytes, "holds no Stable Diffusion under its original names")
}
