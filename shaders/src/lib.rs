//! The GLSL compute shaders of unfog, their SPIR-V, and the table of kernels.
//!
//! Each kernel is `<name>.comp` beside this folder. It is compiled to `spirv/<name>.spv`, and, where it suits software drivers, to
//! `spirv/<name>.texel.spv`, which reads in another way ([`Reads`]). [`KERNELS`] lists them all, with what a host must know to run
//! them; a test compares that with the modules, so that the two can't drift apart. With the feature `compile`, a kernel's `load` gives
//! the modules that vulkano-shaders compiled from the GLSL instead, where it can.
//!
//! Kernels stay inside the portable floor: 256 invocations a group, 16 KiB of shared memory, 6 buffers, 80 bytes of push
//! constants, no optional feature, no assumption about subgroups, SPIR-V 1.0. Every op has one that needs no shared memory either
//! ([`Asks::Floor`]); convolutions and norms over the channels have others beside it that do ([`Asks::Shared`]), and convolutions one
//! for devices with matrix units, outside the floor ([`Asks::Matrix`]).
// The macro that the feature `compile` uses expands to unsafe blocks.
#![cfg_attr(not(feature = "compile"), forbid(unsafe_code))]

#[cfg(feature = "compile")]
pub mod compile;
mod kernels;
pub mod push;
pub mod source;
#[cfg(feature = "spirv")]
pub mod spirv;

pub use kernels::{KERNELS, Kernel};

/// Where a field lies in a push-constant block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, in Rust and in GLSL.
    pub name: &'static str,
    /// Bytes from the block's start.
    pub offset: usize,
}

/// How a kernel's module reads what it only reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reads {
    /// From storage buffers.
    #[default]
    Storage,
    /// From uniform texel buffers of four 32-bit words a texel (`R32G32B32A32_UINT`).
    Texel,
}

impl Reads {
    /// Both.
    pub const ALL: [Reads; 2] = [Reads::Storage, Reads::Texel];

    /// What the names of the files of modules have before `.spv`.
    pub fn suffix(self) -> &'static str {
        match self {
            Reads::Storage => "",
            Reads::Texel => ".texel",
        }
    }
}

/// What a kernel asks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The portable floor, without shared memory.
    Floor,
    /// The portable floor; invocations share memory and wait for one another.
    Shared,
    /// Vulkan 1.1 with VK_KHR_cooperative_matrix, the Vulkan memory model, half floats in arithmetic and subgroups of a known size;
    /// 32 KiB of shared memory.
    Matrix,
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it: always a storage buffer.
    Write,
}

/// A buffer of a kernel; its number is its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The block's name in GLSL; that of a texel buffer is the same in snake case.
    pub name: &'static str,
    /// What the kernel does with it.
    pub access: Access,
}

/// A specialization constant of a kernel; its id is its place in the list. The work group's sides have no name in GLSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// Invocations of a work group along x.
    LocalX,
    /// Invocations of a work group along y.
    LocalY,
    /// A `uint`.
    Uint(&'static str),
    /// A `bool`.
    Bool(&'static str),
}

/// A fingerprint of all kernels, for recipes: it changes when any of the committed modules does. (FNV-1a, 64 bits, over names
/// and words; Fowler, Noll and Vo 1991.)
pub fn table_version() -> u64 {
    let bytes = KERNELS.iter().flat_map(|kernel| {
        let words = kernel.words.into_iter().flatten().flat_map(|word| word.to_le_bytes());
        kernel.name.bytes().chain(words)
    });
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
