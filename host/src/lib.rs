//! Diffusion image models on small computers: the library behind the command line `unfog`.
//!
//! ```
//! use unfog::{sample::{Options, sample}, stop::Stop};
//! # let folder = tempfile::tempdir()?;
//! # let out = folder.path().join("glyphs.png");
//! # let backend = unfog::backend::Request { kind: unfog::backend::Kind::Cpu, ..Default::default() };
//! // Four pictures of the built-in model, on one sheet.
//! let options = Options { count: 4, steps: Some(20), out, backend, ..Options::default() };
//! let outcome = sample(&options, &Stop::default(), &mut |event| println!("{event:?}"))?;
//! assert_eq!(outcome.files, [options.out]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod backend;
pub mod bench;
pub mod check;
pub mod cpu;
pub mod error;
pub mod files;
pub mod forward;
pub mod image;
pub mod inspect;
pub mod memory;
pub mod model;
pub mod pack;
pub mod parameters;
pub mod plot;
pub mod probe;
pub mod recipe;
pub mod replay;
pub mod restore;
pub mod sample;
pub mod scan;
pub mod schedule;
pub mod settings;
pub mod stop;
pub mod tensors;
pub mod text;
pub mod tiles;

pub use error::{Error, Result};
pub use unfog_core::nn::cost;
