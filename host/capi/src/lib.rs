//! The C interface of unfog: libunfog.so and libunfog.a.
//!
//! The header `unfog.h` is made of this file by cbindgen. Panics don't leave it: they become errors.

#![expect(unsafe_code, reason = "takes what C gives")]

mod failure;
mod settings;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::align_of;

pub use failure::Status;

use failure::guard;
use unfog::image::Picture;
use unfog::sample::{Event, Options, Setup, sample, sample_in_memory};
use unfog::stop::Stop;
use unfog::{Error, Result};

/// A model whose configs were read and checked.
pub struct Model {
    path: Option<std::path::PathBuf>,
    model: unfog::model::Model,
}

/// Options of a run.
pub struct Settings(Options);

/// What a run makes: `count` images of `channels * height * width` values.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Images.
    pub count: u32,
    /// 1 for grey, 3 for RGB.
    pub channels: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// Told the steps that are done and those there are, over all images; returning anything but 0 stops the run. It is called
/// in the thread that called, and must come back (no longjmp).
pub type Progress = Option<unsafe extern "C" fn(context: *mut c_void, done: u64, total: u64) -> c_int>;

fn null(what: &str) -> Error {
    Error::usage(format!("{what} is NULL"))
}

/// # Safety
/// `text` is NULL or a C string that can be read as long as the result is used.
unsafe fn string<'a>(text: *const c_char, what: &str) -> Result<&'a CStr> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: not NULL, and a C string, says the caller.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// # Safety
/// `pointer` is NULL or what this library gave out as a `T` and nothing freed or is changing.
unsafe fn given<'a, T>(pointer: *const T, what: &str) -> Result<&'a T> {
    // SAFETY: NULL or good, says the caller.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// Where the caller wants a `T` to be written.
fn place<T>(pointer: *mut T, what: &str) -> Result<*mut T> {
    if pointer.is_null() {
        return Err(null(what));
    }
    if !pointer.addr().is_multiple_of(align_of::<T>()) {
        return Err(Error::usage(format!("{what} is not aligned")));
    }
    Ok(pointer)
}

/// The caller's buffer, which must have room for `needed` values; `None` if it is NULL.
fn buffer<T>(buffer: *mut T, len: usize, needed: usize, what: &str) -> Result<Option<*mut T>> {
    if buffer.is_null() {
        return Ok(None);
    }
    if len < needed {
        return Err(Error::usage(format!("{what} has room for {len} values, and the run makes {needed}")));
    }
    place(buffer, what).map(Some)
}

/// Copies `values` to `buffer`, from value `from` on.
///
/// # Safety
/// `buffer` is `None`, or has room for all of them, and nothing else uses it meanwhile.
unsafe fn copy<T: Copy>(values: &[T], buffer: Option<*mut T>, from: usize) {
    if let Some(buffer) = buffer {
        // SAFETY: inside of the buffer, says the caller; what this library owns is no part of the caller's buffer.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer.add(from), values.len()) };
    }
}

/// Tells `progress` of every step, and stops the run when it says so.
struct Reporter {
    progress: Progress,
    context: *mut c_void,
    stop: Stop,
}

impl Reporter {
    fn report(&self, event: &Event) {
        if let (Event::Steps(done, total), Some(progress)) = (event, self.progress) {
            // SAFETY: the caller's own function, with the caller's own argument.
            if unsafe { progress(self.context, *done, *total) } != 0 {
                self.stop.ask();
            }
        }
    }
}

/// The version of this library: 65536 * major + 256 * minor + patch.
#[unsafe(no_mangle)]
pub extern "C" fn unfog_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (mut value, mut i) = (0, 0);
        while i < text.len() {
            value = 10 * value + (text.as_bytes()[i] - b'0') as u32;
            i += 1;
        }
        value
    }
    const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    VERSION
}

/// What went wrong in this thread's latest call that failed: one line, and a second one with the causes if there are any.
/// Empty before. It is this library's, and good until the thread's next error.
#[unsafe(no_mangle)]
pub extern "C" fn unfog_last_error() -> *const c_char {
    failure::latest()
}

/// Opens the model in the folder `path` (as diffusers saves it), or the built-in one if it is NULL, and writes it to `model`
/// (NULL if that fails). unfog_model_free frees it.
///
/// # Safety
/// `path` is NULL or a C string, `model` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_model_open(path: *const c_char, model: *mut *mut Model) -> Status {
    guard(|| {
        let place = place(model, "model")?;
        // SAFETY: not NULL, aligned, and writable, says the caller.
        unsafe { place.write(std::ptr::null_mut()) };
        // SAFETY: a C string, says the caller.
        let path = (!path.is_null()).then(|| unsafe { string(path, "path") }).transpose()?;
        let path = path.map(settings::path).transpose()?;
        let opened = Model { model: unfog::model::Model::open(path.as_deref())?, path };
        // SAFETY: as the first time.
        unsafe { place.write(Box::into_raw(Box::new(opened))) };
        Ok(())
    })
}

/// Frees a model; NULL is none.
///
/// # Safety
/// `model` comes from unfog_model_open, was not freed, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_model_free(model: *mut Model) {
    guard(|| {
        // SAFETY: it comes from a box, and is the last of its kind, says the caller.
        drop((!model.is_null()).then(|| unsafe { Box::from_raw(model) }));
        Ok(())
    });
}

