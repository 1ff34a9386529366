//! Names against diffusers' own conversion (tests/golden/make_original.py), configs against those of the published models.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::model::mapped::Bytes;
use crate::model::{unet2d_condition, unet2d_condition::network};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn json_at(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(repository().join(path)).unwrap()).unwrap()
}

/// A file without bytes, of which these are the shapes.
fn of(shapes: Shapes) -> Original {
    let file = WeightFile { name: "shapes".into(), bytes: Bytes::Static(&[]) };
    let family = family(&shapes);
    Original { file: Arc::new(file), shapes, family, trained: None, bare: false }
}

fn shapes_of(model: &Value) -> Shapes {
    let side = |side: &Value| side.as_u64().unwrap() as usize;
    let shape = |shape: &Value| shape.as_array().unwrap().iter().map(side).collect();
    Shapes(model["shapes"].as_object().unwrap().iter().map(|(name, sides)| (name.clone(), shape(sides))).collect())
}

const MODELS: [&str; 3] = ["sd1", "sd2", "sdxl"];
const PARTS: [(Part, &str); 3] = [(Part::Unet, "unet"), (Part::Vae, "vae"), (Part::Text, "text")];

#[test]
fn names_are_those_of_diffusers() {
    let golden = json_at("tests/golden/original.json");
    let mut seen = 0;
    for model in MODELS {
        let original = of(shapes_of(&golden[model]));
        for (part, key) in PARTS {
            for (name, expected) in golden[model][key]["names"].as_object().into_iter().flatten() {
                let number = |i: usize| expected[i].as_u64().map(|n| n as usize);
                let expected = StoredName {
                    name: expected.as_str().or(expected[0].as_str()).unwrap().into(),
                    part: number(1).zip(number(2)),
                    transposed: false,
                };
                // The one that is there is the one that counts.
                let found = original.names(part, name).into_iter().find(|stored| original.shapes.has(&stored.name));
                assert_eq!(found.as_ref(), Some(&expected), "{model}: {name}");
                seen += 1;
            }
        }
    }
    assert!(seen > 1000, "{seen}");
}

#[test]
fn what_is_no_name_has_no_other() {
    let original = of(shapes_of(&json_at("tests/golden/original.json")["sd1"]));
    for name in [
        "",
        "down_blocks",
        "down_blocks.x.resnets.0.conv1.weight",
        "up_blocks.99999999999999999999.",
        "mid_block.resnets.0.",
    ] {
        for (part, _) in PARTS {
            let there = |stored: &StoredName| original.shapes.has(&stored.name);
            assert!(!original.names(part, name).iter().any(there), "{name}");
        }
    }
    assert!(original.names(Part::Vae, "decoder.up_blocks.2.resnets.0.conv1.weight").is_empty());
}

/// Whatever diffusers' config says, the guess says the same.
#[test]
fn configs_are_those_of_diffusers() {
    let golden = json_at("tests/golden/original.json");
    for model in MODELS {
        let original = of(shapes_of(&golden[model]));
        for (part, key) in PARTS {
            let Some(config) = golden[model][key]["config"].as_object() else { continue };
            let guess = original.config(part).unwrap();
            if part == Part::Unet {
                let expected = Fields::parse(model, golden[model][key]["config"].to_string().as_bytes()).unwrap();
                let [guess, expected] = [&guess, &expected].map(|fields| unet2d_condition::read(fields).unwrap());
                assert_eq!(guess, expected, "{model}");
                continue;
            }
            for (name, value) in config {
                assert_eq!(guess.value(name), Some(value), "{model} {key}: {name}");
            }
        }
    }
}

/// The shapes of the published networks give back their configs.
#[test]
fn the_published_networks_are_recognised() {
    for (name, family, class) in [
        ("sd15", Family::One, "PNDMScheduler"),
        ("sd21", Family::Two, "DDIMScheduler"),
        ("sdxl", Family::Xl, "EulerDiscreteScheduler"),
    ] {
        let text = json_at(&format!("tests/bench/unets/{name}/config.json"));
        let fields = Fields::parse(name, text.to_string().as_bytes()).unwrap();
        let (config, size) = unet2d_condition::read(&fields).unwrap();
        let network = network(&config, Default::default(), 8, 8, 77).unwrap();
        let linear = fields.bool("use_linear_projection", false).unwrap();
        // The numbers of blocks are what the names are made with: two layers each.
        let levels = config.levels.len();
        let blocks = (1..3 * levels).filter(|block| block % 3 == 0);
        let marks = blocks.map(|block| (format!("{}input_blocks.{block}.0.op.weight", unet::PREFIX), Vec::new()));
        let others = (1..3 * levels).map(|block| (format!("{}input_blocks.{block}.0.", unet::PREFIX), Vec::new()));
        let first = [(format!("{}input_blocks.0.", unet::PREFIX), Vec::new())];
        let layout = Shapes(marks.chain(others).chain(first).collect());
        let mut shapes = Shapes::default();
        for (name, weight) in network.names().iter().zip(network.graph().weights) {
            let mut shape: Vec<usize> = weight.shape.iter().map(|&side| side as usize).collect();
            let projects = name.contains(".proj_in.w") || name.contains(".proj_out.w");
            if shape[2..] == [1, 1] && (linear || !projects) {
                shape.truncate(2);
            }
            let up = name.contains("upsamplers");
            let stored = unet::names(&layout, name);
            // Of the two places after a block the one behind its attention, where it has one: all but the last levels do.
            shapes.0.insert(stored[usize::from(up && stored.len() > 1 && !behind(&config, name))].name.clone(), shape);
        }
        let original = of(shapes);
        assert_eq!(original.family, family, "{name}");
        let guess = unet2d_condition::read(&original.config(Part::Unet).unwrap()).unwrap();
        assert_eq!(guess, (config, size), "{name}");
        let scheduler = original.scheduler().unwrap();
        assert_eq!(scheduler.text("_class_name", "").unwrap(), class);
        let kind = scheduler.text("prediction_type", "").unwrap();
        assert_eq!(kind == "v_prediction", family == Family::Two, "{name}");
        crate::model::Scheduler::read(&scheduler).unwrap();
        let base = Original { trained: Some(875_000), ..original };
        assert_eq!(base.scheduler().unwrap().text("prediction_type", "").unwrap(), "epsilon");
    }
}

/// Whether the level of this upsampler has attention.
fn behind(config: &unfog_core::nn::model::unet2d_condition::Config, name: &str) -> bool {
    let level = number(name, "up_blocks.").map_or(0, |(level, _)| config.levels.len() - 1 - level);
    config.levels[level].up_attention
}

#[test]
fn a_file_that_lacks_a_weight_is_no_panic() {
    let golden = json_at("tests/golden/original.json");
    for model in MODELS {
        let shapes = shapes_of(&golden[model]);
        for missing in shapes.0.keys().step_by(9) {
            let mut fewer = shapes.clone();
            fewer.0.remove(missing);
            let original = of(fewer);
            for (part, _) in PARTS {
                let _ = original.config(part);
            }
            let mut odd = shapes.clone();
            odd.0.insert(missing.clone(), vec![0]);
            for (part, _) in PARTS {
                let _ = of(odd.clone()).config(part);
            }
        }
    }
    assert!(of(Shapes::default()).config(Part::Unet).is_err());
}
