//! The other commands.

use serde_json::Value;
use unfog::image::load;

use crate::common::{Place, models};

fn json(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&place.succeed(args)).unwrap()
}

#[test]
fn forward_starts_at_the_picture_and_ends_in_noise() {
    let place = Place::new();
    place.succeed(&["sample", "--backend", "cpu", "--steps", "20", "--quiet"]);
    let printed = place.succeed(&["forward", "unfog.png", "--at", "999,0,500", "--out", "strip.png", "--quiet"]);
    assert!(printed.is_empty());
    let (picture, strip) = (load(&place.path("unfog.png")).unwrap(), load(&place.path("strip.png")).unwrap());
    assert_eq!((strip.width(), strip.height()), (48, 16));
    let frame =
        |i: usize| -> Vec<f64> { (0..256).map(|p| f64::from(strip.pixels()[p / 16 * 48 + i * 16 + p % 16])).collect() };
    let correlation = |a: &[f64]| {
        let b: Vec<f64> = picture.pixels().iter().map(|&p| f64::from(p)).collect();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let (ma, mb) = (mean(a), mean(&b));
        let product =
            |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum() };
        product(a, ma, &b, mb) / (product(a, ma, a, ma) * product(&b, mb, &b, mb)).sqrt()
    };
    // Signal's share of the standard deviation: 0.99995 at 0, 0.28 at 500, 0.006 at 999; 256 pixels blur it by 1/16.
    let [last, first, middle] = [0, 1, 2].map(|i| correlation(&frame(i)));
    assert!(first > 0.99 && middle < first - 0.1 && last.abs() < 0.3, "{first} {middle} {last}");
    // The same seed gives the same strip, another one another.
    place.succeed(&["forward", "unfog.png", "--at", "999,0,500", "--out", "again.png"]);
    place.succeed(&["forward", "unfog.png", "--at", "999,0,500", "--out", "other.png", "--seed", "1"]);
    assert_eq!(load(&place.path("again.png")).unwrap(), strip);
    assert_ne!(load(&place.path("other.png")).unwrap(), strip);
    assert_eq!(json(&place, &["forward", "unfog.png", "--json"])["at"].as_array().unwrap().len(), 8);
}

#[test]
fn schedules_are_those_of_diffusers() {
    let place = Place::new();
    let linear = json(&place, &["schedule", "--steps", "4", "--json"]);
    let column = |name: &str| -> Vec<Value> {
        linear["steps"].as_array().unwrap().iter().map(|row| row[name].clone()).collect()
    };
    assert_eq!(column("timestep"), [750, 500, 250, 0]);
    assert_eq!(linear["alpha_bar"].as_array().unwrap().len(), 1000);
    // The last alpha-bar of Ho et al.'s linear schedule.
    assert!((linear["alpha_bar"][999].as_f64().unwrap() - 4.0358e-5).abs() < 1e-8);
    let config = models().join("glyph-tiny/scheduler/scheduler_config.json").display().to_string();
    let cosine = json(&place, &["schedule", "--config", &config, "--steps", "10", "--json"]);
    assert_eq!(
        (cosine["schedule"].as_str(), cosine["parity"].as_str()),
        (Some("squaredcos_cap_v2"), Some("diffusers"))
    );
    let text = place.succeed(&["schedule", "--steps", "10", "--schedule", "cosine"]);
    assert_eq!(text.lines().count(), 11);
    place.succeed(&["schedule", "--steps", "5", "--plot", "a.svg"]);
    place.succeed(&["schedule", "--steps", "5", "--plot", "a.png"]);
    let svg = String::from_utf8(place.read("a.svg")).unwrap();
    // A dot a step on each of the three curves: signal, noise and sigma.
    assert_eq!(svg.matches("<circle").count(), 15);
    assert_eq!(load(&place.path("a.png")).unwrap().channels(), 3);
}