/// New options, all as the command line has them by default. unfog_options_free frees them.
#[unsafe(no_mangle)]
pub extern "C" fn unfog_options_new() -> *mut Settings {
    Box::into_raw(Box::new(Settings(Options::default())))
}

/// Sets an option of `unfog sample` by its name, without dashes: "steps" to "20", "backend" to "cpu", "tune" to "1".
/// "out" and "latents-out" are for unfog_sample_to_files alone.
///
/// # Safety
/// `options` comes from unfog_options_new and is used by nothing else meanwhile; `name` and `value` are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_options_set(
    options: *mut Settings,
    name: *const c_char,
    value: *const c_char,
) -> Status {
    guard(|| {
        // SAFETY: NULL or good and used by nothing else, says the caller.
        let options = unsafe { options.as_mut() }.ok_or_else(|| null("options"))?;
        // SAFETY: C strings, says the caller.
        let (name, value) = unsafe { (string(name, "name")?, string(value, "value")?) };
        settings::set(&mut options.0, name, value)
    })
}

/// Frees options; NULL is none.
///
/// # Safety
/// `options` comes from unfog_options_new, was not freed, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_options_free(options: *mut Settings) {
    guard(|| {
        // SAFETY: it comes from a box, and is the last of its kind, says the caller.
        drop((!options.is_null()).then(|| unsafe { Box::from_raw(options) }));
        Ok(())
    });
}

/// Checks the options against the model and writes what a run will make.
///
/// # Safety
/// `model` and `options` come from this library; `shape` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_picture_shape(
    model: *const Model,
    options: *const Settings,
    shape: *mut Shape,
) -> Status {
    guard(|| {
        // SAFETY: NULL or good, says the caller.
        let (model, options) = unsafe { (given(model, "model")?, given(options, "options")?) };
        let place = place(shape, "shape")?;
        let setup = Setup::new(&model.model, &options.0)?;
        let (count, unfog::sample::Shape { width, height, channels }) = (setup.count, setup.picture);
        // SAFETY: not NULL, aligned, and writable, says the caller.
        unsafe { place.write(Shape { count, channels, height, width }) };
        Ok(())
    })
}

/// Makes pictures and leaves them in the caller's buffers, either of which may be NULL: `x0` gets what the sampler leaves
/// [count, channels, height, width], from -1 (black) to 1; `pixels` the pictures' bytes [count, height, width, channels].
/// `x0_values` and `pixels_bytes` say how much room there is. `progress` may be NULL; it is given `context`. After an error
/// the buffers hold what was made so far.
///
/// # Safety
/// `model` and `options` come from this library; the buffers can be written, apart from each other, and nothing else uses them
/// meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_sample(
    model: *const Model,
    options: *const Settings,
    progress: Progress,
    context: *mut c_void,
    x0: *mut f32,
    x0_values: usize,
    pixels: *mut u8,
    pixels_bytes: usize,
) -> Status {
    guard(|| {
        // SAFETY: NULL or good, says the caller.
        let (model, options) = unsafe { (given(model, "model")?, given(options, "options")?) };
        let setup = Setup::new(&model.model, &options.0)?;
        let len = setup.picture.len();
        let needed = len.checked_mul(setup.count as usize).filter(|n| *n <= isize::MAX as usize / 4);
        let needed = needed.ok_or_else(|| Error::usage("--count is too large"))?;
        let x0 = buffer(x0, x0_values, needed, "x0")?;
        let pixels = buffer(pixels, pixels_bytes, needed, "pixels")?;
        let reporter = Reporter { progress, context, stop: Stop::default() };
        let mut sink = |first: u64, values: &[f32]| {
            for (i, values) in (first - setup.first..u64::from(setup.count)).zip(values.chunks_exact(len)) {
                let from = i as usize * len;
                let unfog::sample::Shape { width, height, channels } = setup.picture;
                let picture = Picture::from_values(values, width, height, channels)?;
                // SAFETY: both have room for `count` images of `len` values, and i is below `count`.
                unsafe {
                    copy(values, x0, from);
                    copy(picture.pixels(), pixels, from);
                }
            }
            Ok(())
        };
        let mut report = |event| reporter.report(&event);
        sample_in_memory(&model.model, &options.0, &reporter.stop, &mut report, &mut sink)
    })
}

/// Makes pictures and writes them to the files that the options "out" (unfog.png if it was not set) and "latents-out" name,
/// with the recipe in each PNG. Nothing is left half written.
///
/// # Safety
/// `model` and `options` come from this library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_sample_to_files(
    model: *const Model,
    options: *const Settings,
    progress: Progress,
    context: *mut c_void,
) -> Status {
    guard(|| {
        // SAFETY: NULL or good, says the caller.
        let (model, options) = unsafe { (given(model, "model")?, given(options, "options")?) };
        let options = Options { model: model.path.clone(), ..options.0.clone() };
        let reporter = Reporter { progress, context, stop: Stop::default() };
        sample(&options, &reporter.stop, &mut |event| reporter.report(&event)).map(|_| ())
    })
}
