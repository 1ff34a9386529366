//! A picture on its way to the noise that it is made from: DDIM backwards (Song et al. 2021a, section 4.3; diffusers' DDIMInverseScheduler).

use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::guidance::Guidance;
use unfog_core::noise::Given;
use unfog_core::predict::{Clip, PredictionType};
use unfog_core::sampler;
use unfog_core::schedule::{Level, Schedule};

use super::super::generate::{chain_failed, step_failed};
use super::super::options::Options;
use super::plan::Kind;
use super::{Edit, Mask};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::Model;
use crate::settings::Settings;
use crate::stop::Stop;

/// What describes the picture, for its inversion and for a mask that is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Source {
    /// Of a model of classes.
    pub(in super::super) class: Option<u32>,
    /// Of a model of texts.
    pub(in super::super) prompt: Option<String>,
}

impl Source {
    /// What `edit` says of it, if it takes any.
    ///
    /// # Errors
    /// A usage error for what means nothing to the model, or to this edit.
    pub(in super::super) fn new(model: &Model, options: &Options, edit: &Edit, kind: Kind) -> Result<Option<Self>> {
        let name = model.name();
        let Some(why) = reason(edit) else {
            let given = [("--from-class", edit.from_class.is_some()), ("--from-prompt", edit.from_prompt.is_some())];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => {
                    Err(Error::usage(format!("{option} means nothing without --invert or --mask auto")))
                }
                None => Ok(None),
            };
        };
        kind.check(edit)?;
        if model.condition().is_some_and(|config| config.time_cond_proj_dim.is_some()) || model.is_of_consistency()? {
            return Err(Error::usage(format!(
                "{why} means nothing to the model {name}: guidance was distilled into it"
            )));
        }
        if !options.control_steps.is_empty() {
            return Err(Error::usage(format!("--control-steps means nothing with {why}: a control counts always")));
        }
        if options.prompt.is_some() {
            return match &edit.from_class {
                Some(_) => Err(Error::usage(format!("--from-class: the model {name} has no classes"))
                    .hint("say with --from-prompt what the picture shows")),
                None => Ok(Some(Self { class: None, prompt: Some(edit.from_prompt.clone().unwrap_or_default()) })),
            };
        }
        if edit.from_prompt.is_some() {
            return Err(Error::usage(format!("--from-prompt: the model {name} takes no text")));
        }
        let class = match (&edit.from_class, model.classes()) {
            (Some(text), Some(classes)) => Some(classes.find(text)?),
            (Some(_), None) => return Err(Error::usage(format!("--from-class: the model {name} has no classes"))),
            (None, Some(classes)) => Some(classes.unknown("--from-class")?),
            (None, None) => None,
        };
        Ok(Some(Self { class, prompt: None }))
    }

    /// Brings settings to those of a run that goes backwards first: predicted images are not clipped, whatever the scheduler says, since what
    /// clipping takes away is not found again.
    ///
    /// # Errors
    /// A usage error for settings that can't be run backwards.
    pub(in super::super) fn settle(settings: &mut Settings) -> Result<()> {
        let Settings { sampler, config, .. } = settings;
        if sampler.name != sampler::DDIM.name {
            return Err(Error::usage(format!("--invert goes by ddim, and means nothing to {}", sampler.name))
                .hint("leave --sampler out"));
        }
        if config.eta != 0.0 {
            return Err(Error::usage("--invert means nothing with --eta: fresh noise leads elsewhere"));
        }
        if config.prediction == PredictionType::Sample && config.set_alpha_to_one {
            return Err(Error::usage("--invert means nothing to a network that predicts the image itself")
                .hint("a picture has no noise to be told from it"));
        }
        config.clip = Clip::None;
        Ok(())
    }
}

/// The option that takes what describes the picture, if one is given.
fn reason(edit: &Edit) -> Option<&'static str> {
    match edit {
        Edit { invert: true, .. } => Some("--invert"),
        Edit { mask: Some(Mask::Auto), .. } => Some("--mask auto"),
        _ => None,
    }
}

/// Images on their way from a picture to noise.
#[derive(Debug, Default)]
pub(super) struct Path {
    /// The levels that they have passed, the picture's first, and what they were there, `[n, len]`.
    passed: Vec<(Level, Vec<f32>)>,
}

/// Where a path leads, and under which conditions.
pub(super) struct Way<'a> {
    pub(super) config: &'a Config,
    pub(super) schedule: Schedule<'a>,
    /// Steps.
    pub(super) steps: usize,
    /// Number of the first image, and values of each.
    pub(super) first_image: u64,
    pub(super) len: usize,
    /// The condition of each image.
    pub(super) conds: &'a [Cond],
}

impl Path {
    /// Follows DDIM backwards from pictures `[n, len]`, without guidance. `done` is told of every step.
    ///
    /// # Errors
    /// Those of the network; [`Error::interrupted`].
    pub(super) fn follow<D: Denoise<Error = Error>>(
        pictures: &[f32],
        way: &Way<'_>,
        network: &mut D,
        stop: &Stop,
        done: &mut dyn FnMut(),
    ) -> Result<Self> {
        let Way { config, schedule, steps, first_image, len, conds } = *way;
        let config = Config { guidance: Guidance::None, ..*config };
        let batch = Batch { first_image, len, out_len: network.out_len(), conds };
        let needed = Chain::memory(&config, &sampler::DDIM_INVERSE, &batch).map_err(chain_failed)?;
        let mut values = memory::vec(needed, 0.0)?;
        let mut chain =
            Chain::new(&config, &sampler::DDIM_INVERSE, schedule, batch, &mut values).map_err(chain_failed)?;
        if !chain.begin(0, 0, pictures) {
            return Err(Error::failure("the picture's values don't fit the chain"));
        }
        let mut passed = vec![(Level::IMAGE, memory::collect(pictures.iter().copied())?)];
        // It draws none.
        let mut noise = Given::new(&[], 0, 0, len);
        let all = schedule.timesteps().len();
        for step in 1..=steps {
            stop.check()?;
            if chain.step(network, &mut noise).map_err(step_failed)?.is_none() {
                return Err(Error::failure("the schedule has fewer steps than the inversion"));
            }
            passed.push((schedule.level(all - step), memory::collect(chain.x().iter().copied())?));
            done();
        }
        Ok(Self { passed })
    }

    /// Where it led.
    pub(super) fn end(&self) -> Option<&[f32]> {
        self.passed.last().map(|(_, x)| &x[..])
    }

    /// What the images were at this level, or, `steps` steps nearer to noise, before it on the way back.
    pub(super) fn at(&self, level: Level, steps: usize) -> Option<&[f32]> {
        let found = self.passed.iter().position(|(passed, _)| *passed == level)?;
        self.passed.get((found + steps).min(self.passed.len() - 1)).map(|(_, x)| &x[..])
    }
}