/// Where DDIM and DDPM lead, by hand from the table of alpha-bars.
#[test]
fn schedules_print_coefficients() {
    let place = Place::new();
    let number = |value: &Value| value.as_f64().unwrap();
    let close = |got: &Value, want: f64| assert!((number(got) - want).abs() < 1e-5, "{got} {want}");
    let ddim = json(&place, &["schedule", "--steps", "4", "--eta", "0.5", "--json"]);
    let alpha = |t: usize| number(&ddim["alpha_bar"][t]);
    let (a, to) = (alpha(500), alpha(250));
    let row = &ddim["steps"][1];
    let drawn = 0.5 * ((1.0 - to) / (1.0 - a) * (1.0 - a / to)).sqrt();
    close(&row["signal"], a.sqrt());
    close(&row["noise"], (1.0 - a).sqrt());
    close(&row["snr"], a / (1.0 - a));
    close(&row["sigma"], ((1.0 - a) / a).sqrt());
    close(&row["coefficients"]["x0"], to.sqrt());
    close(&row["coefficients"]["eps"], (1.0 - to - drawn * drawn).sqrt());
    close(&row["coefficients"]["noise"], drawn);
    assert!(row["coefficients"].get("x").is_none() && row.get("first_order").is_none());
    // Ho et al. 2020, equation 7, for the step from 500 to 250.
    let ddpm = json(&place, &["schedule", "--steps", "4", "--sampler", "ddpm", "--json"]);
    let (row, beta) = (&ddpm["steps"][1]["coefficients"], 1.0 - a / to);
    close(&row["x0"], to.sqrt() * beta / (1.0 - a));
    close(&row["x"], (a / to).sqrt() * (1.0 - to) / (1.0 - a));
    close(&row["noise"], ((1.0 - to) / (1.0 - a) * beta).sqrt());
    // Karras et al. 2022, equation 5, between the ends of the table.
    let solver = json(&place, &["schedule", "--steps", "5", "--sampler", "dpmpp-2m", "--sigmas", "karras:5", "--json"]);
    assert_eq!(solver["sigmas"], "karras:5");
    let sigma = |t: usize| ((1.0 - alpha(t)) / alpha(t)).sqrt();
    for (i, row) in solver["steps"].as_array().unwrap().iter().enumerate() {
        let (high, low) = (sigma(999).powf(0.2), sigma(0).powf(0.2));
        let want = (high + i as f64 / 4.0 * (low - high)).powf(5.0);
        // 1 - 0.9999 in f32 keeps three digits; the fifth root has four.
        assert!((number(&row["sigma"]) / want - 1.0).abs() < 1e-4, "{row} {want}");
        assert!(row["first_order"]["x0"].is_number() && row.get("coefficients").is_none());
    }
    // Where no signal is left there is no sigma that JSON could hold.
    std::fs::write(place.path("flow.json"), r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).unwrap();
    let flow = json(&place, &["schedule", "--config", "flow.json", "--steps", "2", "--json"]);
    assert!(flow["steps"][0]["sigma"].is_null());
    assert_eq!((flow["steps"][0]["timestep"].as_u64(), flow["steps"][1]["timestep"].as_u64()), (Some(1000), Some(1)));
    for plot in ["a.png", "a.svg"] {
        place.succeed(&["schedule", "--config", "flow.json", "--steps", "3", "--plot", plot]);
    }
    let text = place.succeed(&["schedule", "--steps", "3", "--sampler", "ddpm"]);
    assert!(text.lines().next().unwrap().ends_with("* x        * x0       * z"), "{text}");
}

