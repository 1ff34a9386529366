//! The command line as its users meet it: the built program, its exit codes, what it prints and which files it leaves.

mod bad_input;
mod commands;
mod common;
mod edit;
mod interrupt;
mod loading;
mod replay;
mod restore;
mod sample;
mod tokens;
#[cfg(feature = "vulkan")]
mod vram;
