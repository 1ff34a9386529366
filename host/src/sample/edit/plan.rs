//! How a run begins from a picture, settled before any work.

use std::sync::Arc;

use super::super::setup::Shape;
use super::found::MAPS;
use super::latents::Latents;
use super::{AUTO, Edit, Mask, picture};
use crate::error::{Error, Result};
use crate::files;
use crate::image::Picture;
use crate::model::{Autoencoder, Encoded, Model};
use crate::recipe::Edited;
use crate::settings::{Settings, Wishes};
use crate::tensors;

/// Channels of the picture that an upscaler is given.
const PICTURE: u32 = 3;
/// The noise that an upscaler is given with it: diffusers' default.
const NOISE_LEVEL: u32 = 20;
/// Share of the steps that are made without a mask: diffusers' default for img2img.
const STRENGTH: f64 = 0.8;
/// Scale of the guidance towards the picture: diffusers' default.
const IMAGE_GUIDANCE: f32 = 1.5;

/// What is made of a picture, as the network's input channels say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The network knows nothing of the picture: noise is added to it, and taken off again (Meng et al. 2022). With a mask, what stays is
    /// put back after every step (RePaint's simplest form; diffusers' StableDiffusionInpaintPipeline).
    Noised,
    /// The network takes the mask and the latents of what stays as further channels.
    Inpaint,
    /// The network takes the picture's latents as further channels, and a text that says what to change (Brooks et al. 2023).
    Instruct,
    /// The network takes the small picture itself, with some noise, as further channels, and the amount of noise as a class.
    Upscale,
}

impl Kind {
    /// What a model makes of pictures.
    ///
    /// # Errors
    /// Channels that nothing known has.
    pub(in super::super) fn of(model: &Model, autoencoder: Option<&Autoencoder>) -> Result<Self> {
        let extra = model.condition().map_or(0, |config| config.condition_channels);
        match autoencoder.map(Autoencoder::latent_channels) {
            _ if extra == 0 => Ok(Self::Noised),
            Some(latents) if extra == latents + 1 => Ok(Self::Inpaint),
            Some(latents) if extra == latents => Ok(Self::Instruct),
            Some(_) if extra == PICTURE => Ok(Self::Upscale),
            _ => Err(Error::failure(format!(
                "the network takes {extra} channels beside those that it predicts, which unfog does not know"
            ))
            .hint("known are a mask and latents, latents alone, and a picture")),
        }
    }

    /// Whether noise is all that the chain begins with.
    fn begins_with_noise(self) -> bool {
        matches!(self, Self::Instruct | Self::Upscale)
    }

    /// Refuses what means nothing to it.
    pub(super) fn check(self, edit: &Edit) -> Result<()> {
        let noisy = self.begins_with_noise();
        let given = [
            ("--strength", edit.strength.is_some() && noisy),
            ("--mask", edit.mask.is_some() && noisy),
            ("--mask auto", edit.mask == Some(Mask::Auto) && self != Self::Noised),
            ("--invert", edit.invert && self != Self::Noised),
            ("--keep-coarse", edit.keep_coarse.is_some() && self != Self::Noised),
            ("--image-guidance", edit.image_guidance.is_some() && self != Self::Instruct),
            ("--noise-level", edit.noise_level.is_some() && self != Self::Upscale),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::usage(format!("{name} means nothing to this model: {}", self.does()))),
            None if edit.mask.is_none() && self == Self::Inpaint => {
                Err(Error::usage("the model makes anew what a mask says").hint("give --mask IMAGE"))
            }
            None if edit.mask.is_none() && edit.paste => Err(Error::usage("--paste means nothing without --mask")),
            None if edit.mask == Some(Mask::Auto) && edit.paste => {
                Err(Error::usage("--paste means nothing to --mask auto: what is found has no pixels of the picture")
                    .hint("give a picture as the mask"))
            }
            None => Ok(()),
        }
    }

    fn does(self) -> &'static str {
        match self {
            Self::Noised => "it begins from the picture with noise",
            Self::Inpaint => "it makes anew what a mask says",
            Self::Instruct => "it changes what the prompt says",
            Self::Upscale => "it makes the picture larger",
        }
    }
}

