//! Latents as pictures.

use unfog_core::denoise::{Cond, Denoise};

use super::produce::Sink;
use super::setup::Setup;
use crate::backend::{Backend, Request};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Autoencoder, Weights};
use crate::stop::Stop;
use crate::tiles::{Tile, TiledDecoder, Tiling};

/// Sides of the tiles that are tried, one after the other, where a picture can't be decoded as a whole.
const SIDES: [u32; 3] = [512, 256, 128];

/// An autoencoder's decoder with its weights, for the pictures of a run.
pub(super) struct Decoder {
    autoencoder: Autoencoder,
    weights: Weights,
    tile: Tile,
}

/// What became of a way to decode.
enum Tried {
    Done,
    /// The backend was not to be had.
    Refused(Error),
}

impl Decoder {
    /// Reads the decoder's weights.
    ///
    /// # Errors
    /// Tiles that it can't make; a missing or damaged file.
    pub(super) fn new(autoencoder: Autoencoder, setup: &Setup, tile: Tile) -> Result<Self> {
        let multiple = autoencoder.multiples()[1];
        if let Tile::Side(side) = tile {
            Tiling::new(side, multiple, [setup.picture.height, setup.picture.width])?;
        }
        // Of whatever size, it has the same weights.
        let network = autoencoder.decoder(multiple, multiple)?;
        let weights = autoencoder.weights(&network)?;
        Ok(Self { autoencoder, weights, tile })
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Decodes images on the backend that `request` names: `latents` `[n, c, h, w]` as the sampler left them, of the images from number
    /// `setup.first` on. `sink` is given their pictures; `report` the number of images that are done.
    ///
    /// # Errors
    /// Those of the backend and the sink; [`Error::interrupted`].
    pub(super) fn run(
        &self,
        setup: &Setup,
        request: &Request,
        latents: &mut [f32],
        stop: &Stop,
        report: &mut dyn FnMut(u64),
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let pixels = setup.width as usize * setup.height as usize;
        latents.chunks_exact_mut(setup.image_len()).for_each(|z| self.autoencoder.scaling().unscale(z, pixels));
        let longest = setup.picture.width.max(setup.picture.height);
        let first = match self.tile {
            Tile::Side(side) if side < longest => Some(side),
            _ => None,
        };
        let multiple = self.autoencoder.multiples()[1];
        let fits = |side: &u32| self.tile == Tile::Auto && *side < longest && side.is_multiple_of(4 * multiple);
        let mut refused = None;
        for side in std::iter::once(first).chain(SIDES.into_iter().filter(fits).map(Some)) {
            let tried = match side {
                Some(side) => self.tiled(side, setup, request, latents, stop, report, sink)?,
                None => self.whole(setup, request, latents, stop, report, sink)?,
            };
            match tried {
                Tried::Done => {
                    report(u64::from(setup.count));
                    return Ok(());
                }
                Tried::Refused(e) if e.exit_code() != 1 => return Err(e),
                Tried::Refused(e) => refused = Some(e),
            }
        }
        Err(refused.unwrap_or_else(|| Error::failure("nothing was decoded")))
    }

    /// Every picture as a whole.
    fn whole(
        &self,
        setup: &Setup,
        request: &Request,
        latents: &[f32],
        stop: &Stop,
        report: &mut dyn FnMut(u64),
        sink: &mut dyn Sink,
    ) -> Result<Tried> {
        let data = self.weights.data();
        let network = match self.autoencoder.decoder(setup.picture.height, setup.picture.width) {
            Ok(network) => network,
            Err(e) => return Ok(Tried::Refused(e)),
        };
        let mut backend = match Backend::open(request, network.graph(), &data, stop) {
            Ok(backend) => backend,
            Err(e) => return Ok(Tried::Refused(e)),
        };
        let mut values = memory::vec(backend.out_len(), 0.0)?;
        for (latents, done) in latents.chunks_exact(setup.image_len()).zip(0..) {
            stop.check()?;
            report(done);
            backend.predict(latents, 0.0, &[Cond::None], &mut values)?;
            sink.pictures(setup.first + done, &values)?;
        }
        Ok(Tried::Done)
    }

    /// Every picture in tiles of `side` pixels.
    #[expect(clippy::too_many_arguments, reason = "what a run hands on from hand to hand")]
    fn tiled(
        &self,
        side: u32,
        setup: &Setup,
        request: &Request,
        latents: &[f32],
        stop: &Stop,
        report: &mut dyn FnMut(u64),
        sink: &mut dyn Sink,
    ) -> Result<Tried> {
        let size = [setup.picture.height, setup.picture.width];
        let tiling = &Tiling::new(side, self.autoencoder.multiples()[1], size)?;
        let Self { autoencoder, weights, .. } = self;
        sink.tiled(side);
        let mut made = false;
        let done =
            TiledDecoder { autoencoder, weights, request, tiling }.run(latents, stop, report, &mut |i, values| {
                made = true;
                sink.pictures(setup.first + i, values)
            });
        match done {
            Ok(()) => Ok(Tried::Done),
            Err(e) if !made => Ok(Tried::Refused(e)),
            Err(e) => Err(e),
        }
    }
}
