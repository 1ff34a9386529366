//! `unfog edit`

use serde_json::Value;
use unfog::image::load;
use unfog::recipe::Recipe;

use crate::common::{Place, models};

/// A place with a picture of glyph-tiny's.
fn place() -> Place {
    let place = Place::new();
    place.succeed(&["sample", "--backend", "cpu", "--steps", "10", "--quiet", "--out", "glyph.png"]);
    place
}

#[test]
fn a_picture_becomes_another_and_says_of_what_it_was_made() {
    let place = place();
    let edit = ["edit", "glyph.png", "--backend", "cpu", "--steps", "10", "--seed", "7"];
    let printed = place.succeed(&[&edit[..], &["--strength", "0.5", "--json"]].concat());
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let recipe = Recipe::read(&place.path("unfog.png")).unwrap();
    assert_eq!(printed["recipe"], serde_json::to_value(&recipe).unwrap());
    let edited = recipe.edit.unwrap();
    assert_eq!((recipe.command.as_str(), edited.image.as_str(), edited.strength), ("edit", "glyph.png", Some(0.5)));
    assert_eq!((edited.image_sha256.len(), edited.mask, edited.paste), (64, None, false));
    let (before, after) = (load(&place.path("glyph.png")).unwrap(), load(&place.path("unfog.png")).unwrap());
    assert_eq!((after.width(), after.height()), (16, 16));
    assert_ne!(before.pixels(), after.pixels());
    // The same again, and what another strength makes.
    place.succeed(&[&edit[..], &["--strength", "0.5", "--quiet", "--out", "again.png"]].concat());
    assert_eq!(load(&place.path("again.png")).unwrap(), after);
    place.succeed(&[&edit[..], &["--quiet", "--out", "more.png"]].concat());
    assert_ne!(load(&place.path("more.png")).unwrap(), after);
    assert_eq!(Recipe::read(&place.path("more.png")).unwrap().edit.unwrap().strength, Some(0.8));
    // It can be made again, as long as the picture that it came from is there.
    let said = place.succeed(&["replay", "unfog.png"]);
    assert!(said.contains("values are the same (cpu on "), "{said}");
    std::fs::copy(place.path("more.png"), place.path("glyph.png")).unwrap();
    place.fail(&["replay", "unfog.png"], 1, "is another than that of the recipe");
    // A picture of sampling has none.
    place.succeed(&["sample", "--backend", "cpu", "--steps", "1", "--quiet", "--out", "glyph.png"]);
    assert_eq!(Recipe::read(&place.path("glyph.png")).unwrap().edit, None);
}

#[test]
fn previews_are_gone_in_the_end() {
    let place = place();
    let steps = ["--backend", "cpu", "--steps", "6", "--preview", "2", "--quiet"];
    place.succeed(&[&["edit", "glyph.png", "--out", "new.png"], &steps[..]].concat());
    place.succeed(&[&["sample", "--count", "3", "--out", "new{i}.png"], &steps[..]].concat());
    assert_eq!(place.files(), ["glyph.png", "new.png", "new0.png", "new1.png", "new2.png"]);
    place.fail(&["sample", "--preview", "0"], 2, "--preview 0");
}

#[test]
fn bad_edits_are_refused() {
    let place = place();
    place.fail(&["edit"], 2, "<IMAGE>");
    place.fail(&["edit", "nowhere.png"], 1, "nowhere.png");
    place.fail(&["edit", "glyph.png", "--strength", "0"], 2, "--strength 0");
    place.fail(&["edit", "glyph.png", "--strength", "-1"], 2, "--strength -1");
    place.fail(&["edit", "glyph.png", "--mask", "nowhere.png"], 1, "nowhere.png");
    place.fail(&["edit", "glyph.png", "--paste"], 2, "--mask");
    place.fail(&["edit", "glyph.png", "--image-guidance", "2"], 2, "--image-guidance means nothing");
    place.fail(&["edit", "glyph.png", "--noise-level", "2"], 2, "--noise-level means nothing");
    place.fail(&["edit", "glyph.png", "--prompt", "a cat"], 2, "takes no text");
}

#[test]
fn inverted_pictures_masks_that_are_found_and_coarse_parts_come_back_bit_by_bit() {
    let place = place();
    let model = models().join("mednist-ddpm").display().to_string();
    place.succeed(&[
        "sample",
        "--model",
        &model,
        "--class",
        "Hand",
        "--backend",
        "cpu",
        "--steps",
        "3",
        "--quiet",
        "--out",
        "hand.png",
    ]);
    let edit = ["edit", "hand.png", "--model", &model, "--backend", "cpu", "--steps", "4", "--class", "1", "--quiet"];
    let runs: [(&str, &[&str]); 4] = [
        ("inverted.png", &["--invert", "--from-class", "Hand", "--guidance", "1.5"]),
        ("found.png", &["--invert", "--mask", "auto", "--latents-out", "latents"]),
        ("noised.png", &["--mask", "auto", "--from-class", "4", "--strength", "0.5"]),
        ("coarse.png", &["--keep-coarse", "8"]),
    ];
    for (out, options) in runs {
        place.succeed(&[&edit[..], options, &["--out", out]].concat());
        let said = place.succeed(&["replay", out]);
        assert!(said.contains("values are the same"), "{out}: {said}");
    }
    let edited = |name: &str| Recipe::read(&place.path(name)).unwrap().edit.unwrap();
    let inverted = edited("inverted.png");
    assert_eq!((inverted.invert, inverted.from_class, inverted.strength), (true, Some(4), Some(0.8)));
    // Without a class it is "no class"; with a mask or what is coarse, and no inversion, all steps are made.
    let found = edited("found.png");
    assert_eq!((found.mask.as_deref(), found.mask_sha256, found.from_class), (Some("auto"), None, Some(6)));
    let coarse = edited("coarse.png");
    assert_eq!((coarse.keep_coarse, coarse.strength, coarse.from_class), (Some(8), Some(1.0), None));
    let untold =
        ["edit", "hand.png", "--model", &model, "--backend", "cpu", "--steps", "4", "--quiet", "--out", "a.png"];
    place.succeed(&untold);
    assert_eq!(Recipe::read(&place.path("a.png")).unwrap().class, Some(6));
    place.fail(&["edit", "hand.png", "--model", &model, "--from-class", "4"], 2, "means nothing without --invert");
    place.fail(&["edit", "hand.png", "--model", &model, "--invert", "--sampler", "euler"], 2, "means nothing to euler");
    place.fail(&["edit", "hand.png", "--model", &model, "--keep-coarse", "5"], 2, "--keep-coarse 5");
}
