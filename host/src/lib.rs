//! Diffusion image models on small computers.
