//! transformers' `image_encoder` and `feature_extractor`: a picture's CLIP embedding, and the picture as that network takes it.

use std::path::Path;

use unfog_core::nn::model::clip_vision::{Config, build};
use unfog_core::nn::op::Act;

use super::fields::Fields;
use super::network::Network;
use super::source::{PartPlace, config_in};
use super::unet2d::explain;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::files;
use crate::image::{Picture, bicubic};

/// PIL's number of its bicubic filter.
const BICUBIC: u32 = 3;
/// Means and standard deviations of the pictures that CLIP was trained on, from 0 to 1.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A `CLIPVisionModelWithProjection` whose config was read.
#[derive(Clone, Debug)]
pub(crate) struct ImageEncoder {
    place: PartPlace,
    config: Config,
}

impl ImageEncoder {
    /// The vision tower in a folder as transformers saves it.
    ///
    /// # Errors
    /// A missing or damaged config; an architecture or value that is not known.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let fields = config_in(folder)?;
        if fields.text("model_type", "clip_vision_model")? != "clip_vision_model" {
            return Err(fields.refuse("model_type", "\"clip_vision_model\": others are not supported"));
        }
        let known = "CLIPVisionModelWithProjection";
        if fields.texts("architectures", &[known])? != [known] {
            return Err(fields.refuse("architectures", "[\"CLIPVisionModelWithProjection\"]"));
        }
        let acts = [
            ("quick_gelu", Act::QuickGelu),
            ("gelu", Act::Gelu),
            ("silu", Act::Silu),
            ("swish", Act::Silu),
            ("mish", Act::Mish),
            ("relu", Act::Relu),
            ("tanh", Act::Tanh),
        ];
        let config = Config {
            image_size: fields.u32("image_size", 224)?,
            num_channels: fields.u32("num_channels", 3)?,
            patch_size: fields.u32("patch_size", 32)?,
            hidden_size: fields.u32("hidden_size", 768)?,
            intermediate_size: fields.u32("intermediate_size", 3072)?,
            num_hidden_layers: fields.u32("num_hidden_layers", 12)?,
            num_attention_heads: fields.u32("num_attention_heads", 12)?,
            act: fields.choice("hidden_act", Act::QuickGelu, &acts.map(|(name, act)| (Some(name), act)))?,
            layer_norm_eps: fields.f64("layer_norm_eps", 1e-5)? as f32,
            projection_dim: fields.u32("projection_dim", 512)?,
        };
        if config.num_channels != 3 {
            return Err(fields.refuse("num_channels", "3"));
        }
        Ok(Self { place: PartPlace::Folder(folder.to_path_buf()), config })
    }

    /// What its config says.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The network, without weights.
    ///
    /// # Errors
    /// A config that is no network.
    pub(crate) fn network(&self) -> Result<Network> {
        let side = self.config.image_size;
        Network::build(|builder, names| build(&self.config, builder, names)).map_err(|e| explain(e, side, side))
    }

    /// Reads and checks the weights of its network.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub(crate) fn weights(&self, network: &Network) -> Result<Weights> {
        self.place.load("model", network)
    }
}

/// How large a picture becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Its shorter side.
    Shortest(u32),
    /// Rows and columns.
    Both([u32; 2]),
}

