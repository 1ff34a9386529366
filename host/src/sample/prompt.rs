//! Prompts as conditions of a network: tokens, text encoders, and what else the network is told.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::Projection;
use unfog_core::nn::model::clip_text::Outputs;
use unfog_core::nn::model::unet2d_condition::{ClassEmbedding, Config};
use unfog_core::nn::project::project;

use super::edit::Plan;
use super::layout::Layout;
use super::options::Options;
use super::produce::halves;
use super::setup::Setup;
use super::tokenizers::tokenizers;
use super::words::Words;
use crate::backend::{Backend, Request};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Loras, Model, Network, Part, TextEncoder, Weights};
use crate::stop::Stop;
use crate::text::{Chunk, Tokenizer};

/// The most chunks of a prompt: what stands in more is no prompt but a mistake.
const MOST_CHUNKS: usize = 16;

/// A text encoder with its weights.
struct Encoder {
    config: TextEncoder,
    network: Network,
    weights: Weights,
}

/// The prompts of a run, read and checked; no network was run yet.
pub(super) struct Prompts {
    encoders: Vec<Encoder>,
    /// For each prompt the chunks for each encoder; a prompt without any stands for zeros.
    prompts: Vec<Vec<Vec<Chunk>>>,
    /// The places of the empty prompt, of the negative one, and of that which describes the picture, where they are wanted.
    null: Option<usize>,
    negative: Option<usize>,
    from: Option<usize>,
    /// Chunks of the longest prompt: that many has every one.
    chunks: usize,
    /// Ids of a chunk.
    chunk_len: usize,
    /// How they lie in a condition.
    layout: Layout,
    words: Words,
    /// What stands between the tokens and the pooled text in every condition.
    between: Vec<f32>,
}

/// The prompts as a backend holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What the pictures are to show.
    pub(super) wanted: Cond,
    /// No prompt, and what they are to lead away from: those that the guidance takes.
    pub(super) others: [Option<Cond>; 2],
    /// What describes the picture that they begin from.
    pub(super) from: Option<Cond>,
}

impl Loaded {
    /// What the pictures lead away from, if a prompt says.
    pub(super) fn negative(&self) -> Option<Cond> {
        self.others[1]
    }
}

impl Prompts {
    /// Reads the prompts of `options` for a model that takes them; `None` for any other model. The text encoders' weights are changed as
    /// `loras` say.
    ///
    /// # Errors
    /// A missing or damaged tokenizer or text encoder; a network that wants something else; a usage error for a prompt that is too long.
    pub(super) fn read(model: &Model, options: &Options, setup: &Setup, loras: &mut Loras) -> Result<Option<Self>> {
        let (Some(texts), Some(prompt)) = (model.texts(), &options.prompt) else { return Ok(None) };
        let encoders = model.text_encoders()?;
        let mut tokenizers = tokenizers(model, &encoders, options.tokenizer.as_deref())?;
        let words = Words::teach(options, &mut tokenizers, &encoders)?;
        let chunk_len = tokenizers.first().map_or(0, Tokenizer::max_len);
        if tokenizers.iter().any(|tokenizer| tokenizer.max_len() != chunk_len) {
            return Err(Error::failure("the model's tokenizers make chunks of different lengths"));
        }
        let chunks_of = |text: &str| -> Result<Vec<Vec<Chunk>>> {
            tokenizers.iter().map(|tokenizer| tokenizer.chunks(text)).collect()
        };
        // Which conditions the guidance takes: the wanted one; with it one that it leads away from, or both.
        let conditions = setup.prompts();
        let mut prompts = vec![chunks_of(prompt)?];
        let mut place = |chunks: Vec<Vec<Chunk>>| {
            prompts.push(chunks);
            Some(prompts.len() - 1)
        };
        let negative = match &options.negative {
            Some(text) if conditions > 1 => place(chunks_of(text)?),
            _ => None,
        };
        let null = match conditions {
            3 => place(chunks_of("")?),
            2 if negative.is_none() && model.zeros_for_no_prompt()? => place(Vec::new()),
            2 if negative.is_none() => place(chunks_of("")?),
            _ => None,
        };
        let from = setup.plan.as_ref().and_then(|plan| plan.edited().from_prompt.as_deref());
        let from = from.map(chunks_of).transpose()?.and_then(place);
        let chunks = prompts.iter().flatten().map(Vec::len).max().unwrap_or(1);
        if chunks > MOST_CHUNKS {
            return Err(Error::usage(format!(
                "the prompt takes {chunks} chunks of {} tokens; {MOST_CHUNKS} are the most",
                chunk_len.saturating_sub(2)
            )));
        }
        // A text that is shorter than the longest is followed by empty ones.
        let empty = chunks_of("")?;
        for prompt in prompts.iter_mut().filter(|prompt| !prompt.is_empty()) {
            for (of_encoder, empty) in prompt.iter_mut().zip(&empty) {
                let empty =
                    empty.first().ok_or_else(|| Error::failure("the tokenizer makes nothing of an empty text"))?;
                of_encoder.resize(chunks, empty.clone());
            }
        }
        let layout = Layout::new(texts, &encoders)?;
        let between = model.condition().map_or(Ok(Vec::new()), |config| between(config, setup))?;
        let skip = options.clip_skip.unwrap_or(0);
        let encoders = encoders.into_iter().enumerate().map(|(i, encoder)| {
            let outputs = layout.outputs(i, skip);
            let mut network = encoder.network(chunk_len as u32, outputs)?;
            let mut weights = encoder.weights(&network)?;
            // A LoRA may be for layers that are left out, too.
            let whole = encoder.network(chunk_len as u32, Outputs { skip: 0, final_norm: true, pooled: true })?;
            loras.merge(Part::Text(i), &network, whole.names(), &mut weights, halves(options))?;
            let dim = encoder.config().hidden_size as usize;
            words.put(i, options, (&network, dim), &mut weights)?;
            let grown = words.grown(i, &encoder);
            if grown.config() != encoder.config() {
                network = grown.network(chunk_len as u32, outputs)?;
            }
            Ok(Encoder { config: grown, network, weights })
        });
        let encoders = encoders.collect::<Result<Vec<_>>>()?;
        Ok(Some(Self { encoders, prompts, null, negative, from, chunks, chunk_len, layout, words, between }))
    }

