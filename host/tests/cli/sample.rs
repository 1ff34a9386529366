//! `unfog sample`: its contract.

use std::fs;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use unfog::image::{Picture, load};
use unfog::recipe::Recipe;
use unfog_core::noise::{Noise, Philox};

use crate::common::{Place, models};

const FAST: [&str; 6] = ["sample", "--backend", "cpu", "--steps", "3", "--quiet"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&FAST[..], more].concat()
}

/// The tensor `x0` of a latents file.
fn latents(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let x0 = file.tensor("x0").unwrap();
    assert_eq!(x0.dtype(), Dtype::F32);
    let values = x0.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (x0.shape().to_vec(), values)
}

#[test]
fn a_picture_with_its_recipe() {
    let place = Place::new();
    place.succeed(&["sample", "--backend", "cpu", "--seed", "18446744073709551615", "--eta", "0.5"]);
    assert_eq!(place.files(), ["unfog.png"]);
    let picture = load(&place.path("unfog.png")).unwrap();
    assert_eq!((picture.width(), picture.height(), picture.channels()), (16, 16, 1));
    let recipe = Recipe::read(&place.path("unfog.png")).unwrap();
    assert_eq!((recipe.sampler.as_str(), recipe.schedule.as_str(), recipe.steps), ("ddim", "squaredcos_cap_v2", 50));
    assert_eq!((recipe.seed, recipe.eta, recipe.count, recipe.first), (u64::MAX, 0.5, 1, 0));
    assert_eq!((recipe.parity.as_str(), recipe.width, recipe.height), ("diffusers", 16, 16));
    assert_eq!(recipe.weights_sha256, "e8f8250ddcbb547e041b9b941f8e95a57a703e5ec78e71e2a9a9bc5c367f6376");
    assert_eq!(recipe.version, env!("CARGO_PKG_VERSION"));
    // A stroke: both ends of the scale are there, and most of the picture is dark.
    let dark = picture.pixels().iter().filter(|&&p| p < 64).count();
    assert!(dark > 128 && picture.pixels().iter().any(|&p| p > 192), "{:?}", picture.pixels());
}

