//! LoRA (Hu et al. 2021): what a file adds to a model's weights, `weight * alpha / rank * up x down` for each layer that it names,
//! merged when they are loaded.

mod merge;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use unfog_core::nn::graph::WeightUse;

use super::hash::Fingerprint;
use super::mapped;
use super::network::Network;
use super::source::FileKind;
use super::weights::{WeightFile, Weights};
use crate::error::{Error, Result};
use crate::tensors::widen;
use merge::Factors;
use names::Role;

/// A LoRA that was asked for: its file, and how much of it is added.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraChoice {
    /// The safetensors file.
    pub path: PathBuf,
    /// The factor on what it adds.
    pub weight: f32,
}

impl FromStr for LoraChoice {
    type Err = Error;

    /// `FILE` or `FILE:WEIGHT`.
    fn from_str(text: &str) -> Result<Self> {
        let (path, weight) = match text.rsplit_once(':').map(|(path, weight)| (path, weight.parse::<f32>())) {
            Some((path, Ok(weight))) => (path, weight),
            _ => (text, 1.0),
        };
        if path.is_empty() || !weight.is_finite() {
            return Err(
                Error::usage(format!("--lora {text:?} names no file and number")).hint("give FILE or FILE:WEIGHT")
            );
        }
        Ok(Self { path: path.into(), weight })
    }
}

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The denoising network, with so many layers in its first level.
    Network { layers: usize },
    /// A text encoder, the first or the second.
    Text(usize),
}

/// The tensors of a layer, by their names in the file.
type Layer = BTreeMap<Role, String>;

/// A file, mapped, and what it says of each layer by the layer's name there.
#[derive(Debug)]
struct Lora {
    file: Arc<WeightFile>,
    weight: f32,
    layers: BTreeMap<String, Layer>,
    /// The layers that the model has.
    known: BTreeSet<String>,
    /// The configs of peft that diffusers writes into a file: `unet.lora_alpha` and the like.
    config: Value,
}

/// The LoRAs of a run.
#[derive(Debug, Default)]
pub(crate) struct Loras(Vec<Lora>);

impl Loras {
    /// Opens the files.
    ///
    /// # Errors
    /// A missing or damaged file, a pickle, one of another method, a tensor that is none of a LoRA's.
    pub(crate) fn open(choices: &[LoraChoice]) -> Result<Self> {
        choices.iter().map(Lora::open).collect::<Result<_>>().map(Self)
    }

    /// Starts to compute the fingerprint of each file.
    pub(crate) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.0.iter().map(|lora| Fingerprint::start(std::slice::from_ref(&lora.file))).collect()
    }

    /// Adds what the files say of `part` to its weights: those of `network`. `halves` says whether what is changed is to be held in half
    /// floats. `all` names weights that the part has beside those of `network`: layers that a run leaves out.
    ///
    /// # Errors
    /// Tensors that don't fit their layer, a sum that is not finite, too little memory.
    pub(crate) fn merge(
        &mut self,
        part: Part,
        network: &Network,
        all: &[String],
        weights: &mut Weights,
        halves: bool,
    ) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        for name in all {
            self.find(part, name);
        }
        for (i, (name, weight)) in network.names().iter().zip(network.graph().weights).enumerate() {
            if weight.role != WeightUse::Kernel {
                continue;
            }
            let found = self.find(part, name);
            let mut values = None;
            for (lora, layer) in found {
                let lora = &self.0[lora];
                let factors = lora.factors(part, &layer, name, weight.shape)?;
                let values = match &mut values {
                    Some(values) => values,
                    None => values.insert(weights.widened(i)?),
                };
                factors.add(values)?;
            }
            if let Some(values) = values {
                weights.change(i, name, values, halves)?;
            }
        }
        Ok(())
    }

    /// The LoRAs that change the weight `name`, and their layers' names for it. They are known from now on.
    fn find(&mut self, part: Part, name: &str) -> Vec<(usize, String)> {
        let Some(module) = name.strip_suffix(".weight") else { return Vec::new() };
        let names = names::of_layer(part, module);
        let mut found = Vec::new();
        for (i, lora) in self.0.iter_mut().enumerate() {
            for name in names.iter().filter(|name| lora.layers.contains_key(*name)) {
                lora.known.insert(name.clone());
                found.push((i, name.clone()));
            }
        }
        found
    }

    /// Fails if a file names layers that no part of the model has: it is for another model.
    ///
    /// # Errors
    /// One that names the first of these layers and says how many they are.
    pub(crate) fn finish(&self) -> Result<()> {
        for lora in &self.0 {
            let unknown = || lora.layers.keys().filter(|name| !lora.known.contains(*name));
            if let Some(first) = unknown().next() {
                let (count, all) = (unknown().count(), lora.layers.len());
                return Err(Error::failure(format!(
                    "{} changes {count} of {all} layers that the model does not have, the first is {first}",
                    lora.file.name
                ))
                .hint("it is for another model"));
            }
        }
        Ok(())
    }
}

