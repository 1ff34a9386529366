//! The way of a safetensors or GGUF file from its header to a network's weights.
//!
//! An input that begins with `{` is a header up to its first line break, whose length is put before it, and then the data;
//! any other input is a whole file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unfog::model::{Model, Network};
use unfog_fuzz::Folder;

struct Prepared {
    folder: Folder,
    model: Model,
    network: Network,
}

fn prepare() -> unfog::Result<Prepared> {
    let folder = Folder::of_process();
    folder.write("config.json", include_bytes!("../tiny/config.json"));
    let model = Model::open(Some(folder.path()))?;
    let network = model.network(2, 2)?;
    Ok(Prepared { folder, model, network })
}

fn file(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == b'\n');
    match end.filter(|_| bytes.starts_with(b"{")) {
        None => bytes.to_vec(),
        Some(end) => [&(end as u64).to_le_bytes(), &bytes[..end], &bytes[end + 1..]].concat(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static PREPARED: Prepared = prepare().expect("the tiny network is whole"));
    PREPARED.with(|Prepared { folder, model, network }| {
        folder.write("diffusion_pytorch_model.safetensors", &file(bytes));
        if let Ok(weights) = model.weights(network) {
            let data = weights.data();
            assert_eq!(data.len(), network.graph().weights.len());
            let finite = data.iter().all(|weight| (0..weight.len()).all(|i| weight.at(i).is_finite()));
            assert!(finite && weights.fingerprint().finish().is_ok());
        }
    });
});
