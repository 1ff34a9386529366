//! C programs find the installed library through pkg-config, and what they get are this library's bits.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use unfog::backend::{Kind, Request};
use unfog::model::Model;
use unfog::sample::{Options, sample_in_memory};
use unfog::stop::Stop;

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn output(command: &mut Command) -> TestResult<Output> {
    Ok(command.output().map_err(|e| format!("{command:?}: {e}"))?)
}

/// What a command that must succeed prints.
fn run(command: &mut Command) -> TestResult<String> {
    let Output { status, stdout, stderr } = output(command)?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    match status.success() {
        true => Ok(said),
        false => Err(format!("{command:?}: {status}\n{said}{}", String::from_utf8_lossy(&stderr)).into()),
    }
}

/// The folder into which the library is installed as a user would, once for all tests.
struct Installed(PathBuf);

impl Installed {
    fn new() -> TestResult<Self> {
        static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let install = || -> TestResult<PathBuf> {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-installed");
            // Cargo has built the libraries for this test, and left them beside it.
            let this = std::env::current_exe()?;
            let built = this.parent().ok_or("a test without a folder")?;
            run(Command::new("sh").arg(Self::here("install.sh")).arg(&folder).arg(built))?;
            Ok(folder)
        };
        Ok(Self(FOLDER.get_or_init(|| install().map_err(|e| e.to_string())).clone()?))
    }

    fn here(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn pkg_config(&self, arguments: &[&str]) -> TestResult<Vec<String>> {
        let path = self.0.join("lib/pkgconfig");
        let said = run(Command::new("pkg-config").args(arguments).arg("unfog").env("PKG_CONFIG_PATH", path))?;
        Ok(said.split_whitespace().map(String::from).collect())
    }

    /// Compiles a C program with what pkg-config says.
    fn compile(&self, source: &str, program: &str) -> TestResult<PathBuf> {
        let program = self.0.join(program);
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1"]).arg(Self::here(source));
        run(cc.args(self.pkg_config(&["--cflags", "--libs"])?).arg("-o").arg(&program))?;
        Ok(program)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.0.join("lib")).current_dir(&self.0);
        command
    }
}

/// FNV-1a, 64 bits, over the values' bits, as the example does.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The same pictures from Rust.
fn from_rust() -> TestResult<u64> {
    let backend = Request { kind: Kind::Cpu, threads: Some(1), ..Request::default() };
    let options = Options { steps: Some(5), count: 3, seed: 7, backend, ..Options::default() };
    let mut values = Vec::new();
    sample_in_memory(&Model::open(None)?, &options, &Stop::default(), &mut |_| (), &mut |_, batch| {
        values.extend_from_slice(batch);
        Ok(())
    })?;
    assert_eq!(values.len(), 3 * 16 * 16);
    Ok(hash(&values))
}

const ARGUMENTS: [&str; 5] = ["steps=5", "count=3", "seed=7", "backend=cpu", "threads=1"];

fn assert_same(said: &str) -> TestResult {
    let image =
        said.lines().find_map(|line| line.strip_prefix("image ")).ok_or_else(|| format!("no image in {said}"))?;
    assert_eq!(u64::from_str_radix(image, 16)?, from_rust()?, "{said}");
    Ok(())
}

#[test]
fn the_example_makes_the_librarys_bits() -> TestResult {
    let installed = Installed::new()?;
    assert_eq!(installed.pkg_config(&["--modversion"])?, [env!("CARGO_PKG_VERSION")]);
    let program = installed.compile("examples/sample.c", "sample")?;
    assert_same(&run(installed.command(&program).args(ARGUMENTS))?)?;
    let png = installed.0.join("picture.png");
    run(installed.command(&program).args(ARGUMENTS).arg(format!("out={}", png.display())))?;
    assert!(std::fs::read(png)?.starts_with(b"\x89PNG"));
    let failed = output(installed.command(&program).arg("sampler=none"))?;
    assert_eq!(failed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("there is no sampler \"none\""), "{failed:?}");
    Ok(())
}

#[test]
fn the_example_can_be_linked_statically() -> TestResult {
    let installed = Installed::new()?;
    let program = installed.0.join("static");
    let flags = installed.pkg_config(&["--cflags", "--static", "--libs"])?;
    // In place of the shared library, which a linker prefers.
    let archive = installed.0.join("lib/libunfog.a").display().to_string();
    let flags = flags.into_iter().map(|flag| if flag == "-lunfog" { archive.clone() } else { flag });
    run(Command::new("cc").arg(Installed::here("examples/sample.c")).args(flags).arg("-o").arg(&program))?;
    assert_same(&run(Command::new(&program).args(ARGUMENTS).env_remove("LD_LIBRARY_PATH"))?)
}

#[test]
fn errors_reach_c() -> TestResult {
    let installed = Installed::new()?;
    let program = installed.compile("tests/errors.c", "errors")?;
    run(&mut installed.command(&program))?;
    Ok(())
}
