//! glyph-tiny on a Cortex-M4F: 20 steps of DDIM, the picture as text, and a hash of its bits.
//! No operating system, no allocator; the model is read where it lies in flash.

#![no_std]
#![no_main]

mod clock;
mod stack;

use clock::Clock;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprint, hprintln};
use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::Cond;
use unfog_core::nn::exec::Exec;
use unfog_core::nn::reference::Reference;
use unfog_core::noise::Philox;
use unfog_core::pack::{Pack, arena_len};
use unfog_core::sampler;
use unfog_core::schedule::Schedule;

/// Bytes that start at a multiple of 16, as packs must.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static PACK: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("UNFOG_PACK")));

static CLOCK: Clock = Clock::new();

const SIDE: usize = 16;
const STEPS: usize = 20;
/// f32 values of the arena.
const ARENA: usize = arena_len(&PACK.0);

/// FNV-1a, 64 bits, over the values' bits.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// What failed, in a word: formatting more than that would take as much flash as the sampler.
type Failure = &'static str;

fn sample() -> Result<(), Failure> {
    let pack = Pack::open(&PACK.0).map_err(|_| "pack")?;
    let exec = Exec::packed(pack).map_err(|_| "pack")?;
    let arena = cortex_m::singleton!(: [f32; ARENA] = [0.0; ARENA]).ok_or("memory")?;
    hprintln!("arena {} bytes", 4 * ARENA);
    // Asked before every node: often enough that the counter doesn't pass zero twice in between.
    let mut go = || {
        CLOCK.read();
        true
    };
    let mut network = Reference::new(exec, arena, &[], &mut go).map_err(|_| "reference")?;

    let settings = pack.settings().map_err(|_| "pack")?.ok_or("settings")?;
    if settings.sampler != sampler::DDIM.name {
        return Err("settings");
    }
    let config = Config { steps: STEPS, ..settings.config };
    let (mut timesteps, sampler) = ([0; STEPS], &sampler::DDIM);
    let schedule = Schedule::with_alpha_bar(&config, sampler, settings.alpha_bar, &mut timesteps, &mut []);
    let schedule = schedule.map_err(|_| "config")?;
    let batch = Batch { first_image: 0, len: SIDE * SIDE, out_len: SIDE * SIDE, conds: &[Cond::None] };
    let memory = cortex_m::singleton!(: [f32; 4 * SIDE * SIDE] = [0.0; 4 * SIDE * SIDE]).ok_or("memory")?;
    let mut chain = Chain::new(&config, sampler, schedule, batch, memory).map_err(|_| "chain")?;
    let mut noise = Philox::new(0);
    let mut timer = cortex_m::Peripherals::take().ok_or("timer")?;
    CLOCK.start(&mut timer.SYST);
    chain.init(&mut noise).map_err(|_| "noise")?;
    let mut before = CLOCK.read();
    while let Some(progress) = chain.step(&mut network, &mut noise).map_err(|_| "run")? {
        let now = CLOCK.read();
        hprintln!("step {}/{} {:016x} {} instructions", progress.step, progress.steps, hash(chain.x()), now - before);
        before = CLOCK.read();
    }
    for row in chain.x().chunks_exact(SIDE) {
        for &value in row {
            const SHADES: [char; 5] = [' ', '.', '+', '#', '@'];
            let shade = ((value + 1.0) * 2.5) as usize;
            hprint!("{0}{0}", SHADES.get(shade).copied().unwrap_or('@'));
        }
        hprintln!();
    }
    hprintln!("image {:016x}", hash(chain.x()));
    Ok(())
}

#[entry]
fn main() -> ! {
    stack::paint();
    let result = sample();
    hprintln!("stack {} bytes", stack::peak());
    match result {
        Ok(()) => debug::exit(debug::EXIT_SUCCESS),
        Err(failure) => {
            hprintln!("failed: {}", failure);
            debug::exit(debug::EXIT_FAILURE);
        }
    }
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => hprintln!("panic at {}:{}", place.file(), place.line()),
        None => hprintln!("panic"),
    }
    debug::exit(debug::EXIT_FAILURE);
    loop {
        cortex_m::asm::wfi();
    }
}
