//! Tests across backends.
