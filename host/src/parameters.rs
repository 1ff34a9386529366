//! A recipe as the text that AUTOMATIC1111's web interface writes into its pictures, which many programs read: the prompt, a line with
//! what it leads away from, and a line of settings.

use std::path::Path;

use crate::recipe::Recipe;

/// The keyword under which the text lies in a PNG.
pub const KEYWORD: &str = "parameters";

/// Samplers that the web interface has, too, and their names there.
const SAMPLERS: [(&str, &str); 18] = [
    ("ddim", "DDIM"),
    ("euler", "Euler"),
    ("euler-a", "Euler a"),
    ("heun", "Heun"),
    ("dpm2", "DPM2"),
    ("dpm2-a", "DPM2 a"),
    ("dpmpp-2s-a", "DPM++ 2S a"),
    ("dpmpp-2m", "DPM++ 2M"),
    ("dpmpp-2m-sde", "DPM++ 2M SDE"),
    ("dpmpp-2m-sde-heun", "DPM++ 2M SDE Heun"),
    ("dpmpp-3m-sde", "DPM++ 3M SDE"),
    ("lms", "LMS"),
    ("plms", "PLMS"),
    ("pndm", "PLMS"),
    ("unipc", "UniPC"),
    ("unipc-bh1", "UniPC"),
    ("unipc-3", "UniPC"),
    ("lcm", "LCM"),
];

/// Tables of noise levels that it has, too.
const SIGMAS: [(&str, &str); 9] = [
    ("karras", "Karras"),
    ("exponential", "Exponential"),
    ("polyexponential", "Polyexponential"),
    ("uniform", "SGM Uniform"),
    ("simple", "Simple"),
    ("kl-optimal", "KL Optimal"),
    ("beta", "Beta"),
    ("ays-sd15", "Align Your Steps"),
    ("ays-sdxl", "Align Your Steps"),
];

/// Digits of a model's hash.
const DIGITS: usize = 10;

/// The text, of a run with a prompt. What the web interface has no name for has unfog's.
pub fn parameters(recipe: &Recipe) -> Option<String> {
    let mut text = recipe.prompt.clone()?;
    if let Some(negative) = recipe.negative_prompt.as_ref().filter(|text| !text.is_empty()) {
        text += "\nNegative prompt: ";
        text += negative;
    }
    let known = |names: &[(&str, &str)], own: &str| {
        names.iter().find(|(name, _)| *name == own).map(|(_, name)| (*name).to_owned())
    };
    let mut settings = vec![
        ("Steps", recipe.steps.to_string()),
        ("Sampler", known(&SAMPLERS, &recipe.sampler).unwrap_or_else(|| recipe.sampler.clone())),
    ];
    let sigmas = recipe.sigmas.as_deref().and_then(|name| known(&SIGMAS, name.split(':').next().unwrap_or(name)));
    settings.extend(sigmas.map(|name| ("Schedule type", name)));
    settings.extend([
        ("CFG scale", recipe.guidance.to_string()),
        ("Seed", recipe.seed.to_string()),
        ("Size", format!("{}x{}", recipe.width, recipe.height)),
        ("Model hash", recipe.weights_sha256.chars().take(DIGITS).collect()),
        ("Model", model(&recipe.model)),
    ]);
    // The last layer is number 1 there.
    settings.extend(recipe.clip_skip.filter(|&skip| skip > 0).map(|n| ("Clip skip", n.saturating_add(1).to_string())));
    settings.push(("Version", format!("unfog {}", recipe.version)));
    let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}: {}", quoted(value))).collect();
    Some(format!("{text}\n{}", settings.join(", ")))
}

/// The name of a model's folder, or of its file without the extension.
fn model(path: &str) -> String {
    let path = Path::new(path);
    let file = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf");
    let name = if file { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// In quotes, as JSON has them, where readers would take a part of it for the next setting.
fn quoted(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(prompt: &str) -> Recipe {
        let text = serde_json::json!({
            "command": "sample", "version": "0.1.0", "model": "folder/my, model.safetensors", "weights_sha256": "0123456789abcdef",
            "prompt": prompt, "negative_prompt": "blurry", "clip_skip": 1, "class": null, "negative": null, "guidance": 7.5,
            "guidance_rule": "cfg", "guidance_rescale": null, "guidance_interval": null, "sampler": "euler-a", "schedule": "scaled_linear",
            "sigmas": "karras:5", "steps": 20, "eta": 0.0, "seed": 1, "count": 1, "first": 0, "width": 512, "height": 512,
            "parity": "diffusers", "noise": "philox", "noise_in": null, "vram": null, "backend": "cpu", "device": "x86_64",
            "driver": null, "kernels": null, "threads": 2, "precision": "f32"
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_text_is_that_of_the_web_interface() {
        let whole = recipe("a cat,\na (dog:1.2)");
        let expected = "a cat,\na (dog:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.5, \
                        Seed: 1, Size: 512x512, Model hash: 0123456789, Model: \"my, model\", Clip skip: 2, Version: unfog 0.1.0";
        assert_eq!(parameters(&whole).as_deref(), Some(expected));
        let plain = Recipe {
            negative_prompt: Some(String::new()),
            clip_skip: Some(0),
            sigmas: None,
            model: "sd-v1.5".into(),
            ..whole
        };
        let expected = "a cat,\na (dog:1.2)\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 1, Size: 512x512, \
                        Model hash: 0123456789, Model: sd-v1.5, Version: unfog 0.1.0";
        assert_eq!(parameters(&plain).as_deref(), Some(expected));
        assert_eq!(parameters(&Recipe { prompt: None, ..plain }), None);
    }

    #[test]
    fn names_are_of_samplers_that_there_are() {
        for (name, _) in SAMPLERS {
            assert!(unfog_core::sampler::find(name).is_some(), "{name}");
        }
    }
}