/// Numbers of the draws of noise that are made before the chain's own, in diffusers' order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// The picture's latents, where they are drawn; of an upscaler the noise that it is given with the picture.
    pub image: Option<u32>,
    /// The noise that is added to them, unless it is what inversion makes of them.
    pub noise: Option<u32>,
    /// The latents of what stays, where they are drawn.
    pub masked: Option<u32>,
    /// The first of the draws by which a mask is found.
    pub maps: Option<u32>,
    /// All of them.
    pub count: u32,
}

/// How a run begins from a picture.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is made of it.
    pub kind: Kind,
    /// The step that the chain begins with.
    pub step: usize,
    /// Whether it begins from noise alone.
    pub pure: bool,
    /// Whether it begins from what DDIM, run backwards, makes of the picture.
    pub invert: bool,
    /// The pixels along a side of what counts as coarse, and is put back after every step.
    pub(super) coarse: Option<u32>,
    /// The draws of noise before the chain's.
    pub draws: Draws,
    /// The picture `[c, h, w]`, from -1 to 1, in the size of the run's pictures; of an upscaler in that of the latents.
    pub(super) image: Arc<[f32]>,
    /// Its latents `[c, h, w]`, where they are given in place of the picture, which is empty then.
    pub(in super::super) latents: Option<Arc<[f32]>>,
    /// Where it is made anew, `[h, w]`: 1 there, 0 elsewhere.
    pub(super) mask: Option<Arc<[f32]>>,
    /// How much noise an upscaler is given with it, and the factors of picture and noise.
    pub(super) noise: Option<(u32, [f32; 2])>,
    /// Whether a picture that is to be changed is told in the scale of the latents.
    pub(in super::super) scaled: bool,
    /// Whether what stays is copied from it in the end.
    paste: bool,
    /// For the recipe.
    edited: Edited,
}

/// The picture of an edit and its mask, read before the run's size is known.
pub(in super::super) struct Given {
    image: Image,
    sha256: String,
    mask: Option<picture::Read>,
}

enum Image {
    Picture(Picture),
    Latents(Latents),
}

impl Given {
    /// Reads the files of an edit.
    ///
    /// # Errors
    /// A missing or damaged file.
    pub(in super::super) fn read(edit: &Edit) -> Result<Self> {
        let (image, sha256) = if tensors::is_named(&edit.image) {
            (Image::Latents(Latents::read(&edit.image)?), files::sha256(&edit.image)?)
        } else {
            let picture::Read { picture, sha256 } = picture::Read::new(&edit.image)?;
            (Image::Picture(picture), sha256)
        };
        let mask = match &edit.mask {
            Some(Mask::Picture(path)) => Some(picture::Read::new(path)?),
            Some(Mask::Auto) | None => None,
        };
        Ok(Self { image, sha256, mask })
    }

    /// Width and height in pixels, of which a side of latents has `multiple` times as many as values.
    pub(in super::super) fn size(&self, multiple: u32) -> (u32, u32) {
        match &self.image {
            Image::Picture(picture) => (picture.width(), picture.height()),
            Image::Latents(latents) => latents.size(multiple),
        }
    }

    /// The picture `[c, h, w]` in `shape`, empty where its latents are given, and these; and the mask `[h, w]`, if there is one.
    ///
    /// # Errors
    /// A usage error for latents where the model has to see the picture, for latents or a mask that don't fit.
    fn values(&self, kind: Kind, autoencoder: Option<&Autoencoder>, shape: Shape) -> Result<[Option<Arc<[f32]>>; 3]> {
        match (&self.image, &self.mask, autoencoder) {
            (Image::Picture(own), mask, _) => {
                let image = picture::values(own, shape)?;
                let mask = mask.as_ref().map(|mask| picture::mask(&mask.picture, own, shape)).transpose()?;
                Ok([Some(image.into()), None, mask.map(Into::into)])
            }
            (Image::Latents(latents), None, Some(autoencoder)) if kind == Kind::Noised => {
                let sides = [shape.height, shape.width].map(|side| side / autoencoder.multiples()[1].max(1));
                Ok([None, Some(latents.resized(autoencoder.latent_channels(), sides)?.into()), None])
            }
            (Image::Latents(_), Some(_), _) => {
                Err(Error::usage("--mask means nothing to latents").hint("give the picture"))
            }
            (Image::Latents(_), None, Some(_)) => {
                Err(Error::usage(format!("latents mean nothing to this model: {}", kind.does()))
                    .hint("give the picture"))
            }
            (Image::Latents(_), None, None) => {
                Err(Error::usage("the model makes pixels, and no latents").hint("give a picture"))
            }
        }
    }
}

