//! Tells the linker where memory.x is, and the program where the pack is.

fn main() {
    println!("cargo:rustc-link-arg=-L{}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rustc-link-arg=-nostartfiles");
    println!("cargo:rustc-link-arg=-Tlink.x");
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rerun-if-env-changed=UNFOG_PACK");
}