/// How a run is split must not show.
#[test]
fn an_image_does_not_depend_on_count_and_first() {
    let place = Place::new();
    // 11 images take two batches.
    place.succeed(&with(&["--count", "11", "--out", "all.png", "--latents-out", "all"]));
    place.succeed(&with(&["--count", "11", "--out", "each-{i}.png", "--latents-out", "each"]));
    place.succeed(&with(&["--count", "2", "--first", "8", "--out", "two-{i}.png", "--latents-out", "two"]));
    let (shape, all) = latents(&place.read("all"));
    assert_eq!(shape, [11, 1, 16, 16]);
    assert_eq!(place.read("all"), place.read("each"));
    assert_eq!(latents(&place.read("two")).1, all[8 * 256..10 * 256]);
    // The sheet's tiles are the pictures of the files, and those of the latents: 4 columns.
    let sheet = load(&place.path("all.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (64, 48));
    for i in 0..11 {
        let picture = load(&place.path(&format!("each-{i}.png"))).unwrap();
        assert_eq!(picture, Picture::from_values(&all[i * 256..][..256], 16, 16, 1).unwrap());
        let row = |y: usize| &sheet.pixels()[(i / 4 * 16 + y) * 64 + i % 4 * 16..][..16];
        assert!((0..16).all(|y| row(y) == &picture.pixels()[y * 16..][..16]), "tile {i}");
        if (8..10).contains(&i) {
            assert_eq!(picture, load(&place.path(&format!("two-{i}.png"))).unwrap());
        }
    }
    let recipe = Recipe::read(&place.path("each-9.png")).unwrap();
    assert_eq!((recipe.first, recipe.count), (9, 1));
    assert_ne!(all[..256], all[256..512]);
}

#[test]
fn seeds_differ_and_repeat() {
    let place = Place::new();
    for (seed, out) in [("1", "a.png"), ("1", "b.png"), ("2", "c.png")] {
        place.succeed(&with(&["--seed", seed, "--out", out]));
    }
    assert_eq!(place.read("a.png"), place.read("b.png"));
    assert_ne!(load(&place.path("a.png")).unwrap(), load(&place.path("c.png")).unwrap());
}

#[test]
fn classes_come_in_turn_or_by_name() {
    let place = Place::new();
    let model = models().join("mednist-ddpm").display().to_string();
    let run = |more: &[&str]| -> Value {
        let run = ["sample", "--model", &model, "--backend", "cpu", "--steps", "1", "--size", "16x16", "--json"];
        serde_json::from_str(&place.succeed(&[&run[..], more].concat())).unwrap()
    };
    assert_eq!(run(&["--count", "8"])["classes"].to_string(), "[0,1,2,3,4,5,0,1]");
    assert_eq!(run(&["--count", "2", "--first", "5"])["classes"].to_string(), "[5,0]");
    let named = run(&["--class", "hand", "--guidance", "1.5", "--latents-out", "named"]);
    assert_eq!((named["recipe"]["class"].as_u64(), named["recipe"]["guidance"].as_f64()), (Some(4), Some(1.5)));
    run(&["--class", "4", "--guidance", "1.5", "--latents-out", "numbered"]);
    run(&["--class", "4", "--latents-out", "unguided"]);
    run(&["--class", "6", "--latents-out", "no-class"]);
    assert_eq!(place.read("named"), place.read("numbered"));
    assert_ne!(place.read("named"), place.read("unguided"));
    // Guidance goes from the prediction without a class through the one with it: 0 is the former.
    run(&["--class", "4", "--guidance", "0", "--latents-out", "zero"]);
    assert_eq!(place.read("zero"), place.read("no-class"));
}

#[test]
fn sigmas_and_noise_change_the_picture_and_go_into_the_recipe() {
    let place = Place::new();
    let run = |name: &str, more: &[&str]| {
        let out = format!("{name}.png");
        // With 3 steps `simple` would be `uniform`.
        let run = ["sample", "--backend", "cpu", "--steps", "4", "--quiet", "--latents-out", name, "--out", &out];
        place.succeed(&[&run[..], more].concat());
        Recipe::read(&place.path(&out)).unwrap()
    };
    let plain = run("plain", &[]);
    assert_eq!((plain.sigmas, plain.noise.as_deref()), (None, Some("philox")));
    let euler = run("euler", &["--sampler", "euler"]);
    assert_eq!((euler.sampler.as_str(), euler.sigmas.as_deref()), ("euler", Some("timesteps")));
    let mut seen = vec![place.read("euler")];
    let names = [
        "karras",
        "exponential",
        "polyexponential:2",
        "beta",
        "vp",
        "ays-sd15",
        "ays-sdxl",
        "ays-svd",
        "uniform",
        "simple",
    ];
    for (i, name) in [&names[..], &["kl-optimal", "karras:3"]].concat().into_iter().enumerate() {
        let latents = format!("sigmas{i}");
        assert_eq!(run(&latents, &["--sampler", "euler", "--sigmas", name]).sigmas.as_deref(), Some(name));
        let bytes = place.read(&latents);
        assert!(!seen.contains(&bytes), "{name}");
        seen.push(bytes);
    }
    let mut seen = vec![place.read("plain")];
    for name in ["torch-cpu", "torch-cuda"] {
        assert_eq!(run(name, &["--noise", name]).noise.as_deref(), Some(name));
        assert!(!seen.contains(&place.read(name)), "{name}");
        seen.push(place.read(name));
    }
    // Image 0 of the lattice is that of the default, image 1 is not.
    run("lattice", &["--noise", "lattice"]);
    assert_eq!(place.read("lattice"), place.read("plain"));
    run("second", &["--first", "1"]);
    run("lattice-second", &["--first", "1", "--noise", "lattice"]);
    assert_ne!(place.read("lattice-second"), place.read("second"));
}

/// A path of Brownian motion is the same however many steps walk along it: the picture settles as steps are added.
#[test]
fn brownian_noise_makes_one_picture_of_many_steps() {
    let place = Place::new();
    let run = |noise: &str, steps: &str| {
        place.succeed(&[
            "sample",
            "--backend",
            "cpu",
            "--quiet",
            "--sampler",
            "dpmpp-2m-sde",
            "--sigmas",
            "karras",
            "--count",
            "4",
            "--noise",
            noise,
            "--steps",
            steps,
            "--latents-out",
            "x0",
        ]);
        latents(&place.read("x0")).1
    };
    let apart = |noise: &str| {
        let (few, many) = (run(noise, "60"), run(noise, "120"));
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        square(&mut few.iter().zip(&many).map(|(a, b)| a - b)) / square(&mut many.iter().copied())
    };
    let (path, fresh) = (apart("brownian"), apart("philox"));
    println!("from 60 to 120 steps: {path:.3} along a path, {fresh:.3} with fresh noise");
    assert!(path < 0.6 * fresh, "{path} {fresh}");
}

#[test]
fn every_rule_of_guidance_is_another_and_goes_into_the_recipe() {
    let place = Place::new();
    let model = models().join("mednist-ddpm").display().to_string();
    let run = |name: &str, more: &[&str]| {
        let out = format!("{name}.png");
        let run =
            ["sample", "--model", &model, "--backend", "cpu", "--steps", "2", "--size", "16x16", "--class", "Hand"];
        place.succeed(&[&run[..], &["--quiet", "--latents-out", name, "--out", &out], more].concat());
        (Recipe::read(&place.path(&out)).unwrap(), place.read(name))
    };
    let (plain, off) = run("off", &[]);
    assert_eq!((plain.guidance, plain.guidance_rule), (1.0, None));
    let mut seen = vec![off];
    let cases: [(&str, &[&str]); 8] = [
        ("cfg", &["--guidance", "2"]),
        ("cfg-pp", &["--guidance", "0.6"]),
        ("apg", &["--guidance", "2"]),
        ("zero-star", &["--guidance", "2"]),
        ("perp-neg", &["--guidance", "2", "--negative", "CXR"]),
        ("cfg", &["--guidance", "2", "--negative", "CXR"]),
        ("cfg", &["--guidance", "2", "--guidance-rescale", "0.7"]),
        ("cfg", &["--guidance", "2", "--guidance-interval", "0,0.5"]),
    ];
    for (i, (rule, more)) in cases.into_iter().enumerate() {
        let (recipe, latents) = run(&format!("case{i}"), &[&["--guidance-rule", rule], more].concat());
        assert_eq!(recipe.guidance_rule.as_deref(), Some(rule));
        assert_eq!(recipe.negative, more.contains(&"CXR").then_some(2));
        assert_eq!(recipe.guidance_rescale, more.contains(&"0.7").then_some(0.7));
        assert_eq!(recipe.guidance_interval, more.contains(&"0,0.5").then_some([0.0, 0.5]));
        assert!(!seen.contains(&latents), "{rule} {more:?}");
        seen.push(latents);
    }
    // The whole interval is no interval.
    assert_eq!(run("whole", &["--guidance", "2", "--guidance-interval", "0,1"]).1, seen[1]);
}

/// The noise of the seed, given as a file, makes the same picture.
#[test]
fn given_noise_takes_the_place_of_the_seed() {
    let place = Place::new();
    let run = |more: &[&str]| place.succeed(&with(&[&["--count", "2", "--first", "1", "--eta", "1"], more].concat()));
    run(&["--latents-out", "seeded", "--seed", "5"]);
    let mut philox = Philox::new(5);
    // Draw 0 starts, each of the 3 steps draws once at most; one draw is surplus.
    let mut values = vec![0.0_f32; 5 * 2 * 256];
    for (i, image) in values.chunks_exact_mut(256).enumerate() {
        philox.fill(1 + i as u64 % 2, i as u32 / 2, image).unwrap();
    }
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![5, 2, 1, 16, 16], &bytes).unwrap();
    fs::write(place.path("noise"), safetensors::serialize([("noise", view)], None).unwrap()).unwrap();
    run(&["--latents-out", "given", "--noise-in", "noise"]);
    assert_eq!(place.read("seeded"), place.read("given"));
}

#[test]
fn what_is_printed() {
    let place = Place::new();
    let output = place.run(&with(&[]));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let output = place.run(&["sample", "--backend", "cpu", "--steps", "3"]);
    // No bar where there is no terminal: one line that names the file.
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && said.lines().count() == 1 && said.starts_with("unfog.png: "), "{said}");
    let output = place.run(&with(&["--json", "--count", "2", "--out", "a{i}.png"]));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["files"].to_string(), r#"["a0.png","a1.png"]"#);
    assert_eq!(printed["recipe"]["backend"], "cpu");
    assert!(output.stderr.is_empty());
}