impl Plan {
    /// Settles an edit of a model that makes pictures of `shape` in so many steps, all of which are made where the strength has chosen them.
    ///
    /// # Errors
    /// A usage error for a strength out of range, for one that leaves no step, for a mask that is missing or does not fit, and for options
    /// that mean nothing to the model.
    pub(in super::super) fn new(
        edit: &Edit,
        given: &Given,
        kind: Kind,
        autoencoder: Option<&Autoencoder>,
        noise: Option<(u32, [f32; 2])>,
        shape: Shape,
        (steps, chosen): (usize, bool),
    ) -> Result<Self> {
        kind.check(edit)?;
        let whole = whole(edit, kind);
        let strength = strength(edit, kind)?;
        // diffusers' rule.
        let made = if chosen { steps } else { ((steps as f64 * strength) as usize).min(steps) };
        if made == 0 {
            return Err(Error::usage(format!("--strength {strength} of {steps} steps is no step"))
                .hint("give a larger strength or more --steps"));
        }
        let [image, latents, mask] = given.values(kind, autoencoder, shape)?;
        // diffusers inpaints from noise alone at full strength, and never so without a mask.
        let pure = whole && strength == 1.0;
        let drawn =
            latents.is_none() && autoencoder.is_some_and(|autoencoder| autoencoder.encoded() == Encoded::Moments);
        let auto = edit.mask == Some(Mask::Auto);
        let draws = draws(kind, drawn, mask.is_some(), pure, [edit.invert, auto]);
        let edited = Edited {
            image: edit.image.display().to_string(),
            image_sha256: given.sha256.clone(),
            strength: (!kind.begins_with_noise()).then_some(strength),
            image_guidance: (kind == Kind::Instruct).then(|| image_guidance(edit)),
            noise_level: noise.map(|(level, _)| level),
            mask: edit.mask.as_ref().map(|mask| match mask {
                Mask::Picture(path) => path.display().to_string(),
                Mask::Auto => AUTO.into(),
            }),
            mask_sha256: given.mask.as_ref().map(|mask| mask.sha256.clone()),
            paste: edit.paste,
            invert: edit.invert,
            from_class: None,
            from_prompt: None,
            keep_coarse: edit.keep_coarse,
        };
        Ok(Self {
            kind,
            step: steps - made,
            pure,
            invert: edit.invert,
            coarse: edit.keep_coarse,
            draws,
            image: image.unwrap_or_default(),
            latents,
            mask,
            noise,
            scaled: false,
            paste: edit.paste,
            edited,
        })
    }

    /// How much noise an upscaler is given with the picture: its class.
    pub(in super::super) fn noise_level(&self) -> Option<u32> {
        self.noise.map(|(level, _)| level)
    }

    /// Steps that lead to where the chain begins, of a run of so many.
    pub(in super::super) fn steps_before(&self, steps: usize) -> usize {
        if self.invert { steps - self.step } else { 0 }
    }

    /// Refuses a coarse part that does not fit what is sampled, of `sides` pixels.
    ///
    /// # Errors
    /// A usage error.
    pub(in super::super) fn check_coarse(&self, sides: [u32; 2]) -> Result<()> {
        let Some(n) = self.coarse else { return Ok(()) };
        match n > 1 && sides.iter().all(|side| side.is_multiple_of(n)) {
            true => Ok(()),
            false => Err(Error::usage(format!("--keep-coarse {n}: it must be 2 or more, and divide what is sampled"))
                .hint(format!("that has {}x{} values", sides[0], sides[1]))),
        }
    }

    /// Says for the recipe what describes the picture.
    pub(in super::super) fn came_from(&mut self, class: Option<u32>, prompt: Option<String>) {
        (self.edited.from_class, self.edited.from_prompt) = (class, prompt);
    }

