//! The command line of unfog.

fn main() {}
