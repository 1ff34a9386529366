//! Diffusion image models on small computers: the library behind the command line `unfog`.

pub mod backend;
pub mod bench;
pub mod check;
pub mod cost;
pub mod cpu;
pub mod error;
pub mod files;
pub mod forward;
pub mod image;
pub mod inspect;
mod memory;
pub mod model;
pub mod plot;
pub mod probe;
pub mod recipe;
pub mod sample;
pub mod settings;
pub mod stop;
pub mod tensors;

pub use error::{Error, Result};
