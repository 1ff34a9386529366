//! The Vulkan backend of unfog.
