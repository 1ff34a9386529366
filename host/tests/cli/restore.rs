//! `unfog restore`

use std::fs;

use serde_json::Value;
use unfog::image::{Deep, Format, Picture, encode, load};
use unfog::recipe::Recipe;

use crate::common::{Place, models};

const QUICK: [&str; 5] = ["--backend", "cpu", "--steps", "6", "--quiet"];

fn restore<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["restore"], args, &QUICK].concat()
}

/// Writes a picture of this size and depth; smooth, so that it is none of noise.
fn write(place: &Place, name: &str, [width, height]: [u32; 2], sixteen: bool, alpha: bool) -> Deep {
    let pixels = (0..width * height).map(|i| (i % width, i / width));
    let values = pixels.map(|(x, y)| ((x as f32 * 0.5).sin() + (y as f32 * 0.3).cos()) * 0.45).collect();
    let alpha = alpha.then(|| (0..width * height).map(|i| (i * 257 % 65535) as u16).collect());
    let picture = Deep { width, height, channels: 1, sixteen, values, alpha };
    let path = place.path(name);
    picture.encode(Format::Png, &[], &path, &mut fs::File::create(&path).unwrap()).unwrap();
    Deep::load(&path).unwrap()
}

/// Writes a mask whose right half is white.
fn write_mask(place: &Place, name: &str, [width, height]: [u32; 2]) {
    let values: Vec<f32> = (0..width * height).map(|i| if i % width >= width / 2 { 1.0 } else { -1.0 }).collect();
    let mask = Picture::from_values(&values, width, height, 1).unwrap();
    encode(&mask, Format::Png, &[], &place.path(name), &mut fs::File::create(place.path(name)).unwrap()).unwrap();
}