impl Lora {
    fn open(choice: &LoraChoice) -> Result<Self> {
        let file = safetensors_file(&choice.path, "LoRA")?;
        let (_, metadata) = SafeTensors::read_metadata(&file.bytes).map_err(|e| damaged(&file.name).because(e))?;
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        let mut tensors: Vec<_> = metadata.tensors().into_keys().collect();
        tensors.sort();
        for tensor in tensors {
            if let Some(method) = names::other_method(&tensor) {
                let refused = format!("{} is {method}, which unfog does not merge ({tensor})", file.name);
                return Err(Error::failure(refused).hint("only plain LoRA is known"));
            }
            let Some((layer, role)) = names::split(&tensor) else {
                return Err(Error::failure(format!("{} holds {tensor}, which is none of a LoRA's tensors", file.name)));
            };
            layers.entry(layer.to_owned()).or_default().insert(role, tensor);
        }
        if layers.is_empty() {
            return Err(Error::failure(format!("{} holds no LoRA", file.name)));
        }
        let config = metadata.metadata().as_ref().and_then(|notes| notes.get("lora_adapter_metadata"));
        let config = config.map(|text| serde_json::from_str(text)).transpose();
        let config = config.map_err(|e| {
            Error::failure(format!("the lora_adapter_metadata of {} can't be read", file.name)).because(e)
        })?;
        let known = BTreeSet::new();
        Ok(Self { file: Arc::new(file), weight: choice.weight, layers, known, config: config.unwrap_or_default() })
    }

    /// What is added to the weight `name` of this shape by the layer `layer` of the file.
    fn factors(&self, part: Part, layer: &str, name: &str, shape: [u32; 4]) -> Result<Factors> {
        let file = SafeTensors::deserialize(&self.file.bytes).map_err(|e| damaged(&self.file.name).because(e))?;
        let complain = |what: String| Error::failure(format!("{}: {what}", self.file.name));
        let tensors = self.layers.get(layer);
        let tensor = |role: Role| tensors.and_then(|tensors| tensors.get(&role));
        let read = |role: Role| -> Result<Option<(Vec<usize>, Vec<f32>)>> {
            let Some(tensor) = tensor(role) else { return Ok(None) };
            let view: TensorView<'_> = file.tensor(tensor).map_err(|e| damaged(&self.file.name).because(e))?;
            let values = widen(&view)?
                .ok_or_else(|| complain(format!("{tensor} has the type {:?}, not a float's", view.dtype())))?;
            Ok(Some((view.shape().to_vec(), values)))
        };
        let (Some(down), Some(up)) = (read(Role::Down)?, read(Role::Up)?) else {
            return Err(complain(format!("the layer {layer} lacks one of its two factors")));
        };
        let alpha = match read(Role::Alpha)? {
            Some((_, values)) if values.len() == 1 => Some(values[0]),
            Some((shape, _)) => return Err(complain(format!("the alpha of {layer} has the shape {shape:?}"))),
            None => None,
        };
        let rank = down.0.first().copied().unwrap_or(0);
        let scale = self.weight * self.scale(part, name, rank, alpha);
        Factors::new(shape, scale, down, up, read(Role::Mid)?).ok_or_else(|| {
            let [down, up] =
                [Role::Down, Role::Up].map(|role| tensor(role).and_then(|tensor| file.tensor(tensor).ok()));
            let shape_of = |view: Option<TensorView<'_>>| view.map(|view| view.shape().to_vec()).unwrap_or_default();
            complain(format!(
                "the layer {layer} has factors of {:?} and {:?}, which don't fit the weight {name} of {shape:?}",
                shape_of(down),
                shape_of(up)
            ))
            .hint("it is for another model")
        })
    }

    /// `alpha / rank`, by the first that says: the layer's own alpha, the file's config; 1 otherwise.
    fn scale(&self, part: Part, name: &str, rank: usize, alpha: Option<f32>) -> f32 {
        let prefix = match part {
            Part::Network { .. } => "unet",
            Part::Text(0) => "text_encoder",
            Part::Text(_) => "text_encoder_2",
        };
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let config = |key: &str| self.config.get(format!("{prefix}.{key}"));
        // Patterns are ends of names.
        let fits =
            |pattern: &str| module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let pattern = config("alpha_pattern").and_then(Value::as_object);
        let pattern = pattern.and_then(|pattern| pattern.iter().find(|(key, _)| fits(key)).map(|(_, alpha)| alpha));
        let configured = pattern.or(config("lora_alpha")).and_then(Value::as_f64).map(|alpha| alpha as f32);
        let rank = rank as f32;
        match (alpha, configured, config("use_rslora").and_then(Value::as_bool)) {
            (Some(alpha), ..) => alpha / rank,
            (None, Some(alpha), Some(true)) => alpha / rank.sqrt(),
            (None, Some(alpha), _) => alpha / rank,
            (None, None, _) => 1.0,
        }
    }
}

/// Maps the safetensors file at `path`; `what` says what it is to hold.
///
/// # Errors
/// A missing file, a pickle, another kind of file.
pub(super) fn safetensors_file(path: &Path, what: &str) -> Result<WeightFile> {
    let name = path.display().to_string();
    match FileKind::of(path)? {
        FileKind::Safetensors => Ok(WeightFile { name, bytes: mapped::map(path)? }),
        FileKind::Pickle => Err(Error::failure(format!(
            "{name} is a pickle, which could run any program while it is read; unfog reads none"
        ))
        .hint(format!("take the safetensors file of the {what}, or convert it where you trust it"))),
        _ => Err(damaged(&name)),
    }
}

fn damaged(name: &str) -> Error {
    Error::failure(format!("{name} is no whole safetensors file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_a_file_and_a_weight() {
        for (text, path, weight) in
            [("a.safetensors", "a.safetensors", 1.0), ("a:b:-0.5", "a:b", -0.5), ("c:x", "c:x", 1.0)]
        {
            let choice: LoraChoice = text.parse().unwrap();
            assert_eq!((choice.path.to_str().unwrap(), choice.weight), (path, weight), "{text}");
        }
        for text in ["", ":1", "a:inf", "a:nan"] {
            assert_eq!(text.parse::<LoraChoice>().unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
