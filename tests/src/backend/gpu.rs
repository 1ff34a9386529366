//! The Vulkan devices of this machine, with the Khronos validation layer on.

use std::io::Write;
use std::sync::{Once, OnceLock};

use unfog_gpu::{Context, DeviceChoice, GpuError, devices};

use crate::TestResult;

/// A device that tests run on.
#[derive(Debug)]
pub struct Gpu {
    /// The device, opened once for all tests of a process.
    pub context: Context,
}

impl Gpu {
    /// Whether kernels with matrices run here: by `UNFOG_MATRIX=1` alone, since the validation layer of Vulkan 1.4.354 names sizes of
    /// matrices that the pipelines don't have (M and K are other constants'), while the driver's results are right. The log says
    /// SKIPPED, once, if not.
    pub fn matrices(&self) -> bool {
        static SAID: Once = Once::new();
        let asked = std::env::var("UNFOG_MATRIX").as_deref() == Ok("1");
        let there = self.context.info().matrix.is_some();
        if !there || !asked {
            let why = if there { "UNFOG_MATRIX is not 1" } else { "the device has no units" };
            SAID.call_once(|| skipped(&format!("kernels with matrices on {} ({why})", self.context.info().name)));
        }
        there && asked
    }

    /// Fails when the validation layer had something to say, whatever it was.
    ///
    /// # Errors
    /// The layer's messages.
    pub fn check(&self) -> TestResult {
        let messages = self.context.messages();
        match messages.is_empty() {
            true => Ok(()),
            false => Err(format!("the validation layer says:\n{}", messages.join("\n")).into()),
        }
    }
}

/// Every device that the loader offers; `VK_ICD_FILENAMES` chooses the drivers. None where there is no driver, and then the
/// log says SKIPPED, unless `REQUIRE_GPU` is 1.
///
/// # Errors
/// A device that can't be opened; no driver or no validation layer under `REQUIRE_GPU=1`.
pub fn gpus() -> TestResult<&'static [Gpu]> {
    static GPUS: OnceLock<Result<Vec<Gpu>, String>> = OnceLock::new();
    match GPUS.get_or_init(|| open().map_err(|e| e.to_string())) {
        Ok(gpus) => Ok(gpus),
        Err(e) => Err(e.clone().into()),
    }
}

fn required() -> bool {
    std::env::var("REQUIRE_GPU").is_ok_and(|v| v == "1")
}

/// Says it past the test harness, which keeps what passing tests print to itself.
fn skipped(what: &str) {
    // A log that can't be written is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

fn open() -> TestResult<Vec<Gpu>> {
    let found = match devices() {
        Ok(found) => found,
        Err(e @ (GpuError::Loader(_) | GpuError::NoDevice)) if !required() => {
            skipped(&format!("tests on Vulkan ({e})"));
            return Ok(Vec::new());
        }
        Err(e) => return Err(e.into()),
    };
    let open_one = |index: usize| -> TestResult<Gpu> {
        let choice = DeviceChoice::Index(index);
        let context = match Context::open_validated(&choice, None) {
            Err(e) if !required() => {
                skipped(&format!("validation of Vulkan calls ({e})"));
                Context::open(&choice, None)?
            }
            other => other?,
        };
        Ok(Gpu { context })
    };
    found.iter().map(|info| open_one(info.index).map_err(|e| format!("{}: {e}", info.name).into())).collect()
}
