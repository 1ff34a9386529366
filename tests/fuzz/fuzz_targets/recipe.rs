//! The reader of the recipes that PNG files carry. (The `png` crate doesn't look at checksums under `cfg(fuzzing)`.)

#![no_main]

use libfuzzer_sys::fuzz_target;
use unfog::recipe::Recipe;
use unfog_fuzz::Folder;

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static FOLDER: Folder = Folder::of_process());
    FOLDER.with(|folder| {
        let path = folder.write("a.png", bytes);
        if let Ok(recipe) = Recipe::read(&path) {
            // What was read can be written.
            let json = recipe.of_image(7).to_json();
            assert!(json.is_ok(), "{json:?}");
        }
    });
});
