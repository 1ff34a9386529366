//! Pictures that steer a run: ControlNets and T2I adapters, and what each makes of its picture.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::model::controlnet::{self, PREFIXES};
use unfog_core::nn::model::unet2d_condition::Beside;
use unfog_core::nn::weights::WeightData;

use super::generate::evaluations;
use super::options::Options;
use super::phases::{Phases, Share};
use super::setup::{Setup, Shape};
use crate::backend::{Backend, Request};
use crate::error::{Error, Result};
use crate::image::{Picture, load};
use crate::memory;
use crate::model::{Control, Fingerprint, Model, Network, Weights};
use crate::recipe;
use crate::stop::Stop;

/// The folders of a model's own controls.
const OWN: [&str; 2] = ["controlnet", "adapter"];

/// Which control sees which picture, and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    folder: PathBuf,
    image: PathBuf,
    scale: f32,
    steps: Share,
}

impl Choice {
    /// Pairs what `options` say of controls.
    ///
    /// # Errors
    /// A usage error for lists that don't fit each other or the model.
    pub(super) fn all(model: &Model, options: &Options) -> Result<Vec<Self>> {
        let (folders, images) = (&options.controls, &options.control_images);
        let own = OWN.into_iter().find_map(|name| model.part(name));
        let folders = match (&folders[..], own) {
            ([], Some(own)) if images.is_empty() => {
                let what = format!("the model {} makes what a picture says ({})", model.name(), own.display());
                return Err(Error::usage(what).hint("give --control-image IMAGE"));
            }
            ([], Some(own)) => vec![own],
            ([], None) if !images.is_empty() => {
                let what = format!("--control-image: the model {} has no control of its own", model.name());
                return Err(Error::usage(what).hint("give --control FOLDER"));
            }
            (given, _) => given.to_vec(),
        };
        if folders.len() != images.len() {
            return Err(Error::usage(format!("{} controls have {} pictures", folders.len(), images.len()))
                .hint("give each --control its --control-image"));
        }
        let scales = &options.control_scales;
        if scales.len() > 1 && scales.len() != folders.len() || folders.is_empty() && !scales.is_empty() {
            return Err(Error::usage(format!("{} controls have {} scales", folders.len(), scales.len()))
                .hint("give one --control-scale for all, or each its own"));
        }
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
            return Err(Error::usage(format!("--control-scale {scale} is no number")));
        }
        let steps = &options.control_steps;
        if steps.len() > 1 && steps.len() != folders.len() || folders.is_empty() && !steps.is_empty() {
            return Err(Error::usage(format!("{} controls have {} parts of the steps", folders.len(), steps.len()))
                .hint("give one --control-steps for all, or each its own"));
        }
        if let Some(Share { start, end }) = steps.iter().find(|share| !share.is_valid()) {
            return Err(Error::usage(format!("--control-steps {start}:{end} is no part of the steps")));
        }
        if folders.len() > PREFIXES.len() {
            return Err(Error::usage(format!(
                "{} controls are too many; {} are the most",
                folders.len(),
                PREFIXES.len()
            )));
        }
        if !folders.is_empty() && model.condition().is_none() {
            let what = format!("--control: the model {} is none that pictures steer", model.name());
            return Err(Error::usage(what).hint("give one of Stable Diffusion's pipelines"));
        }
        let scale = |i: usize| scales.get(i).or(scales.first()).copied().unwrap_or(1.0);
        let share = |i: usize| steps.get(i).or(steps.first()).copied().unwrap_or(Share::ALL);
        let pairs = folders.into_iter().zip(images).enumerate();
        let one = |(i, (folder, image)): (usize, (PathBuf, &PathBuf))| {
            let (image, scale, steps) = (image.clone(), scale(i), share(i));
            Self { folder, image, scale, steps }
        };
        Ok(pairs.map(one).collect())
    }
}

/// A control that was read.
struct One {
    choice: Choice,
    control: Control,
    /// The networks that the picture goes through, with their weights.
    hints: Vec<(Network, Weights)>,
    /// The picture as these take it.
    picture: Vec<f32>,
    image: Arc<Vec<u8>>,
}

/// The controls of a run, read and checked; no network was run yet.
#[derive(Default)]
pub(super) struct Controls {
    all: Vec<One>,
    /// Those that are parts of the network's graph.
    nets: Vec<controlnet::Config>,
    /// How many features adapters make.
    features: usize,
    /// The weights of each of those parts.
    parts: Vec<(Network, Weights)>,
}