    /// The picture with grey (zeros) where it is made anew.
    pub(super) fn what_stays(&self) -> Vec<f32> {
        let mask = self.mask.as_deref().unwrap_or_default();
        let kept = |(i, v): (usize, &f32)| v * (1.0 - mask.get(i % mask.len().max(1)).copied().unwrap_or(0.0));
        self.image.iter().enumerate().map(kept).collect()
    }

    /// What the recipe says of it.
    pub(in super::super) fn edited(&self) -> &Edited {
        &self.edited
    }

    /// Copies what stays from the picture to `pictures` `[n, c, h, w]`, if that was asked for.
    pub(in super::super) fn paste(&self, pictures: &mut [f32]) {
        let Some(mask) = self.mask.as_ref().filter(|_| self.paste) else { return };
        for picture in pictures.chunks_exact_mut(self.image.len()) {
            let planes = picture.chunks_exact_mut(mask.len()).zip(self.image.chunks_exact(mask.len()));
            for (to, from) in planes {
                for ((to, from), _) in to.iter_mut().zip(from).zip(&**mask).filter(|(_, anew)| **anew == 0.0) {
                    *to = *from;
                }
            }
        }
    }

    /// Whether [`Plan::paste`] does anything.
    pub(in super::super) fn pastes(&self) -> bool {
        self.paste
    }
}

/// Whether all of the steps are made, unless a strength is given.
fn whole(edit: &Edit, kind: Kind) -> bool {
    let held = edit.mask.is_some() || edit.keep_coarse.is_some();
    held && !edit.invert || kind.begins_with_noise()
}

/// The strength of an edit.
///
/// # Errors
/// A usage error for one out of range.
pub(in super::super) fn strength(edit: &Edit, kind: Kind) -> Result<f64> {
    let strength = edit.strength.unwrap_or(if whole(edit, kind) { 1.0 } else { STRENGTH });
    match strength > 0.0 && strength <= 1.0 {
        true => Ok(strength),
        false => Err(Error::usage(format!("--strength {strength} is not above 0 and up to 1"))),
    }
}

/// The order in which diffusers draws. With a mask it draws the latents of what stays whether the network takes them or not, unless it
/// inverts. Maps, by which a mask is found, come last: their latents are those of the run.
fn draws(kind: Kind, drawn: bool, masked: bool, pure: bool, [invert, auto]: [bool; 2]) -> Draws {
    let mut count = 0;
    let mut next = |wanted: bool| {
        count += u32::from(wanted);
        wanted.then(|| count - 1)
    };
    let image = next(match kind {
        Kind::Noised => drawn,
        Kind::Inpaint => drawn && !pure,
        // The likeliest latents.
        Kind::Instruct => false,
        Kind::Upscale => true,
    });
    let noise = next(!invert);
    let masked = next(drawn && masked && !invert);
    let maps = auto.then_some(count);
    Draws { image, noise, masked, maps, count: if auto { count + MAPS } else { count } }
}

/// Scale of the guidance towards the picture.
pub(in super::super) fn image_guidance(edit: &Edit) -> f32 {
    edit.image_guidance.unwrap_or(IMAGE_GUIDANCE)
}

/// How much noise an upscaler is given with the picture, and the factors of picture and noise.
///
/// # Errors
/// A usage error for more than the model knows; a model without the scheduler that says how noise is added.
pub(in super::super) fn noise_level(model: &Model, edit: &Edit) -> Result<(u32, [f32; 2])> {
    let level = edit.noise_level.unwrap_or(NOISE_LEVEL);
    let most = model.max_noise_level()?;
    if level > most {
        return Err(Error::usage(format!("--noise-level {level} is more than the model's {most}")));
    }
    let Some(scheduler) = model.low_res_scheduler()? else {
        return Err(Error::failure(format!("the model {} has no low_res_scheduler", model.name())));
    };
    let settings = Settings::new(Some(scheduler), &Wishes { steps: Some(1), ..Wishes::default() })?;
    let mut tables = settings.tables()?;
    let alpha_bar = tables.schedule()?.alpha_bar().get(level as usize).copied();
    let alpha_bar =
        alpha_bar.ok_or_else(|| Error::usage(format!("--noise-level {level} lies past the model's timesteps")))?;
    Ok((level, [alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()]))
}

