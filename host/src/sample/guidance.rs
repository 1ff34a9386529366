//! Options become guidance.

use unfog_core::guidance::{Classifier, Guidance, Interval, Rule, Space};
use unfog_core::predict::PredictionType;

use super::options::Options;
use crate::backend::by_name;
use crate::error::{Error, Result};
use crate::model::Model;

/// Momentum of adaptive projected guidance: what Sadat et al. 2024 take for most of their models.
const APG_MOMENTUM: f32 = -0.5;

/// The guidance of models of texts that name no other: diffusers' default for Stable Diffusion 1 and 2.
const PROMPT_GUIDANCE: f32 = 7.5;

/// The same of networks that are told the guidance: of LatentConsistencyModelPipeline.
const DISTILLED_GUIDANCE: f32 = 8.5;

/// How predictions are combined, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    PlusPlus,
    Projected,
    ZeroStar,
    Perpendicular,
}

/// Names of the rules on the command line.
const RULES: [(&str, Way); 5] = [
    ("cfg", Way::Plain),
    ("cfg-pp", Way::PlusPlus),
    ("apg", Way::Projected),
    ("zero-star", Way::ZeroStar),
    ("perp-neg", Way::Perpendicular),
];

/// What guides a run, and how its recipe names it.
#[derive(Clone, Debug)]
pub struct Guided {
    /// As core takes it.
    pub guidance: Guidance,
    /// Scale; 1 is off.
    pub scale: f32,
    /// Name of the rule.
    pub rule: &'static str,
    /// The class that the pictures are to lead away from.
    pub negative: Option<u32>,
}

impl Guided {
    /// Settles what `options` say of guidance, for a network that predicts `prediction`.
    ///
    /// # Errors
    /// A usage error for an unknown rule, a number out of range, what this model can't be guided by, and options that would
    /// change nothing.
    pub(super) fn new(model: &Model, options: &Options, prediction: PredictionType) -> Result<Self> {
        let own = if options.prompt.is_some() { PROMPT_GUIDANCE } else { 1.0 };
        let distilled = model.condition().is_some_and(|config| config.time_cond_proj_dim.is_some());
        let own = if distilled { DISTILLED_GUIDANCE } else { own };
        let scale = options.guidance.or(model.default_guidance()).unwrap_or(own);
        if !scale.is_finite() {
            return Err(Error::usage(format!("--guidance {scale} is no number")));
        }
        if distilled {
            // The network is told the scale, and does the rest.
            return match extras(options).into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Error::usage(format!(
                    "{name} means nothing to the model {}: guidance was distilled into it",
                    model.name()
                ))),
                None => Ok(Self { guidance: Guidance::None, scale, rule: RULES[0].0, negative: None }),
            };
        }
        let way = by_name(&RULES, "guidance rule", options.guidance_rule.as_deref().unwrap_or(RULES[0].0))?;
        let rule = RULES.iter().find(|(_, known)| *known == way).map_or("", |(name, _)| name);
        // These two do something at scale 1 too.
        if scale == 1.0 && ![Way::PlusPlus, Way::Perpendicular].contains(&way) {
            return match extras(options).into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Error::usage(format!("{name} means nothing without guidance"))
                    .hint("give --guidance a scale other than 1")),
                None => Ok(Self { guidance: Guidance::None, scale, rule, negative: None }),
            };
        }
        let negative = match options.prompt {
            // A text like the prompt.
            Some(_) => None,
            None => class(model, options, way)?,
        };
        if way == Way::Perpendicular && options.negative.is_none() {
            return Err(Error::usage("--guidance-rule perp-neg leads away from something").hint("give --negative"));
        }
        if way == Way::PlusPlus && !(0.0..=1.0).contains(&scale) {
            return Err(Error::usage(format!("--guidance {scale}: the scale of cfg-pp lies between 0 and 1")));
        }
        let rescale = options.guidance_rescale.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&rescale) {
            return Err(Error::usage(format!("--guidance-rescale {rescale} is not between 0 and 1")));
        }
        let interval = match options.guidance_interval {
            Some([start, stop]) => Interval::Steps { start, stop },
            None => Interval::Always,
        };
        if !interval.is_valid() {
            return Err(Error::usage("--guidance-interval: its ends are shares of the steps from 0 to 1, in order")
                .hint("as in 0.1,0.8"));
        }
        let rule_of = match way {
            Way::Plain | Way::PlusPlus => Rule::Plain,
            Way::Projected => {
                Rule::Projected { parallel: 0.0, threshold: 0.0, momentum: APG_MOMENTUM, space: Space::Image }
            }
            // A flow of zero stands still; a noise of zero would not.
            Way::ZeroStar => Rule::ZeroStar { zero_steps: u32::from(prediction == PredictionType::Flow) },
            Way::Perpendicular => Rule::Perpendicular { weight: 1.0 },
        };
        let unconditional_noise = way == Way::PlusPlus;
        let classifier = Classifier { rule: rule_of, rescale, interval, unconditional_noise, ..Classifier::new(scale) };
        Ok(Self { guidance: Guidance::Classifier(classifier), scale, rule, negative })
    }
}

impl Guided {
    /// The same, towards a text and a picture, of which the picture counts `image`.
    ///
    /// # Errors
    /// A usage error for a rule that knows no picture, and for a scale that is no number.
    pub(super) fn with_picture(self, image: f32) -> Result<Self> {
        let Guidance::Classifier(classifier) = self.guidance else { return Ok(self) };
        if classifier.rule != Rule::Plain || classifier.unconditional_noise {
            return Err(Error::usage(format!("--guidance-rule {} is not for this model", self.rule))
                .hint("it is guided by a text and a picture"));
        }
        if !image.is_finite() {
            return Err(Error::usage(format!("--image-guidance {image} is no number")));
        }
        let classifier = Classifier { rule: Rule::Picture { image }, ..classifier };
        Ok(Self { guidance: Guidance::Classifier(classifier), ..self })
    }
}

/// The class that the pictures are to lead away from, of a model of classes.
fn class(model: &Model, options: &Options, way: Way) -> Result<Option<u32>> {
    let Some(classes) = model.classes() else {
        return Err(Error::usage(format!("--guidance: the model {} has no classes to be guided to", model.name())));
    };
    let negative = options.negative.as_deref().map(|text| classes.find(text)).transpose()?;
    if classes.null().is_none() && (negative.is_none() || way == Way::Perpendicular) {
        return Err(Error::usage(format!("--guidance: the model {} has no label for \"no class\"", model.name()))
            .hint("model_index.json may name one as null_class"));
    }
    Ok(negative)
}

/// The options that need guidance, and whether they are given.
fn extras(options: &Options) -> [(&'static str, bool); 4] {
    [
        ("--guidance-rule", options.guidance_rule.is_some()),
        ("--guidance-rescale", options.guidance_rescale.is_some()),
        ("--guidance-interval", options.guidance_interval.is_some()),
        ("--negative", options.negative.is_some()),
    ]
}
