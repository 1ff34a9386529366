//! The GLSL compute shaders of unfog, their SPIR-V, and the table of kernels.