#[test]
fn inspect_counts() {
    let place = Place::new();
    let tiny = json(&place, &["inspect", "--json"]);
    // As its card says.
    assert_eq!((tiny["parameters"].as_u64(), tiny["weight_bytes"].as_u64()), (Some(176_849), Some(707_396)));
    let layers = tiny["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|l| l[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("parameters"), Some(sum("flops"))), (176_849, tiny["flops"].as_u64()));
    let first = layers.iter().find(|l| l["name"] == "conv_in").unwrap();
    // 16 x 16 pixels of 16 channels, 9 taps, a multiplication and an addition each.
    assert_eq!((first["flops"].as_u64(), first["parameters"].as_u64()), (Some(256 * 16 * 9 * 2), Some(160)));
    let large = json(&place, &["inspect", "--size", "32x16", "--json"]);
    assert_eq!((large["width"].as_u64(), large["height"].as_u64()), (Some(32), Some(16)));
    assert!(large["plan_bytes"].as_u64() > tiny["plan_bytes"].as_u64());
    let mednist = models().join("mednist-ddpm").display().to_string();
    let text = place.succeed(&["inspect", &mednist]);
    assert!(text.contains("3794145") && text.contains("AbdomenCT, BreastMRI, CXR, ChestCT, Hand, HeadCT"));
}

#[test]
fn bench_measures_time_and_memory() {
    let place = Place::new();
    let report = json(&place, &["bench", "--backend", "cpu,reference", "--threads", "1", "--json"]);
    let backends = report["backends"].as_array().unwrap();
    assert_eq!(backends.iter().map(|b| b["backend"].as_str().unwrap()).collect::<Vec<_>>(), ["cpu", "reference"]);
    for b in backends {
        let number = |key: &str| b[key].as_f64().unwrap();
        assert!(number("median_seconds") >= number("best_seconds") && number("best_seconds") > 0.0);
        assert!(number("runs") >= 5.0 && number("plan_bytes") > 0.0 && number("weight_bytes") > 700_000.0);
        if cfg!(target_os = "linux") {
            assert!(number("peak_bytes") > number("weight_bytes"));
            // The promise of the CPU backends, with glyph-tiny.
            assert!(number("peak_bytes") <= number("weight_bytes") + number("plan_bytes") + 60e6);
        }
    }
}

#[test]
fn bench_looks_at_every_node_and_takes_inputs() {
    let place = Place::new();
    let bench = |more: &[&str]| {
        let common = ["bench", "--threads", "1", "--runs", "2", "--json"];
        json(&place, &[&common, more].concat())["backends"][0].clone()
    };
    let one = bench(&["--backend", "cpu", "--ops"]);
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
    let nodes = json(&place, &["inspect", "--json"])["layers"].as_array().unwrap().len();
    let counted: u64 = one["ops"]["ops"].as_array().unwrap().iter().map(|op| op["nodes"].as_u64().unwrap()).sum();
    assert_eq!((counted as usize, one["runs"].as_u64()), (nodes, Some(2)));
    let kinds = one["ops"]["nodes"].as_array().unwrap();
    let sum = |key| kinds.iter().map(|n| number(n, "nodes") * number(n, key)).sum::<f64>();
    assert_eq!(sum("flops"), number(&one, "flops"));
    assert!((sum("seconds") / number(&one["ops"], "seconds") - 1.0).abs() < 1e-9);
    let share = number(&one, "roof_share");
    // Noise of a busy machine included, nothing is faster than twice the roof.
    assert!(share > 0.0 && share < 2.0, "{share}");
    assert!(number(&one["peak"], "flops_per_second") > 1e7 && number(&one["peak"], "bytes_per_second") > 1e7);
    // Two images: twice the operations; the weights are read once.
    let two = bench(&["--backend", "cpu", "--batch", "2"]);
    assert_eq!(number(&two, "flops"), 2.0 * number(&one, "flops"));
    let per_image = number(&two, "moved_bytes") - number(&one, "moved_bytes");
    assert_eq!(number(&one, "moved_bytes"), per_image + number(&one, "weight_bytes"));

    // A given input: 256 values of x, and t. The header ends where 8 bytes begin.
    let header = r#"{"x":{"dtype":"F32","shape":[1,1,16,16],"data_offsets":[0,1024]},"t":{"dtype":"F32","shape":[1],"data_offsets":[1024,1028]}}"#;
    let header = format!("{header:width$}", width = header.len().next_multiple_of(8));
    let values = (0..256).map(|i| (i as f32 / 40.0).sin()).chain([500.0]);
    let bytes: Vec<u8> = (header.len() as u64)
        .to_le_bytes()
        .into_iter()
        .chain(header.bytes())
        .chain(values.flat_map(f32::to_le_bytes))
        .collect();
    std::fs::write(place.path("in.safetensors"), bytes).unwrap();
    let results = ["cpu", "reference"].map(|backend| {
        bench(&["--backend", backend, "--input", "in.safetensors", "--output", "y.safetensors"]);
        let bytes = place.read("y.safetensors");
        let values = bytes[bytes.len() - 1024..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        values.collect::<Vec<f32>>()
    });
    let size: f32 = results[1].iter().map(|v| v * v).sum();
    let error: f32 = results[0].iter().zip(&results[1]).map(|(a, b)| (a - b) * (a - b)).sum();
    // As the networks' tests hold the CPU backend to the reference: 2e-6.
    assert!(size > 1.0 && (error / size).sqrt() < 4e-6, "{error} {size}");
    place.fail(&["bench", "--input", "in.safetensors", "--size", "32x32", "--backend", "cpu"], 2, "1024");
}

#[test]
fn bench_shows_how_the_cost_grows() {
    let place = Place::new();
    // A pack takes one size alone: every other is answered with the reason, and batches are measured.
    place.succeed(&["pack", "--out", "glyph.pack"]);
    let args =
        ["bench", "--grow", "--model", "glyph.pack", "--backend", "cpu", "--threads", "1", "--runs", "1", "--json"];
    let grown = json(&place, &args)["backends"][0].clone();
    for row in grown["sizes"].as_array().unwrap() {
        assert!(row["measured"].is_null() && row["reason"].as_str().unwrap().contains("16x16"), "{row}");
    }
    let batches = grown["batches"].as_array().unwrap();
    let of = |key: &str| batches.iter().map(|row| row["measured"][key].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("batch"), [1, 2, 4, 8]);
    let flops = of("flops");
    assert_eq!(flops[3], 8 * flops[0]);
}

#[test]
fn devices_and_help_are_there() {
    let place = Place::new();
    let report = json(&place, &["devices", "--json"]);
    // With or without a driver: either devices or a reason.
    assert_eq!(report["devices"].as_array().unwrap().is_empty(), report["reason"].is_string());
    let help = place.succeed(&["--help"]);
    for command in ["sample", "forward", "schedule", "inspect", "devices", "bench"] {
        assert!(help.contains(command));
        assert!(place.succeed(&[command, "--help"]).contains("Usage: unfog"));
    }
    assert_eq!(place.succeed(&["--version"]), format!("unfog {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn packs_hold_what_was_packed() {
    let place = Place::new();
    let sizes = ["f32", "f16", "int8", "q4"].map(|precision| {
        let printed = place.succeed(&["pack", "--precision", precision, "--out", "glyph.pack"]);
        assert!(printed.starts_with("glyph.pack: "), "{printed}");
        let bytes = place.read("glyph.pack");
        // u128 is aligned as packs must be.
        let mut aligned = vec![0_u128; bytes.len().div_ceil(16)];
        let aligned: &mut [u8] = bytemuck::cast_slice_mut(&mut aligned);
        aligned[..bytes.len()].copy_from_slice(&bytes);
        let pack = unfog_core::pack::Pack::open(&aligned[..bytes.len()]).unwrap();
        assert_eq!((pack.counts().nodes, pack.counts().weights), (80, 144));
        bytes.len()
    });
    // 176,849 parameters, of which 3,169 are biases and norms; records, shapes and the table of alpha-bar besides.
    assert!(sizes[0] > 707_396 && sizes[1] < 390_000 && sizes[2] < 220_000, "{sizes:?}");
    assert!(sizes[3] < 140_000, "{sizes:?}");
    place.fail(&["pack", "--precision", "q5", "--out", "odd.pack"], 2, "known: f32, f16, int8, q4");
    place.fail(&["pack", "--size", "15x16", "--out", "odd.pack"], 2, "multiple");
    place.fail(&["pack", "--out", "/dev/full"], 1, "can't write /dev/full");
    assert_eq!(place.files(), ["glyph.pack"]);
}