impl Controls {
    /// Reads the controls of `options` and their pictures.
    ///
    /// # Errors
    /// Those of [`Choice::all`]; a missing or damaged file; a control for another model.
    pub(super) fn read(model: &Model, options: &Options, setup: &Setup) -> Result<Self> {
        let mut controls = Self::default();
        let Some(config) = model.condition() else { return Ok(controls) };
        let Shape { width, height, .. } = setup.picture;
        let multiple = height / setup.height.max(1);
        for choice in Choice::all(model, options)? {
            let control = Control::open(&choice.folder)?;
            let features = control.features(config, multiple)?;
            let hints = control.hints(height, width, features)?.into_iter();
            let hints = hints.map(|network| control.weights(&network).map(|weights| (network, weights)));
            let hints: Vec<_> = hints.collect::<Result<_>>()?;
            let picture = picture(&choice.image, [height, width], control.channels())?;
            match control.net() {
                Some(net) => controls.nets.push(net.clone()),
                None => controls.features = controls.features.max(features),
            }
            let image = Arc::new(crate::files::read(&choice.image)?);
            let picture = control.prepare(&picture, [height, width]);
            controls.all.push(One { choice, control, hints, picture, image });
        }
        Ok(controls)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one counts in a part of the steps alone.
    fn is_partial(&self) -> bool {
        self.all.iter().any(|one| one.choice.steps != Share::ALL)
    }

    /// Which of them count in which evaluation of the run.
    ///
    /// # Errors
    /// Those of the chain.
    pub(super) fn phases(&self, setup: &Setup) -> Result<Phases> {
        let shares: Vec<Share> = self.all.iter().map(|one| one.choice.steps).collect();
        Ok(Phases::new(&shares, if self.is_partial() { evaluations(setup)? } else { 1 }))
    }

    /// The network of `model` with the controls in it; reads their weights.
    ///
    /// # Errors
    /// Those of [`Model::network`] and of the weights.
    pub(super) fn network(&mut self, model: &Model, setup: &Setup, tokens: u32) -> Result<Network> {
        let gated = self.is_partial();
        let beside = Beside { controls: &self.nets, gated, features: self.features };
        let network = model.network_beside(setup.height, setup.width, tokens, beside)?;
        for (one, prefix) in self.all.iter().filter(|one| one.control.net().is_some()).zip(PREFIXES) {
            let part = network.part(prefix);
            let mut weights = one.control.weights(&part)?;
            Control::scale(&part, &mut weights, one.choice.scale)?;
            self.parts.push((part, weights));
        }
        Ok(network)
    }

    /// The weights of `network`, which [`Self::network`] made; `own` are those of the model's network alone.
    pub(super) fn data<'w>(&'w self, network: &Network, own: &[WeightData<'w>]) -> Vec<WeightData<'w>> {
        let mut own = own.iter().copied();
        let mut parts: Vec<_> = self.parts.iter().map(|(_, weights)| weights.data().into_iter()).collect();
        let of_part = |name: &str| PREFIXES.iter().position(|prefix| name.starts_with(prefix));
        let one = |name: &String| match of_part(name).and_then(|i| parts.get_mut(i)) {
            Some(part) => part.next(),
            None => own.next(),
        };
        network.names().iter().filter_map(one).collect()
    }

    /// What each control makes of its picture. Runs the networks that make it on the backend that `request` names.
    ///
    /// # Errors
    /// Those of the backend; [`Error::interrupted`].
    pub(super) fn hints(&self, request: &Request, stop: &Stop) -> Result<Hints> {
        let mut of = Vec::new();
        for one in &self.all {
            let net = one.control.net();
            let mut features = Vec::new();
            for (network, weights) in &one.hints {
                stop.check()?;
                let data = weights.data();
                let mut backend = Backend::open(request, network.graph(), &data, stop)?;
                let mut planar = memory::vec(backend.out_len(), 0.0)?;
                backend.predict(&one.picture, 0.0, &[Cond::None], &mut planar)?;
                let graph = network.graph();
                let mut values = interleaved(&planar, graph.shape(graph.output).c as usize)?;
                if net.is_none() {
                    values.iter_mut().for_each(|v| *v *= one.choice.scale);
                }
                features.push(values);
            }
            let gate = net.filter(|_| self.is_partial()).map_or(0, |net| net.widest() as usize);
            of.push(match net {
                Some(_) => Hint::Net(features.into_iter().next().unwrap_or_default(), gate),
                None => Hint::Adapter(features),
            });
        }
        Ok(Hints { of, features: self.features })
    }

    /// Starts to compute the fingerprint of each control's weights and picture.
    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        let mut parts = self.parts.iter();
        let of = |one: &One| {
            let part = if one.control.net().is_some() { parts.next() } else { one.hints.first() };
            let weights = part.map(|(_, weights)| weights.fingerprint());
            weights.into_iter().chain([Fingerprint::of(one.image.clone())]).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }

    /// What a recipe says of them, but for the fingerprints.
    pub(super) fn recipe(&self) -> Vec<recipe::Control> {
        let text = |path: &Path| path.display().to_string();
        let one = |Choice { folder, image, scale, steps }: &Choice| recipe::Control {
            model: text(folder),
            sha256: String::new(),
            image: text(image),
            image_sha256: String::new(),
            scale: *scale,
            steps: (*steps != Share::ALL).then_some([steps.start, steps.end]),
        };
        self.all.iter().map(|control| one(&control.choice)).collect()
    }
}

/// What one control makes of its picture.
enum Hint {
    /// Of a ControlNet: its hint, and the channels that the condition says how much it counts in; 0 if it doesn't say.
    Net(Vec<f32>, usize),
    /// The features of an adapter.
    Adapter(Vec<Vec<f32>>),
}

/// What the controls of a run make of their pictures.
pub(super) struct Hints {
    of: Vec<Hint>,
    /// How many features are added.
    features: usize,
}

impl Hints {
    /// What a condition holds of them where those count that `on` says: the features of all adapters, and in its end the hint of each
    /// ControlNet.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn told(&self, on: &[bool]) -> Result<[Vec<f32>; 2]> {
        let (mut sums, mut nets) = (vec![Vec::<f32>::new(); self.features], Vec::new());
        for (hint, &on) in self.of.iter().zip(on) {
            let factor = if on { 1.0 } else { 0.0 };
            match hint {
                Hint::Net(values, gate) => {
                    memory::extend(&mut nets, values)?;
                    memory::extend(&mut nets, &vec![factor; *gate])?;
                }
                // Several adapters' features are added up.
                Hint::Adapter(features) => {
                    for (sum, values) in sums.iter_mut().zip(features) {
                        memory::resize(sum, values.len(), 0.0)?;
                        sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += factor * v);
                    }
                }
            }
        }
        let mut features = Vec::new();
        for sum in &sums {
            memory::extend(&mut features, sum)?;
        }
        Ok([features, nets])
    }
}

