//! The host crate takes no memory of a megabyte or more without being told whether there is any: every such allocation of a run
//! fails in turn, and each time the run ends in an error that says so, without a panic and without an abort.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use unfog::Result;
use unfog::backend::Precision;
use unfog::backend::{Kind, Request};
use unfog::image::{Format, Picture, encode, sheet};
use unfog::model::Model;
use unfog::pack::pack;
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog_tests::TestResult;

/// Bytes from which on an allocation can fail.
const LARGE: usize = 1_000_000;

/// The system's memory, of which one large piece can be refused.
struct Failing {
    /// Large pieces that were asked for.
    asked: AtomicUsize,
    /// The one that is refused, by its number.
    refused: AtomicUsize,
}

#[global_allocator]
static MEMORY: Failing = Failing { asked: AtomicUsize::new(0), refused: AtomicUsize::new(usize::MAX) };

impl Failing {
    /// Whether this piece is refused.
    fn refuses(&self, bytes: usize) -> bool {
        bytes >= LARGE && self.asked.fetch_add(1, Ordering::SeqCst) == self.refused.load(Ordering::SeqCst)
    }

    /// Runs `work` with large piece `number` refused. Returns its result and how many were asked for.
    fn refusing<T>(&self, number: usize, work: impl FnOnce() -> T) -> (T, usize) {
        self.asked.store(0, Ordering::SeqCst);
        self.refused.store(number, Ordering::SeqCst);
        let result = work();
        self.refused.store(usize::MAX, Ordering::SeqCst);
        (result, self.asked.load(Ordering::SeqCst))
    }
}

#[expect(unsafe_code, reason = "an allocator has no safe interface")]
// SAFETY: every call goes to the system's allocator as it came, or is refused with a null pointer, which callers must expect.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.refuses(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.realloc(piece, layout, size) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above; pieces come from there.
        unsafe { System.dealloc(piece, layout) }
    }
}

/// Runs `work` with each of its large pieces refused in turn, then with all granted. Returns how many there are.
fn refuse_each(what: &str, mut work: impl FnMut() -> Result<()>) -> TestResult<usize> {
    for number in 0..1000 {
        let (result, asked) = MEMORY.refusing(number, &mut work);
        if asked <= number {
            result.map_err(|e| format!("{what}, nothing refused: {}", e.report()))?;
            return Ok(number);
        }
        let error = result.err().ok_or_else(|| format!("{what}: nobody missed large piece {number}"))?;
        assert_eq!(error.exit_code(), 1, "{what}, piece {number}: {}", error.report());
        assert!(error.report().contains("memory"), "{what}, piece {number}: {}", error.report());
    }
    Err(format!("{what} takes too many pieces").into())
}

fn folder(name: &str) -> TestResult<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A safetensors file of f32 tensors filled with `value`; `shift` bytes before them make them lie askew.
fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>)], value: f32, shift: usize) -> TestResult {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    let padding = header.len().next_multiple_of(8) - header.len() + shift;
    header.extend(std::iter::repeat_n(' ', padding));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend((0..end / 4).flat_map(|_| value.to_le_bytes()));
    Ok(std::fs::write(path, bytes)?)
}

/// A network of a few channels for pictures of a megapixel, all weights the same.
fn model(folder: &Path, channels: u32, shift: usize) -> TestResult {
    let config = json!({
        "_class_name": "UNet2DModel", "act_fn": "silu", "add_attention": false, "attention_head_dim": 4, "block_out_channels": [channels],
        "center_input_sample": false, "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "downsample_padding": 1,
        "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "mid_block_scale_factor": 1,
        "norm_eps": 1e-5, "norm_num_groups": 2, "sample_size": 1024, "time_embedding_type": "positional",
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let scheduler = json!({ "_class_name": "DDIMScheduler", "beta_schedule": "linear", "num_train_timesteps": 1000 });
    std::fs::write(folder.join("scheduler_config.json"), scheduler.to_string())?;
    let network = Model::open(Some(folder)).and_then(|model| model.network(16, 16)).map_err(|e| e.report())?;
    let shape = |shape: [u32; 4]| {
        let len = shape.iter().rposition(|&n| n != 1).map_or(1, |last| last + 1);
        shape[..len].iter().map(|&n| n as usize).collect::<Vec<_>>()
    };
    let weights: Vec<_> =
        network.names().iter().zip(network.graph().weights).map(|(name, w)| (name.clone(), shape(w.shape))).collect();
    write_tensors(&folder.join("diffusion_pytorch_model.safetensors"), &weights, 0.01, shift)
}

/// One test: all allocations of the process count.
#[test]
fn every_refusal_is_a_clean_error() -> TestResult {
    pictures()?;
    weights_that_lie_askew()?;
    a_run()
}

fn a_run() -> TestResult {
    let folder = folder("allocations")?;
    model(&folder, 4, 0)?;
    let noise = folder.join("noise.safetensors");
    write_tensors(&noise, &[("noise".into(), vec![1, 1, 1, 1024, 1024])], 0.5, 0)?;
    let options = Options {
        model: Some(folder.clone()),
        steps: Some(1),
        backend: Request { kind: Kind::Reference, ..Request::default() },
        noise_in: Some(noise),
        latents_out: Some(folder.join("x0.safetensors")),
        out: folder.join("picture.png"),
        ..Options::default()
    };
    let pieces = refuse_each("sample", || sample(&options, &Stop::default(), &mut |_| ()).map(drop))?;
    println!("sample takes {pieces} pieces of a megabyte or more");
    // The file of noise, its values, the arena, the chain's memory, the latents, the picture: at least one each.
    assert!(pieces >= 6, "{pieces}");
    Ok(())
}

fn weights_that_lie_askew() -> TestResult {
    let folder = folder("allocations-askew")?;
    // Kernels of 192 * 192 * 9 values.
    model(&folder, 192, 1)?;
    let model = Model::open(Some(&folder)).map_err(|e| e.report())?;
    let network = model.network(16, 16).map_err(|e| e.report())?;
    let pieces = refuse_each("weights", || model.weights(&network).map(drop))?;
    assert!(pieces >= 5, "{pieces}");
    let file = folder.join("model.pack");
    let pieces = refuse_each("pack", || pack(&model, Some((16, 16)), Precision::F32, &file).map(drop))?;
    assert!(pieces >= 10, "{pieces}");
    Ok(())
}

fn pictures() -> TestResult {
    let folder = folder("allocations-pictures")?;
    let path = folder.join("sheet.png");
    let values = vec![0.25; 1 << 20];
    let pieces = refuse_each("pictures", || {
        let tile = || Picture::from_values(&values, 1024, 1024, 1);
        let sheet = sheet(&[tile()?, tile()?], 2)?;
        sheet.to_values(3)?;
        unfog::files::write(&path, |out| encode(&sheet, Format::Png, &[("unfog", "{}")], &path, out))
    })?;
    assert!(pieces >= 4, "{pieces}");
    Ok(())
}
