//! The text-to-image model that was trained for this project, against diffusers with the same folder.

use unfog::sample::Options;
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, compare, kinds, write_noise};
use unfog_tests::{TestResult, tolerance};

#[test]
fn emoji_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("emoji")?;
    let folder = pipeline::folder(env!("CARGO_TARGET_TMPDIR"), "emoji")?;
    let noise = folder.join("noise.safetensors");
    assert!(!golden.cases().is_empty());
    for (number, case) in golden.cases().iter().enumerate() {
        write_noise(&noise, golden.part(number, "noise")?)?;
        for (kind, backend) in kinds()? {
            let what = format!("{number}: {} on {}", case["prompt"], kind.name());
            let options = Options {
                count: 2,
                noise_in: Some(noise.clone()),
                model: Some(root().join("models/emoji-sd")),
                ..pipeline::options(case, kind)
            };
            let (recipe, far, most) = compare(&what, options, &folder, &golden, number, tolerance::pipeline(&backend))?;
            assert_eq!((recipe.width, recipe.height), (64, 64), "{what}");
            println!("{what}: latents {far:.1e} apart, pictures at most {most} steps");
        }
    }
    Ok(())
}