#[test]
fn a_restored_picture_says_how_and_is_made_again() {
    let place = Place::new();
    write(&place, "a.png", [16, 16], false, false);
    let args = ["a.png", "--task", "denoise", "--samples", "3", "--seed", "4", "--reference", "a.png", "--json"];
    let more = ["--uncertainty", "--strip", "--out", "b.png"];
    let printed = place.succeed(&restore(&[&args[..], &more].concat()));
    assert_eq!(place.files(), ["a.png", "b.png", "b.strip.png", "b.uncertainty.png"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert!(printed[0]["psnr"].as_f64().unwrap() > 10.0 && printed[0]["ssim"].as_f64().is_some(), "{printed}");
    let recipe = Recipe::read(&place.path("b.png")).unwrap();
    let restored = recipe.restore.unwrap();
    assert_eq!((recipe.command.as_str(), recipe.sampler.as_str(), recipe.count), ("restore", "ddnm", 3));
    assert_eq!((restored.image.as_str(), restored.image_sha256.len()), ("a.png", 64));
    assert!((f64::from(restored.noise) - printed[0]["noise"].as_f64().unwrap()).abs() < 1e-6);
    let [b, strip, spread] =
        ["b.png", "b.strip.png", "b.uncertainty.png"].map(|name| Deep::load(&place.path(name)).unwrap());
    assert_eq!((b.width, b.height, b.channels, b.sixteen), (16, 16, 1, false));
    assert_eq!((strip.width, strip.height, strip.channels), (64, 16, 3));
    assert!(spread.sixteen && spread.values.iter().any(|v| *v > -1.0) && spread.values.iter().all(|v| *v < 0.0));
    // What is there already stays, the same settings given.
    let before = fs::metadata(place.path("b.png")).unwrap().modified().unwrap();
    assert!(place.succeed(&restore(&[&args[..], &more].concat())).contains("\"kept\": true"));
    assert_eq!(fs::metadata(place.path("b.png")).unwrap().modified().unwrap(), before);
    let said = place.succeed(&["replay", "b.png"]);
    assert!(said.contains("all 256 values are the same"), "{said}");
    write(&place, "a.png", [16, 15], false, false);
    place.fail(&["replay", "b.png"], 1, "is another than that of the recipe");
}

/// Neither each sample nor each picture is given a class in turn, as pictures from noise are.
#[test]
fn what_class_a_picture_has_is_not_made_up() {
    let place = Place::new();
    write(&place, "a.png", [64, 64], false, false);
    let model = models().join("mednist-ddpm").display().to_string();
    let made = |out: &str, class: &[&str]| {
        let args = ["restore", "a.png", "--task", "denoise", "--noise", "25", "--steps", "2", "--samples", "2"];
        let more = ["--model", &model, "--backend", "cpu", "--quiet", "--out", out];
        place.succeed(&[&args[..], &more, class].concat());
        let recipe = Recipe::read(&place.path(out)).unwrap();
        (recipe.class, Deep::load(&place.path(out)).unwrap().values)
    };
    let unknown = made("unknown.png", &[]);
    assert_eq!(unknown.0, Some(6));
    assert_eq!(unknown, made("none.png", &["--class", "6"]));
    assert_ne!(unknown.1, made("first.png", &["--class", "0"]).1);
    assert!(place.succeed(&["replay", "unknown.png"]).contains("the same"));
}

#[test]
fn what_was_known_is_kept_to_the_last_bit() {
    let place = Place::new();
    for (method, sixteen) in [("ddnm", false), ("ddrm", true), ("repaint", false), ("diffpir", true)] {
        let before = write(&place, "a.png", [24, 20], sixteen, true);
        write_mask(&place, "m.png", [24, 20]);
        let args = ["a.png", "--task", "inpaint", "--mask", "m.png", "--method", method, "--travel", "2x2"];
        place.succeed(&restore(&args));
        let after = Deep::load(&place.path("restored.png")).unwrap();
        assert_eq!((&after.alpha, after.sixteen), (&before.alpha, sixteen), "{method}");
        let changed = |x: usize| (0..20).filter(|y| after.values[y * 24 + x] != before.values[y * 24 + x]).count();
        assert!((0..12).all(|x| changed(x) == 0), "{method}");
        assert!((12..24).map(changed).sum::<usize>() > 100, "{method}");
    }
}

#[test]
fn a_larger_picture_is_the_smaller_one_where_it_is_averaged() {
    let place = Place::new();
    let small = write(&place, "a.png", [7, 9], true, false);
    place.succeed(&restore(&["a.png", "--task", "upscale", "--factor", "4", "--out", "b.tiff"]));
    let large = Deep::load(&place.path("b.tiff")).unwrap();
    assert_eq!((large.width, large.height, large.sixteen), (28, 36, true));
    let mut whole = 0;
    for (i, v) in small.values.iter().enumerate() {
        let (x, y) = (i % 7 * 4, i / 7 * 4);
        let pixels: Vec<f32> = (0..16).map(|k| large.values[(y + k / 4) * 28 + x + k % 4]).collect();
        // Values beyond black and white were cut off, and the mean is another then.
        if pixels.iter().all(|v| v.abs() < 1.0) {
            let mean = pixels.iter().sum::<f32>() / 16.0;
            assert!((mean - v).abs() < 1e-4, "{i}: {mean} of {v}");
            whole += 1;
        }
    }
    assert!(whole > 4, "{whole} pixels without any that was cut off");
    for task in
        [&["--task", "upscale", "--factor", "2", "--kernel", "bicubic"][..], &["--task", "deblur", "--blur", "1"]]
    {
        place.succeed(&restore(&[&["a.png"], task].concat()));
    }
}

#[test]
fn a_folder_goes_on_where_it_ended_and_past_what_is_bad() {
    let place = Place::new();
    fs::create_dir_all(place.path("in/sub")).unwrap();
    for name in ["in/a.png", "in/b.png", "in/sub/c.png"] {
        write(&place, name, [16, 16], false, false);
    }
    let whole = place.read("in/a.png");
    fs::write(place.path("in/cut.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(place.path("in/notes.txt"), "no picture").unwrap();
    // A header that promises 65000 x 65000 pixels.
    let mut bomb = whole.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xfd, 0xe8, 0, 0, 0xfd, 0xe8]);
    fs::write(place.path("in/bomb.png"), &bomb).unwrap();
    let args = restore(&["in", "--task", "denoise", "--out", "out"]);
    let output = place.run(&args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].contains("bomb.png") && lines[1].contains("cut.png"), "{said}");
    assert!(lines[2].contains("2 of 5 pictures could not be restored"), "{said}");
    for name in ["out/a.png", "out/b.png", "out/sub/c.png"] {
        assert!(place.path(name).is_file(), "{name}");
    }
    // One of them is lost; the others are not made again.
    let (lost, kept) = (place.read("out/b.png"), fs::metadata(place.path("out/a.png")).unwrap().modified().unwrap());
    fs::remove_file(place.path("out/b.png")).unwrap();
    for name in ["in/cut.png", "in/bomb.png"] {
        fs::remove_file(place.path(name)).unwrap();
    }
    place.succeed(&args);
    assert_eq!(place.read("out/b.png"), lost);
    assert_eq!(fs::metadata(place.path("out/a.png")).unwrap().modified().unwrap(), kept);
    // What was made is not restored in its turn.
    place.succeed(&restore(&["in", "--task", "denoise", "--out", "in/out"]));
    place.succeed(&restore(&["in", "--task", "denoise", "--out", "in/out"]));
    assert!(place.path("in/out/sub/c.png").is_file() && !place.path("in/out/out").exists());
    // Alone, a picture of the folder becomes the same.
    place.succeed(&restore(&["in/b.png", "--task", "denoise", "--out", "alone.png"]));
    assert_eq!(load(&place.path("alone.png")).unwrap(), load(&place.path("out/b.png")).unwrap());
}

#[test]
fn bad_restorations_are_refused() {
    let place = Place::new();
    write(&place, "a.png", [16, 16], false, false);
    write_mask(&place, "small.png", [8, 16]);
    let colour = Picture::filled(16, 16, [1, 200, 3]).unwrap();
    encode(&colour, Format::Png, &[], &place.path("rgb.png"), &mut fs::File::create(place.path("rgb.png")).unwrap())
        .unwrap();
    place.fail(&["restore", "a.png"], 2, "--task");
    place.fail(&["restore", "--task", "denoise"], 2, "<IMAGE|DIR>");
    for (args, code, says) in [
        (&["nowhere.png", "--task", "denoise"][..], 2, "nowhere.png"),
        (&["a.png", "--task", "polish"], 2, "polish"),
        (&["a.png", "--task", "inpaint"], 2, "--mask"),
        (&["a.png", "--task", "denoise", "--mask", "small.png"], 2, "--mask"),
        (&["a.png", "--task", "inpaint", "--mask", "nowhere.png"], 2, "nowhere.png"),
        (&["a.png", "--task", "inpaint", "--mask", "small.png"], 2, "8x16 pixels and the picture 16x16"),
        (&["a.png", "--task", "inpaint", "--mask", "a.png", "--travel", "0x3"], 2, "0x3"),
        (&["a.png", "--task", "upscale", "--factor", "1"], 2, "--factor 1"),
        (&["a.png", "--task", "upscale", "--method", "mean"], 2, "--method mean"),
        (&["a.png", "--task", "deblur", "--blur", "0"], 2, "--blur 0"),
        (&["a.png", "--task", "deblur", "--blur", "40"], 2, "too short"),
        (&["a.png", "--task", "colorize"], 2, "colour"),
        (&["rgb.png", "--task", "denoise"], 1, "this one has colours"),
        (&["a.png", "--task", "denoise", "--noise", "-1"], 2, "--noise -1"),
        (&["a.png", "--task", "denoise", "--eta", "2"], 2, "--eta 2"),
        (&["a.png", "--task", "denoise", "--method", "repaint", "--eta", "0.5"], 2, "--eta"),
        (&["a.png", "--task", "denoise", "--samples", "0"], 2, "--samples"),
        (&["a.png", "--task", "denoise", "--uncertainty"], 2, "--samples 2"),
        (&["a.png", "--task", "denoise", "--out", "a.png"], 2, "would be overwritten"),
        (&["a.png", "--task", "denoise", "--out", "b.xyz"], 2, "b.xyz"),
        (&["a.png", "--task", "denoise", "--out", "no/b.png"], 2, "no"),
        (&["a.png", "--task", "denoise", "--reference", "small.png"], 1, "reference"),
    ] {
        place.fail(&restore(args), code, says);
    }
}
