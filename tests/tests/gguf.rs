//! A network's folder with a GGUF file instead of safetensors, and what its values give.

use std::fs;
use std::path::PathBuf;

use unfog::model::Model;
use unfog_core::denoise::Cond;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::distance;
use unfog_tests::golden::root;
use unfog_tests::net::Net;
use unfog_tests::tolerance;

/// A folder with the config of nets/sd1 and this file of the golden.
fn folder(name: &str, file: &str, to: &str) -> TestResult<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder)?;
    let golden = root().join("tests/golden");
    fs::copy(golden.join("nets/sd1/config.json"), folder.join("config.json"))?;
    fs::copy(golden.join("gguf").join(file), folder.join(to))?;
    Ok(folder)
}

#[test]
fn blocks_of_few_bits_give_what_their_values_give() -> TestResult {
    let folders = [
        folder("gguf-blocks", "unet.gguf", "some-name.gguf")?,
        folder("gguf-floats", "unet.safetensors", "diffusion_pytorch_model.safetensors")?,
        root().join("tests/golden/nets/sd1"),
    ];
    let nets: Vec<Net> = folders
        .iter()
        .map(|folder| Net::sized(Model::open(Some(folder)).map_err(|e| e.report())?, (8, 8)))
        .collect::<TestResult<_>>()?;
    let wave = |len: usize| (0..len).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 1.5).collect::<Vec<f32>>();
    let x = wave(nets[0].len());
    let embedding = wave(nets[0].graph.interface().ok_or("no image")?.embedding);
    for backend in [Backend::Reference, Backend::Cpu(Default::default())] {
        let mut outs = Vec::new();
        for net in &nets {
            let mut out = vec![f32::NAN; net.out_len()];
            backend.denoiser(net, &[&embedding])?.predict(&x, 321.0, &[Cond::Loaded(0)], &mut out)?;
            outs.push(out);
        }
        let [far, lost] = [1, 2].map(|other| distance(&outs[0], &outs[other]));
        println!("{}: {far:.1e} from the same values in f32, {lost:.1e} from the network itself", backend.name());
        let allowed = tolerance::gguf();
        assert!(far <= allowed.relative, "{far:.1e} from its values: {}", allowed.reason);
        // And the blocks were read: 4 bits are not what the network was.
        assert!(lost > 20.0 * far.max(1e-5), "{lost:.1e}");
    }
    Ok(())
}

#[test]
fn two_files_of_gguf_are_one_too_many() -> TestResult {
    let folder = folder("gguf-two", "unet.gguf", "a.gguf")?;
    fs::copy(folder.join("a.gguf"), folder.join("b.gguf"))?;
    let model = Model::open(Some(&folder)).map_err(|e| e.report())?;
    let network = model.network(8, 8).map_err(|e| e.report())?;
    let said = model.weights(&network).err().ok_or("it was taken")?.report();
    assert!(said.contains("several GGUF files") && said.lines().count() == 1, "{said}");
    Ok(())
}
