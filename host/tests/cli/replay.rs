//! `unfog replay`: the picture again, bit by bit, or why not.

use std::path::Path;

use serde_json::Value;
use unfog::image::{Format, Picture, encode, load, read_text};

use crate::common::{Place, WEIGHTS, check_failure, models};

const FAST: [&str; 6] = ["sample", "--backend", "cpu", "--steps", "3", "--quiet"];

fn make(place: &Place, more: &[&str]) {
    place.succeed(&[&FAST[..], more].concat());
}

/// Writes the picture at `path` again with its recipe changed by `change`, and its values by `paint`.
fn forge(path: &Path, change: impl FnOnce(&mut Value), paint: impl FnOnce(&mut Vec<f32>)) {
    let picture = load(path).unwrap();
    let mut recipe: Value = serde_json::from_str(&read_text(path, "unfog").unwrap().unwrap()).unwrap();
    change(&mut recipe);
    let mut values = picture.to_values(picture.channels()).unwrap();
    paint(&mut values);
    let forged = Picture::from_values(&values, picture.width(), picture.height(), picture.channels()).unwrap();
    let mut bytes = Vec::new();
    encode(&forged, Format::Png, &[("unfog", &recipe.to_string())], path, &mut bytes).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_picture_comes_back_bit_by_bit() {
    let place = Place::new();
    let mednist = models().join("mednist-ddpm").display().to_string();
    let runs: [(&str, &[&str]); 9] = [
        ("one.png", &["--seed", "7"]),
        ("sheet.png", &["--count", "5", "--first", "3", "--seed", "18446744073709551615"]),
        ("each-{i}.png", &["--count", "3", "--first", "11"]),
        ("eta.png", &["--eta", "0.5", "--latents-out", "x0"]),
        (
            "classes.png",
            &["--model", &mednist, "--class", "4", "--guidance", "2", "--negative", "1", "--guidance-rescale", "0.5"],
        ),
        ("euler.png", &["--sampler", "euler-a", "--sigmas", "karras:5", "--noise", "torch-cpu", "--parity", "table"]),
        ("schedule.png", &["--schedule", "linear", "--prediction", "v", "--precision", "int8", "--size", "24x16"]),
        (
            "rule.png",
            &["--model", &mednist, "--guidance", "0.5", "--guidance-rule", "cfg-pp", "--guidance-interval", "0.1,0.9"],
        ),
        (
            "apg.png",
            &[
                "--model",
                &mednist,
                "--guidance",
                "3",
                "--guidance-rule",
                "apg",
                "--sampler",
                "dpmpp-2m-sde",
                "--threads",
                "1",
            ],
        ),
    ];
    for (out, args) in runs {
        make(&place, &[args, &["--out", out]].concat());
        let name = out.replace("{i}", "12");
        let said = place.succeed(&["replay", &name]);
        assert!(said.lines().count() == 1 && said.contains("values are the same (cpu on "), "{out}: {said}");
    }
    make(&place, &["--model", &mednist, "--sampler", "ddpm", "--class", "Hand", "--out", "hand.png"]);
    place.succeed(&["replay", "hand.png", "--quiet"]);
    let said: Value = serde_json::from_str(&place.succeed(&["replay", "sheet.png", "--json"])).unwrap();
    assert_eq!(
        (said["values"].as_u64(), said["differing"].as_u64(), said["largest"].as_u64()),
        (Some(1536), Some(0), Some(0))
    );
    assert!(!place.files().contains(&"unfog.png".to_owned()), "replay writes nothing");
}

#[test]
fn another_backend_is_compared_and_named() {
    let place = Place::new();
    make(&place, &["--out", "a.png", "--count", "4"]);
    let said: Value =
        serde_json::from_str(&place.succeed(&["replay", "a.png", "--backend", "reference", "--json"])).unwrap();
    assert_eq!((said["was"]["backend"].as_str(), said["now"]["backend"].as_str()), (Some("cpu"), Some("reference")));
    let said = place.succeed(&["replay", "a.png", "--backend", "reference"]);
    assert!(said.contains("(reference on ") && said.contains("; made with cpu on "), "{said}");
}

#[test]
fn what_is_not_the_same_is_counted() {
    let place = Place::new();
    make(&place, &["--out", "a.png"]);
    let path = place.path("a.png");
    forge(&path, |_| {}, |values| values[5] = if values[5] > 0.0 { values[5] - 0.5 } else { values[5] + 0.5 });
    place.fail(&["replay", "a.png"], 1, "a.png: 1 of 256 values differ, by 64 of 255 at most (cpu on ");
    forge(&path, |recipe| recipe["seed"] = 1.into(), |_| {});
    place.fail(&["replay", "a.png"], 1, "values differ, by ");
    forge(&path, |recipe| recipe["count"] = 2.into(), |_| {});
    place.fail(
        &["replay", "a.png"],
        1,
        "a.png has 16x16x1 values, and its recipe makes 32x16x1; the picture was cut or scaled",
    );
    let args = ["replay", "a.png", "--json"];
    forge(&path, |recipe| recipe["count"] = 1.into(), |_| {});
    assert_eq!(place.run(&args).status.code(), Some(1));
}

#[test]
fn weights_are_looked_at_first() {
    let place = Place::new();
    let model = place.model();
    make(&place, &["--model", "model", "--out", "a.png"]);
    place.succeed(&["replay", "a.png"]);
    std::fs::rename(&model.folder, place.path("moved")).unwrap();
    place.fail(&["replay", "a.png"], 1, "there is no model model");
    place.succeed(&["replay", "a.png", "--model", "moved"]);
    // The same model, by another name: its weights are what counts.
    place.succeed(&["replay", "a.png", "--model", &models().join("glyph-tiny").display().to_string()]);
    let weights = place.path("moved").join(WEIGHTS);
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    place.fail(
        &["replay", "a.png", "--model", "moved"],
        1,
        "the weights of moved are others than those of the recipe: their sha256 is ",
    );
}

#[test]
fn recipes_that_say_too_much_or_nothing_are_refused() {
    let place = Place::new();
    make(&place, &["--out", "a.png"]);
    let path = place.path("a.png");
    let original = std::fs::read(&path).unwrap();
    forge(
        &path,
        |recipe| (recipe["version"], recipe["mask"], recipe["warp"]) = ("9.0.0".into(), "m.png".into(), 3.into()),
        |_| {},
    );
    let says = "says what this unfog doesn't know: mask, warp; unfog 9.0.0 wrote it, and this is ";
    place.fail(&["replay", "a.png"], 1, says);
    // A part that says nothing changes nothing; a newer version is named.
    std::fs::write(&path, &original).unwrap();
    forge(&path, |recipe| (recipe["version"], recipe["mask"]) = ("9.0.0".into(), Value::Null), |_| {});
    assert!(place.succeed(&["replay", "a.png"]).contains("made by unfog 9.0.0, and this is "));
    forge(&path, |recipe| recipe["command"] = "forward".into(), |_| {});
    place.fail(&["replay", "a.png"], 1, "the recipe is of the command \"forward\"");
    forge(&path, |recipe| (recipe["command"], recipe["sampler"]) = ("sample".into(), "none".into()), |_| {});
    place.fail(&["replay", "a.png"], 2, "there is no sampler \"none\"");
    forge(&path, |recipe| recipe["steps"] = "many".into(), |_| {});
    place.fail(&["replay", "a.png"], 1, "the recipe in a.png can't be read");
    make(&place, &["--out", "b.bmp"]);
    check_failure(&place, &mut place.command(&["replay", "b.bmp"]), 1, "b.bmp is no whole PNG");
    place.fail(&["replay", "none.png"], 1, "can't read none.png");
    let bare = load(&path).unwrap();
    let mut bytes = Vec::new();
    encode(&bare, Format::Png, &[], &path, &mut bytes).unwrap();
    std::fs::write(&path, bytes).unwrap();
    place.fail(&["replay", "a.png"], 1, "a.png carries no recipe of unfog");
    place.fail(&["replay", "a.png", "--backend", "abacus"], 2, "abacus");
}
