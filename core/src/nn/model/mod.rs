//! Published architectures: a config becomes a graph, and the weights' names are told to the caller.

pub mod unet2d;
