//! From a prompt to the ids that CLIP's text encoders read: tokenizers as models bring them, weights, chunks.

mod chunk;
mod files;
pub mod prompt;
mod special;
mod tokenizer;

pub use chunk::Chunk;
pub use tokenizer::Tokenizer;
