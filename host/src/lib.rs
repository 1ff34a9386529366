//! Diffusion image models on small computers: the library behind the command line `unfog`.

pub mod backend;
pub mod cost;
pub mod cpu;
pub mod error;
pub mod files;
pub mod image;
pub mod model;
pub mod probe;
pub mod recipe;
pub mod sample;
pub mod settings;
pub mod stop;
pub mod tensors;

pub use error::{Error, Result};
