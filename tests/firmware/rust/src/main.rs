//! glyph-tiny on a Cortex-M4F: 20 steps of DDIM, the picture as text, and a hash of its bits.
//! No operating system, no allocator; the model is read where it lies in flash.

#![no_std]
#![no_main]

mod stack;

use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprint, hprintln};
use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::Cond;
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Node, Tensor, Weight};
use unfog_core::nn::plan::Slot;
use unfog_core::nn::reference::Reference;
use unfog_core::nn::weights::WeightData;
use unfog_core::noise::Philox;
use unfog_core::pack::{Memory, Pack, PackError};
use unfog_core::sampler;
use unfog_core::schedule::{BetaSchedule, Schedule};

/// Bytes that start at a multiple of 16, as packs must.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static PACK: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("UNFOG_PACK")));

const SIDE: usize = 16;
const STEPS: usize = 20;
/// Room for glyph-tiny: 80 nodes, 82 tensors, 144 weights; an arena of 128 KiB.
const NODES: usize = 80;
const TENSORS: usize = 82;
const WEIGHTS: usize = 144;
const ARENA: usize = 33_000;

#[derive(Debug)]
#[expect(dead_code, reason = "printed through Debug")]
enum Failure {
    Pack(PackError),
    Taken,
    Exec(unfog_core::nn::exec::ExecError),
    Reference(unfog_core::nn::reference::ReferenceError),
    Config(unfog_core::config::ConfigError),
    Chain(unfog_core::chain::ChainError),
    Noise(unfog_core::noise::NoiseError),
    Run(unfog_core::chain::RunError<unfog_core::nn::reference::ReferenceError>),
}

/// FNV-1a, 64 bits, over the values' bits.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn sample() -> Result<(), Failure> {
    let pack = Pack::open(&PACK.0).map_err(Failure::Pack)?;
    let nodes = cortex_m::singleton!(: [Node; NODES] = [EMPTY_NODE; NODES]).ok_or(Failure::Taken)?;
    let tensors = cortex_m::singleton!(: [Tensor; TENSORS] = [EMPTY_TENSOR; TENSORS]).ok_or(Failure::Taken)?;
    let weights = cortex_m::singleton!(: [Weight; WEIGHTS] = [EMPTY_WEIGHT; WEIGHTS]).ok_or(Failure::Taken)?;
    let slots = cortex_m::singleton!(: [Slot; TENSORS + NODES] = [const { Slot::EMPTY }; TENSORS + NODES])
        .ok_or(Failure::Taken)?;
    let data = cortex_m::singleton!(: [WeightData<'static>; WEIGHTS] = [WeightData::F32(&[]); WEIGHTS])
        .ok_or(Failure::Taken)?;
    let arena = cortex_m::singleton!(: [f32; ARENA] = [0.0; ARENA]).ok_or(Failure::Taken)?;
    let memory = Memory { nodes, tensors, weights, slots, data };
    let (graph, plan, data) = pack.load(memory).map_err(Failure::Pack)?;
    hprintln!("arena {} bytes", plan.bytes);
    let exec = Exec::new(graph, plan, data).map_err(Failure::Exec)?;
    let mut go = || true;
    let mut network = Reference::new(exec, arena, &[], &mut go).map_err(Failure::Reference)?;

    let config = Config { betas: BetaSchedule::SquaredCosCapV2, steps: STEPS, ..Config::default() };
    let alpha_bar = cortex_m::singleton!(: [f32; 1000] = [0.0; 1000]).ok_or(Failure::Taken)?;
    let mut timesteps = [0; STEPS];
    let schedule = Schedule::new(&config, alpha_bar, &mut timesteps).map_err(Failure::Config)?;
    let batch = Batch { first_image: 0, len: SIDE * SIDE, out_len: SIDE * SIDE, conds: &[Cond::None] };
    let memory = cortex_m::singleton!(: [f32; 4 * SIDE * SIDE] = [0.0; 4 * SIDE * SIDE]).ok_or(Failure::Taken)?;
    let mut chain = Chain::new(&config, &sampler::DDIM, schedule, batch, memory).map_err(Failure::Chain)?;
    let mut noise = Philox::new(0);
    chain.init(&mut noise).map_err(Failure::Noise)?;
    while let Some(progress) = chain.step(&mut network, &mut noise).map_err(Failure::Run)? {
        hprintln!("step {}/{} {:016x}", progress.step, progress.steps, hash(chain.x()));
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
            hprintln!("failed: {:?}", failure);
            debug::exit(debug::EXIT_FAILURE);
        }
    }
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    debug::exit(debug::EXIT_FAILURE);
    loop {
        cortex_m::asm::wfi();
    }
}