    /// The words that embeddings brought.
    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// Tokens of every prompt, padding included.
    pub(super) fn tokens(&self) -> u32 {
        (self.chunks * self.chunk_len + self.layout.zeros) as u32
    }

    /// The place of a prompt beside the wanted one among the conditions, if there is one.
    pub(super) fn other(&self) -> Option<usize> {
        self.null.or(self.negative)
    }

    /// The text encoders' weights.
    pub(super) fn weights(&self) -> Vec<&Weights> {
        self.encoders.iter().map(|encoder| &encoder.weights).collect()
    }

    /// Runs the text encoders on the backend that `request` names, one after the other. Returns the condition of each prompt, for pictures
    /// of this width and height.
    ///
    /// # Errors
    /// Those of the backend; [`Error::interrupted`].
    pub(super) fn encode(&self, request: &Request, [width, height]: [u32; 2], stop: &Stop) -> Result<Vec<Vec<f32>>> {
        let Layout { width: dim, pooled, sizes, .. } = self.layout;
        let tokens_len = self.tokens() as usize * dim;
        // Where the pooled text begins.
        let states_len = tokens_len + self.between.len();
        let mut conditions = Vec::with_capacity(self.prompts.len());
        for _ in &self.prompts {
            let mut condition = memory::vec(states_len + pooled + self.layout.sizes_len(), 0.0)?;
            condition[tokens_len..states_len].copy_from_slice(&self.between);
            conditions.push(condition);
        }
        let (mut first, mut pooled_first) = (0, states_len);
        for (number, encoder) in self.encoders.iter().enumerate() {
            let config = encoder.config.config();
            let own = config.hidden_size as usize;
            let own_pooled = if self.layout.pools(number) { config.pooled_dim() as usize } else { 0 };
            let data = encoder.weights.data();
            let mut backend = Backend::open(request, encoder.network.graph(), &data, stop)?;
            let mut output = memory::vec(backend.out_len(), 0.0)?;
            let mut input = memory::vec(self.chunk_len, 0.0)?;
            let mut states = memory::vec(self.chunk_len * own, 0.0)?;
            let misfit = |e| Error::failure(format!("the tokenizer's ids don't fit the text encoder: {e:?}"));
            for (prompt, condition) in self.prompts.iter().zip(&mut conditions) {
                for (i, chunk) in prompt.get(number).into_iter().flatten().enumerate() {
                    config.ids(&chunk.ids, &mut input).map_err(misfit)?;
                    backend.predict(&input, 0.0, &[Cond::None], &mut output)?;
                    config.states(&output, &mut states).map_err(misfit)?;
                    weigh(&mut states, &chunk.weights);
                    let rows = condition[i * self.chunk_len * dim..].chunks_exact_mut(dim);
                    for (row, state) in rows.zip(states.chunks_exact(own)) {
                        row[first..first + own].copy_from_slice(state);
                    }
                    if i == 0 && own_pooled > 0 {
                        let pooled = &mut condition[pooled_first..][..own_pooled];
                        config.pooled(&output, &chunk.ids, pooled).map_err(misfit)?;
                    }
                }
            }
            first += own;
            pooled_first += own_pooled;
        }
        if let Some(sizes) = sizes {
            let told = [height, width, 0, 0, height, width];
            for condition in &mut conditions {
                let places = condition[states_len + pooled..].chunks_exact_mut(sizes.dim() as usize);
                for (number, place) in told.into_iter().zip(places) {
                    project(sizes, number as f32, |_| None, place).map_err(|e| {
                        Error::failure(format!("the picture's size can't be told to the network: {e:?}"))
                    })?;
                }
            }
        }
        Ok(conditions)
    }

