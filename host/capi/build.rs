//! Tells the linker the name under which programs look for the library: with the part of the version that decides whether
//! it fits.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        let fits = match env!("CARGO_PKG_VERSION_MAJOR") {
            "0" => concat!("0.", env!("CARGO_PKG_VERSION_MINOR")),
            major => major,
        };
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libunfog.so.{fits}");
    }
}
