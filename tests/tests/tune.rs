//! Kernels that are cut up in another way than the table's: the same pictures within the tolerance, the same bits each time the same
//! choice is made; `--tune` finds such a choice and the recipe has it.

use std::fs;
use std::path::Path;

use unfog::backend::{Kind, Request};
use unfog::recipe::Recipe;
use unfog::sample::{Event, Options as Wanted, sample};
use unfog::stop::Stop;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Noise, Philox};
use unfog_gpu::{Choice, Context, GpuError, Options, Precision, VulkanDenoiser, candidates, shape_key};
use unfog_tests::TestResult;
use unfog_tests::backend::{Backend, gpus};
use unfog_tests::compare::{close, same_bits};
use unfog_tests::golden::Golden;
use unfog_tests::net::Net;
use unfog_tests::tolerance;

/// What a network predicts of two images, and its kernels.
fn predict(context: &Context, net: &Net) -> TestResult<(Vec<f32>, Vec<String>)> {
    let mut x = vec![0.0; 2 * net.len()];
    Philox::new(1).fill(0, 0, &mut x)?;
    let mut denoiser = VulkanDenoiser::new(context, &net.graph, net.weights, Options::default())?;
    let mut out = vec![f32::NAN; 2 * net.out_len()];
    denoiser.predict(&x, 10.0, &[Cond::None; 2], &mut out)?;
    let nodes = 0..net.graph.nodes.len();
    Ok((out, nodes.flat_map(|node| denoiser.network().kernels(node).collect::<Vec<_>>()).collect()))
}

#[test]
fn every_choice_makes_the_same_within_the_tolerance() -> TestResult {
    let net = Net::open("models/glyph-tiny")?;
    for gpu in gpus()? {
        let (want, table) = predict(&gpu.context, &net)?;
        let mut most = 0;
        // Two for each shape: most of a test's time is the compilation of kernels.
        for number in [1, 8] {
            let mut choices: Vec<(String, Choice)> = Vec::new();
            for (index, node) in net.graph.nodes.iter().enumerate() {
                let candidates = candidates(&gpu.context, &net.graph, index, Precision::F32)?;
                most = most.max(candidates.len());
                let key = shape_key(&net.graph, node);
                assert!(key.is_some() || candidates.is_empty(), "{:?} has no key", node.op);
                // As a recipe has it.
                if let (Some(key), Some(choice)) = (key, candidates.get(number)) {
                    choices.push((key, choice.to_string().parse()?));
                }
            }
            assert!(!choices.is_empty(), "no shape has candidate {number}");
            let (got, kernels) = predict(&gpu.context.tuned(choices.clone()), &net)?;
            assert!(kernels != table, "{choices:?}");
            let backend = Backend::Vulkan { gpu, options: Options::default() };
            close(&format!("{choices:?}"), &got, &want, tolerance::network(&backend))?;
            same_bits("again", &predict(&gpu.context.tuned(choices), &net)?.0, &got)?;
        }
        assert!(most > 4, "{most} candidates");
        // What the device can't run is refused before it is asked to.
        let node = net.graph.nodes.iter().find_map(|node| shape_key(&net.graph, node)).ok_or("nothing to tune")?;
        let huge = gpu.context.tuned([(node, "plain 1024x1024 1x1".parse::<Choice>()?)]);
        let refused = VulkanDenoiser::new(&huge, &net.graph, net.weights, Options::default());
        assert!(matches!(refused, Err(GpuError::Choice(_))), "{refused:?}");
        gpu.check()?;
    }
    Ok(())
}

#[test]
fn a_recipe_has_what_tuning_chose() -> TestResult {
    let Some(gpu) = gpus()?.first() else { return Ok(()) };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tune");
    fs::create_dir_all(&folder)?;
    let run = |name: &str, backend: Request| -> TestResult<(Vec<f32>, Recipe, bool)> {
        let latents = folder.join(format!("{name}.safetensors"));
        let options = Wanted {
            steps: Some(3),
            backend: Request { kind: Kind::Vulkan, ..backend },
            latents_out: Some(latents.clone()),
            out: folder.join(format!("{name}.png")),
            ..Wanted::default()
        };
        let mut told = false;
        let mut report = |event| told |= matches!(event, Event::Tuned(_));
        sample(&options, &Stop::default(), &mut report).map_err(|e| e.report())?;
        Ok((Golden::read_file(&latents)?.tensor("x0")?.values.clone(), Recipe::read(&options.out)?, told))
    };
    let (want, recipe, told) = run("table", Request::default())?;
    assert!(recipe.ran_on.tuned.is_empty() && !told);
    let (tuned, recipe, told) = run("tuned", Request { tune: true, ..Request::default() })?;
    assert!(told, "nothing was said");
    let backend = Backend::Vulkan { gpu, options: Options::default() };
    close("tuned", &tuned, &want, tolerance::chain(&backend))?;
    let (again, same, told) = run("again", Request { tuned: recipe.ran_on.tuned.clone(), ..Request::default() })?;
    same_bits("by the recipe", &again, &tuned)?;
    assert!(same.ran_on == recipe.ran_on && !told);
    Ok(())
}
