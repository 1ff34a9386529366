//! Tests on a device: the first that `Context::open` takes. Without a driver they say SKIPPED, and fail under REQUIRE_GPU=1.

mod band;
mod common;
mod errors;
mod memory;
mod network;
mod ops;
mod split;