/// A `CLIPImageProcessor` whose config was read: a picture is resized, cut in its middle, and normalised.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FeatureExtractor {
    resize: Option<Size>,
    crop: Option<[u32; 2]>,
    rescale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl FeatureExtractor {
    /// The extractor in a folder as transformers saves it.
    ///
    /// # Errors
    /// A missing or damaged config; a value that is not known.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        Self::read(&Fields::parse(&path.display().to_string(), &files::read(&path)?)?)
    }

    fn read(fields: &Fields) -> Result<Self> {
        if fields.u32("resample", BICUBIC)? != BICUBIC {
            return Err(fields.refuse("resample", "3 (bicubic): others are not supported"));
        }
        let does = |key: &str| fields.bool(key, true);
        let (resize, crop) = (size(fields, "size")?, size(fields, "crop_size")?);
        let three = |key: &str, default: [f32; 3]| match fields.optional_f64s(key)?.as_deref() {
            None => Ok(default),
            Some(&[a, b, c]) => Ok([a as f32, b as f32, c as f32]),
            Some(_) => Err(fields.refuse(key, "three numbers")),
        };
        let normal = does("do_normalize")?;
        let (mean, std) = (three("image_mean", MEAN)?, three("image_std", STD)?);
        if std.contains(&0.0) {
            return Err(fields.refuse("image_std", "numbers other than 0"));
        }
        Ok(Self {
            resize: does("do_resize")?.then_some(resize.unwrap_or(Size::Shortest(224))),
            crop: match (does("do_center_crop")?, crop) {
                (false, _) => None,
                (true, None) => Some([224; 2]),
                (true, Some(Size::Both(sides))) => Some(sides),
                // As transformers reads one number.
                (true, Some(Size::Shortest(side))) => Some([side; 2]),
            },
            rescale: match does("do_rescale")? {
                true => fields.f64("rescale_factor", 1.0 / 255.0)? as f32,
                false => 1.0,
            },
            mean: if normal { mean } else { [0.0; 3] },
            std: if normal { std } else { [1.0; 3] },
        })
    }

    /// A picture as a network takes it that looks at `side` rows and columns: planar `[3, side, side]`.
    ///
    /// # Errors
    /// A picture that comes out in another size; too little memory.
    pub(crate) fn values(&self, picture: &Picture, side: u32) -> Result<Vec<f32>> {
        let [mut h, mut w] = [picture.height(), picture.width()];
        let mut values: Vec<f32> = picture.to_values(3)?.into_iter().map(|v| ((v + 1.0) * 127.5).round()).collect();
        if let Some(size) = self.resize {
            let [to_h, to_w] = match size {
                Size::Both(sides) => sides,
                // Whole pixels, rounded down.
                Size::Shortest(short) => {
                    let long = |a: u32, b: u32| (u64::from(short) * u64::from(a) / u64::from(b.max(1))) as u32;
                    if h <= w { [short, long(w, h)] } else { [long(h, w), short] }
                }
            };
            // PIL rounds to bytes after each direction.
            values = bicubic(&values, [h, w], [to_h, to_w], |v| (v + 0.5).floor().clamp(0.0, 255.0) as f32)?;
            [h, w] = [to_h, to_w];
        }
        let [rows, columns] = self.crop.unwrap_or([h, w]);
        if [rows, columns] != [side; 2] || rows > h || columns > w {
            return Err(Error::failure(format!(
                "the feature extractor makes {columns}x{rows} of {w}x{h} pixels, and the image encoder takes {side}x{side}"
            )));
        }
        let (top, left) = ((h - rows) as usize / 2, (w - columns) as usize / 2);
        let (h, w, rows, columns) = (h as usize, w as usize, rows as usize, columns as usize);
        let mut out = Vec::with_capacity(3 * rows * columns);
        for ((plane, mean), std) in values.chunks_exact(h * w).zip(self.mean).zip(self.std) {
            for row in plane.chunks_exact(w).skip(top).take(rows) {
                out.extend(row.iter().skip(left).take(columns).map(|v| (v * self.rescale - mean) / std));
            }
        }
        Ok(out)
    }
}

/// A size, in any of the forms that transformers has for it.
fn size(fields: &Fields, key: &str) -> Result<Option<Size>> {
    let expected = "a number above 0, or an object with height and width or with shortest_edge";
    let Some(value) = fields.value(key) else { return Ok(None) };
    let number = |value: &serde_json::Value| {
        value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=1 << 12).contains(n))
    };
    let of = |name: &str| value.get(name).filter(|value| !value.is_null()).map(number);
    let found = match (number(value), of("shortest_edge"), of("height"), of("width")) {
        (Some(side), ..) => Some(Size::Shortest(side)),
        (None, Some(Some(side)), None, None) => Some(Size::Shortest(side)),
        (None, None, Some(Some(h)), Some(Some(w))) => Some(Size::Both([h, w])),
        _ => None,
    };
    found.map(Some).ok_or_else(|| fields.refuse(key, expected))
}