    /// Hands the conditions that [`Self::encode`] returned to a backend by `load`.
    ///
    /// # Errors
    /// Those of `load`.
    pub(super) fn load(&self, conditions: &[Vec<f32>], load: &mut dyn FnMut(&[f32]) -> Result<Cond>) -> Result<Loaded> {
        let conds = conditions.iter().map(|values| load(values)).collect::<Result<Vec<_>>>()?;
        let at = |place: Option<usize>| place.and_then(|i| conds.get(i).copied());
        let wanted = at(Some(0)).ok_or_else(|| Error::failure("there is no prompt"))?;
        Ok(Loaded { wanted, others: [at(self.null), at(self.negative)], from: at(self.from) })
    }
}

/// What a network is told beside the prompt: the guidance that it was distilled with (Luo et al. 2023), and the noise of the picture that it
/// makes larger.
fn between(config: &Config, setup: &Setup) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    if let Some(dim) = config.time_cond_proj_dim {
        // diffusers' get_guidance_scale_embedding.
        let projection = Projection::Positional { dim, flip: false, shift: 1 };
        values.resize(dim as usize, 0.0);
        project(projection, (setup.guided.scale - 1.0) * 1000.0, |_| None, &mut values)
            .map_err(|e| Error::failure(format!("the guidance can't be told to the network: {e:?}")))?;
    }
    match (config.class_embedding, setup.plan.as_ref().and_then(Plan::noise_level)) {
        (ClassEmbedding::None, _) => {}
        (ClassEmbedding::Table { count }, Some(level)) if level < count => values.push(level as f32),
        (ClassEmbedding::Table { count }, Some(level)) => {
            return Err(Error::usage(format!("--noise-level {level} is more than the {count} that the network knows")));
        }
        _ => return Err(Error::failure("the network takes a class beside the prompt, which is not supported yet")),
    }
    Ok(values)
}

/// Multiplies the states `[tokens, dim]` by their tokens' weights and brings their mean back to what it was, as AUTOMATIC1111 does.
pub(super) fn weigh(states: &mut [f32], weights: &[f32]) {
    if weights.iter().all(|weight| *weight == 1.0) {
        return;
    }
    let mean = |states: &[f32]| states.iter().map(|v| f64::from(*v)).sum::<f64>() / states.len() as f64;
    let before = mean(states);
    let dim = states.len() / weights.len().max(1);
    for (state, weight) in states.chunks_exact_mut(dim.max(1)).zip(weights) {
        state.iter_mut().for_each(|v| *v *= weight);
    }
    let after = mean(states);
    // Weights of 0 leave nothing to bring back.
    let factor = if after == 0.0 { 1.0 } else { (before / after) as f32 };
    states.iter_mut().for_each(|v| *v *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_mean() {
        let states = [1.0, 2.0, 3.0, 6.0];
        let mut weighed = states;
        weigh(&mut weighed, &[1.0, 1.0]);
        assert_eq!(weighed, states);
        weigh(&mut weighed, &[2.0, 1.0]);
        // 2, 4, 3, 6: a mean of 3.75 instead of 3.
        let expected = [1.6, 3.2, 2.4, 4.8];
        assert!(weighed.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{weighed:?}");
        weigh(&mut weighed, &[0.0, 0.0]);
        assert_eq!(weighed, [0.0; 4]);
    }
}
