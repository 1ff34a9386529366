//! Tests on a device: the first that `Context::open` takes. Without a driver they say SKIPPED, and fail under REQUIRE_GPU=1.

mod common;
mod errors;
mod network;
mod ops;
mod split;
