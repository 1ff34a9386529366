//! `--vram`: a limit of a GPU's memory.

use crate::common::Place;
use serde_json::Value;

/// True where there is a Vulkan device; a line says so where there is none.
fn device(place: &Place) -> bool {
    let report: Value = serde_json::from_str(&place.succeed(&["devices", "--json"])).unwrap();
    let found = !report["devices"].as_array().unwrap().is_empty();
    assert!(found || std::env::var("REQUIRE_GPU").as_deref() != Ok("1"), "{report}");
    if !found {
        eprintln!("SKIPPED --vram: there is no Vulkan device");
    }
    found
}

#[test]
fn a_limit_must_be_bytes_of_a_gpu() {
    let place = Place::new();
    for size in ["0", "much", "-1", "1T"] {
        place.fail(&["sample", &format!("--vram={size}")], 2, "expected bytes, as in 512M or 1.5G");
    }
    for backend in ["cpu", "reference"] {
        place.fail(&["sample", "--backend", backend, "--vram", "1M"], 2, "--vram means nothing to the backend");
    }
}

#[test]
fn a_limit_is_shown_kept_and_refused_with_the_number() {
    let place = Place::new();
    if !device(&place) {
        return;
    }
    let memory = |vram: &[&str]| -> Value {
        let args = [&["inspect", "--backend", "vulkan", "--json"], vram].concat();
        let report: Value = serde_json::from_str(&place.succeed(&args)).unwrap();
        report["memory"][0].clone()
    };
    let number = |memory: &Value, key: &str| memory[key].as_u64().unwrap();
    let all = memory(&[]);
    assert_eq!((number(&all, "streamed_bytes"), number(&all, "window_bytes")), (0, 0));
    assert!(number(&all, "weight_bytes") > 700_000 && number(&all, "workspace_bytes") < number(&all, "plan_bytes"));
    let limited = memory(&["--vram", "640K"]);
    assert!(number(&limited, "streamed_bytes") > 0 && number(&limited, "window_bytes") > 0, "{limited}");
    let total = ["weight_bytes", "window_bytes", "plan_bytes", "transfer_bytes"].map(|key| number(&limited, key));
    assert!(total.iter().sum::<u64>() <= 640 << 10, "{limited}");
    let refused = memory(&["--vram", "1K"])["refused"].as_str().unwrap().to_owned();
    assert!(refused.contains("bytes of device memory at least, and there are 1024"), "{refused}");

    let run = ["sample", "--backend", "vulkan", "--steps", "2", "--seed", "3", "--quiet", "--latents-out"];
    place.fail(&[&run[..], &["x", "--vram", "1K"]].concat(), 1, "bytes of device memory at least, and there are 1024");
    let recipe = |latents: &str, vram: &[&str]| -> Value {
        let out = format!("{latents}.png");
        let report = place.succeed(&[&run[..], &[latents, "--out", &out, "--json"], vram].concat());
        serde_json::from_str::<Value>(&report).unwrap()["recipe"].clone()
    };
    assert_eq!(recipe("all", &[])["vram"], Value::Null);
    assert_eq!(recipe("limited", &["--vram", "640K"])["vram"].as_u64(), Some(640 << 10));
    assert_eq!(place.read("all"), place.read("limited"), "the bits");
}

#[test]
fn only_a_gpu_is_tuned() {
    let place = Place::new();
    for backend in ["cpu", "reference"] {
        place.fail(&["sample", "--backend", backend, "--tune"], 2, "--tune means nothing to the backend");
    }
}