/// The picture in the file at `path`, in this size and with so many channels: planar, from 0 to 1.
fn picture(path: &Path, [h, w]: [u32; 2], channels: u32) -> Result<Vec<f32>> {
    let picture: Picture = load(path)?.resized(w, h)?;
    let own = picture.channels() as usize;
    let pixels = || picture.pixels().chunks_exact(own);
    let unit = |byte: u8| f32::from(byte) / 255.0;
    // As PIL has it (ITU-R BT.601).
    let luma =
        |p: &[u8]| (p.iter().zip([19595, 38470, 7471]).map(|(&p, f)| u32::from(p) * f).sum::<u32>() + (1 << 15)) >> 16;
    match (own, channels) {
        (1, 1 | 3) => Ok((0..channels).flat_map(|_| pixels().map(|p| unit(p[0]))).collect()),
        (3, 3) => Ok((0..3).flat_map(|c| pixels().map(move |p| unit(p[c]))).collect()),
        (3, 1) => Ok(pixels().map(|p| unit(luma(p) as u8)).collect()),
        _ => Err(Error::failure(format!("the control takes pictures of {channels} channels; known are 1 and 3"))),
    }
}

/// Planes `[c, h, w]` as pixels `[h, w, c]`.
fn interleaved(planes: &[f32], channels: usize) -> Result<Vec<f32>> {
    let pixels = planes.len().checked_div(channels).unwrap_or(0);
    let mut values = memory::vec(planes.len(), 0.0)?;
    for (c, plane) in planes.chunks_exact(pixels.max(1)).enumerate() {
        values.iter_mut().skip(c).step_by(channels.max(1)).zip(plane).for_each(|(to, v)| *to = *v);
    }
    Ok(values)
}