#[test]
fn the_extension_decides_the_format() {
    let place = Place::new();
    for (name, magic) in [("a.png", &b"\x89PNG"[..]), ("a.JPG", b"\xff\xd8"), ("a.bmp", b"BM"), ("a.pgm", b"P5")] {
        place.succeed(&with(&["--out", name]));
        assert!(place.read(name).starts_with(magic), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_older_files() {
    let place = Place::new();
    let output = place.run(&with(&["--out", "/dev/stdout"]));
    fs::write(place.path("piped.png"), output.stdout).unwrap();
    place.succeed(&with(&["--out", "file.png"]));
    assert_eq!(load(&place.path("piped.png")).unwrap(), load(&place.path("file.png")).unwrap());
    // An older file stays as it was until its successor is whole.
    place.fail(&["sample", "--backend", "cpu", "--steps", "1", "--out", "file.png", "--model", "none"], 1, "none");
    assert_eq!(load(&place.path("piped.png")).unwrap(), load(&place.path("file.png")).unwrap());
}

#[test]
fn defaults_of_the_model_count() {
    let place = Place::new();
    let model = place.model();
    model.replace("scheduler/scheduler_config.json", "DDIMScheduler", "DDPMScheduler");
    model.replace("scheduler/scheduler_config.json", "\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 7");
    place.succeed(&["sample", "--model", "model", "--backend", "cpu"]);
    let recipe = Recipe::read(&place.path("unfog.png")).unwrap();
    assert_eq!((recipe.sampler.as_str(), recipe.steps), ("ddpm", 7));
    // Guidance that a model asks for needs its "no class".
    model.replace("model_index.json", "{", "{\"default_guidance\": 2.0,");
    place.fail(&["sample", "--model", "model", "--backend", "cpu"], 2, "--guidance");
}
