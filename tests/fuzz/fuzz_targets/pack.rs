//! The pack loader of the core, and evaluations of what it takes for a network: where it lies, and rebuilt.
//!
//! The input is everything of a pack that its checksum covers; magic, versions, length and checksum are put before it. The
//! bytes as they are go to the loader first.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unfog::cost::flops;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT};
use unfog_core::nn::plan::{Slot, Target, plan};
use unfog_core::nn::reference::Reference;
use unfog_core::nn::weights::WeightData;
use unfog_core::pack::{ABI, FORMAT, Memory, Pack};

/// Of nodes, tensors and weights, each.
const MOST: usize = 256;
/// Values of the arena, and operations of an evaluation: more takes long, and shows nothing else.
const ARENA: usize = 1 << 14;
const FLOPS: u64 = 1 << 20;

/// The bytes that the checksum covers begin here.
const CHECKED: usize = 28;

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// A pack around what its checksum covers.
fn sealed(content: &[u8]) -> Vec<u8> {
    let length = (CHECKED + content.len()) as u64;
    let mut pack = b"unfogpak".to_vec();
    pack.extend(FORMAT.to_le_bytes());
    pack.extend(ABI.to_le_bytes());
    pack.extend(length.to_le_bytes());
    pack.extend(crc32(content).to_le_bytes());
    pack.extend(content);
    pack
}

/// Runs a network node by node, then as a whole.
fn run(exec: Exec<'_>) {
    let program = *exec.program();
    let mut arena = vec![0.0; exec.arena_len()];
    for index in 0..=program.nodes() {
        let ran = exec.run_node(index, &mut arena);
        assert!(ran.is_ok() == (index < program.nodes()), "node {index}: {ran:?}");
    }
    let mut go = || true;
    let Ok(mut network) = Reference::new(exec, &mut arena, &[0.5; 8], &mut go) else { return };
    let len = program.interface().map_or(0, |interface| interface.sample.len() as usize);
    let (x, mut out) = (vec![0.25; len], vec![0.0; network.out_len()]);
    for cond in [Cond::None, Cond::Class(1), Cond::Loaded(0)] {
        let _ = network.predict(&x, 3.0, &[cond], &mut out);
    }
}

fn load(bytes: &[u8]) {
    let Ok(pack) = Pack::open(bytes) else { return };
    let _ = (pack.settings(), pack.notes());
    let (mut nodes, mut tensors, mut weights) =
        (vec![EMPTY_NODE; MOST], vec![EMPTY_TENSOR; MOST], vec![EMPTY_WEIGHT; MOST]);
    let (mut slots, mut data) = (vec![Slot::EMPTY; 2 * MOST], vec![WeightData::F32(&[]); MOST]);
    let memory = Memory { nodes: &mut nodes, tensors: &mut tensors, weights: &mut weights, data: &mut data };
    let counts = pack.counts();
    if counts.tensors > MOST || counts.weights > MOST {
        return;
    }
    // What can be run where it lies is a graph, too.
    let in_place = Exec::packed(pack);
    let loaded = pack.load(memory);
    let Ok((graph, data)) = &loaded else {
        assert!(in_place.is_err(), "runs, but can't be loaded: {loaded:?}");
        return;
    };
    let small = |exec: &Exec<'_>| exec.arena_len() <= ARENA;
    if flops(graph) > FLOPS {
        return;
    }
    if let Ok(exec) = in_place
        && small(&exec)
    {
        run(exec);
    }
    let Ok(plan) = plan(graph, &Target::REFERENCE, &mut slots) else { return };
    if let Ok(exec) = Exec::new(*graph, plan, data)
        && small(&exec)
    {
        run(exec);
    }
}

fuzz_target!(|bytes: &[u8]| {
    for pack in [bytes.to_vec(), sealed(bytes)] {
        // The sanitizer's allocator sees to this; and it notices what is read past the end.
        assert!(pack.is_empty() || pack.as_ptr().addr().is_multiple_of(16));
        load(&pack);
    }
});