/// The size of an edit's pictures: the picture's own, each side cut to a multiple of `multiple`.
///
/// # Errors
/// A usage error for a picture that is smaller than that.
pub(in super::super) fn own_size(size: (u32, u32), multiple: u32) -> Result<(u32, u32)> {
    let cut = |side: u32| side - side % multiple.max(1);
    match (cut(size.0), cut(size.1)) {
        (0, _) | (_, 0) => Err(Error::usage(format!(
            "the picture has {}x{} pixels, and both sides must be at least {multiple} for this model",
            size.0, size.1
        ))
        .hint("give --size WxH, and it is resized")),
        size => Ok(size),
    }
}

/// A picture that nothing is made of but its size.
#[cfg(test)]
fn given(width: u32, height: u32) -> Given {
    Given { image: Image::Picture(Picture::new(width, height, 1).unwrap()), sha256: String::new(), mask: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_is_a_share_of_the_steps() {
        let shape = Shape { width: 4, height: 4, channels: 1 };
        let plan = |strength, steps| {
            let edit = Edit { strength: Some(strength), ..Edit::default() };
            Plan::new(&edit, &given(4, 4), Kind::Noised, None, None, shape, (steps, false))
        };
        for (strength, steps, step) in [(0.8, 50, 10), (1.0, 50, 0), (0.3, 5, 4), (0.5, 5, 3), (0.02, 50, 49)] {
            assert_eq!(plan(strength, steps).unwrap().step, step, "{strength} of {steps}");
        }
        for (strength, steps) in [(0.0, 50), (-0.1, 50), (1.1, 50), (f64::NAN, 50), (0.1, 5)] {
            assert_eq!(plan(strength, steps).unwrap_err().exit_code(), 2, "{strength} of {steps}");
        }
    }

    #[test]
    fn draws_are_in_the_order_of_diffusers() {
        let of = |kind, drawn, masked, pure| {
            let Draws { image, noise, masked, maps, count } = draws(kind, drawn, masked, pure, [false; 2]);
            assert_eq!(maps, None);
            (image, noise, masked, count)
        };
        assert_eq!(of(Kind::Noised, true, false, false), (Some(0), Some(1), None, 2));
        assert_eq!(of(Kind::Noised, false, true, true), (None, Some(0), None, 1));
        assert_eq!(of(Kind::Noised, true, true, true), (Some(0), Some(1), Some(2), 3));
        assert_eq!(of(Kind::Inpaint, true, true, false), (Some(0), Some(1), Some(2), 3));
        assert_eq!(of(Kind::Inpaint, true, true, true), (None, Some(0), Some(1), 2));
        assert_eq!(of(Kind::Instruct, true, false, true), (None, Some(0), None, 1));
        assert_eq!(of(Kind::Upscale, true, false, true), (Some(0), Some(1), None, 2));
        // DiffEdit: a mask by ten draws more, and no noise but these where the picture is inverted.
        let Draws { image, noise, masked, maps, count } = draws(Kind::Noised, true, false, false, [true, true]);
        assert_eq!((image, noise, masked, maps, count), (Some(0), None, None, Some(1), 11));
        let Draws { noise, masked, maps, count, .. } = draws(Kind::Noised, false, true, false, [true, false]);
        assert_eq!((noise, masked, maps, count), (None, None, None, 0));
    }

    #[test]
    fn sizes_are_cut() {
        assert_eq!(own_size((130, 67), 8).unwrap(), (128, 64));
        assert_eq!(own_size((7, 67), 8).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn what_stays_is_pasted() {
        let edited = Edited::default();
        let draws = draws(Kind::Noised, false, true, true, [false; 2]);
        let (image, mask) = (Arc::from([1.0, 2.0, 3.0, 4.0]), Some(Arc::from([0.0, 1.0])));
        let mut plan = Plan {
            kind: Kind::Noised,
            step: 0,
            pure: true,
            invert: false,
            coarse: None,
            draws,
            image,
            latents: None,
            mask,
            noise: None,
            scaled: false,
            paste: false,
            edited,
        };
        let made = [5.0, 6.0, 7.0, 8.0];
        let mut picture = made;
        plan.paste(&mut picture);
        assert_eq!(picture, made);
        plan.paste = true;
        plan.paste(&mut picture);
        assert_eq!(picture, [1.0, 6.0, 3.0, 8.0]);
    }
}
