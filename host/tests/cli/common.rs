//! What the tests of the command line share: running it, and models to break.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

/// A folder to run in, with a copy of glyph-tiny to change.
pub(crate) struct Place {
    folder: TempDir,
}

pub(crate) fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, in this folder, with a cache of its own.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unfog"));
        command.args(args).current_dir(self.folder.path()).env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs with `args`, which must succeed; what it printed.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs with `args`, which must fail as the contract says: this exit code, one line that begins with `error: ` and holds
    /// `says`, perhaps one with its causes, nothing on standard output, and no file that was not there before.
    pub(crate) fn fail(&self, args: &[&str], code: i32, says: &str) {
        check_failure(self, &mut self.command(args), code, says);
    }

    /// A copy of glyph-tiny.
    pub(crate) fn model(&self) -> Copied<'_> {
        let to = self.path("model");
        copy_folder(&models().join("glyph-tiny"), &to);
        Copied { place: self, folder: to }
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "cache");
        names.sort();
        names
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

pub(crate) fn check_failure(place: &Place, command: &mut Command, code: i32, says: &str) {
    let before = place.files();
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?} said {said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("error: ") && lines[0].contains(says), "{command:?} said {said}");
    assert!(lines.len() == 1 || lines.len() == 2 && lines[1].starts_with("caused by: "), "{command:?} said {said}");
    assert!(output.stdout.is_empty(), "{command:?} printed something");
    assert_eq!(place.files(), before, "{command:?} left files");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// A model in a test's folder.
pub(crate) struct Copied<'p> {
    place: &'p Place,
    pub(crate) folder: PathBuf,
}

/// A tensor of a weights file.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Copied<'_> {
    /// Replaces a text in one of its files.
    pub(crate) fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} lacks {from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let bytes = std::fs::read(self.folder.join(WEIGHTS)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| Tensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        file.tensors().into_iter().map(tensor).collect()
    }

    pub(crate) fn write(&self, file: &str, tensors: &[Tensor]) {
        let views = tensors.iter().map(|t| (&t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
        std::fs::write(self.folder.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Changes its weights.
    pub(crate) fn change(&self, change: impl Fn(&mut Tensor)) {
        let mut tensors = self.tensors();
        tensors.iter_mut().for_each(change);
        self.write(WEIGHTS, &tensors);
    }

    /// A run of it must fail.
    pub(crate) fn fails(&self, says: &str) {
        self.place.fail(&["sample", "--model", "model", "--backend", "cpu", "--steps", "1"], 1, says);
    }

    /// A run of it must give the same picture as glyph-tiny itself.
    pub(crate) fn is_glyph_tiny(&self, path: &str) {
        let run = ["sample", "--backend", "reference", "--steps", "2", "--quiet", "--latents-out"];
        self.place.succeed(&[&run[..], &["expected", "--out", "expected.png"]].concat());
        self.place.succeed(&[&run[..], &["found", "--out", "found.png", "--model", path]].concat());
        assert_eq!(self.place.read("expected"), self.place.read("found"));
    }
}

/// Half floats with the values of f32 bytes, which must be exact.
pub(crate) fn halves(bytes: &[u8], bf16: bool) -> Vec<u8> {
    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let half = |v: f32| match bf16 {
        true => (v.to_bits() >> 16) as u16,
        false => {
            let bits = v.to_bits();
            let (sign, exponent) = ((bits >> 16) as u16 & 0x8000, (bits >> 23 & 255) as i32 - 112);
            if exponent <= 0 { sign } else { sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16 }
        }
    };
    bytes.chunks_exact(4).flat_map(|b| half(value(b)).to_le_bytes()).collect()
}
