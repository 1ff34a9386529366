//! Pictures decoded in tiles: against diffusers' tiled decoding, and against the picture decoded as a whole.

use unfog::backend::{Kind, Request, needs};
use unfog::image::{load, read_text};
use unfog::model::{Autoencoder, Model, Network};
use unfog::replay::{Changes, replay};
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog::tiles::{Tile, TiledDecoder, Tiling};
use unfog_tests::TestResult;
use unfog_tests::backend::{Backend, gpus};
use unfog_tests::compare::{close, distance};
use unfog_tests::golden::{Golden, root};
use unfog_tests::tolerance;

fn report(e: unfog::Error) -> String {
    e.report()
}

/// Decodes one picture in tiles of `side` pixels.
fn decode(net: &str, side: u32, latents: &[f32], size: [u32; 2], kind: Kind) -> TestResult<Vec<f32>> {
    let autoencoder = &Autoencoder::open(&root().join("tests/golden").join(net)).map_err(report)?;
    let multiple = autoencoder.multiples()[1];
    let network = autoencoder.decoder(multiple, multiple).map_err(report)?;
    let weights = &autoencoder.weights(&network).map_err(report)?;
    let tiling = &Tiling::new(side, multiple, size.map(|n| n * multiple)).map_err(report)?;
    let request = &Request { kind, ..Request::default() };
    let mut picture = Vec::new();
    let decoder = TiledDecoder { autoencoder, weights, request, tiling };
    let mut sink = |i, values: &[f32]| {
        assert_eq!(i, 0);
        picture.extend_from_slice(values);
        Ok(())
    };
    decoder.run(latents, &Stop::default(), &mut |_| {}, &mut sink).map_err(report)?;
    Ok(picture)
}

#[test]
fn tiles_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("tiles")?;
    let mut backends = vec![(Kind::Reference, Backend::Reference), (Kind::Cpu, Backend::Cpu(Default::default()))];
    backends.extend(
        gpus()?.first().map(|gpu| (Kind::Vulkan, Backend::Vulkan { gpu, options: unfog_gpu::Options::default() })),
    );
    for (number, case) in golden.cases().iter().enumerate() {
        let (net, side) = (case["net"].as_str().ok_or("no net")?, case["tile"].as_u64().ok_or("no tile")? as u32);
        let (latents, want) = (golden.part(number, "latents")?, golden.part(number, "tiled")?);
        let size = [latents.shape[2] as u32, latents.shape[3] as u32];
        // A software driver compiles kernels for each shape of tile anew: one case is enough of that.
        for (kind, backend) in backends.iter().filter(|(kind, _)| *kind != Kind::Vulkan || number == 0) {
            let what = format!("{net} in tiles of {side} on {}", kind.name());
            let got = decode(net, side, &latents.values, size, *kind)?;
            let far = close(&what, &got, &want.values, tolerance::tiles(backend))?;
            let whole = distance(&got, &golden.part(number, "whole")?.values);
            println!("{what}: {far:.1e} from diffusers' tiles, {whole:.1e} from the whole");
        }
    }
    Ok(())
}

#[test]
fn a_run_in_tiles_is_recorded_and_made_again() -> TestResult {
    let out = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("in-tiles.png");
    let make = |vae_tile| -> TestResult<Vec<u8>> {
        let options = Options {
            model: Some(root().join("tests/golden/pipelines/sd1")),
            prompt: Some("a 고양이".into()),
            negative: Some("blurry".into()),
            steps: Some(2),
            count: 2,
            size: Some((24, 16)),
            vae_tile,
            backend: Request { kind: Kind::Cpu, ..Request::default() },
            out: out.clone(),
            ..Options::default()
        };
        let recipe = sample(&options, &Stop::default(), &mut |_| {}).map_err(report)?.recipe;
        let tile = if let Tile::Side(side) = vae_tile { Some(side).filter(|&side| side < 24) } else { None };
        assert_eq!(recipe.vae_tile, tile);
        let found = replay(&out, &Changes::default(), &Stop::default(), &mut |_| {}).map_err(report)?;
        assert_eq!((found.differing, found.values), (0, 48 * 16 * 3), "{vae_tile:?}");
        // What other programs read.
        let text = read_text(&out, "parameters").map_err(report)?.ok_or("no parameters")?;
        assert!(text.starts_with("a 고양이\nNegative prompt: blurry\nSteps: 2, Sampler: "), "{text}");
        Ok(load(&out).map_err(report)?.pixels().to_vec())
    };
    let whole = make(Tile::Auto)?;
    assert_eq!(make(Tile::Off)?, whole);
    assert_eq!(make(Tile::Side(24))?, whole, "no picture is larger than the tile");
    assert_ne!(make(Tile::Side(16))?, whole);
    Ok(())
}

/// The least memory that a network takes of the Vulkan device: what a limit of one byte is refused with.
fn least(network: &Network) -> TestResult<u64> {
    let request = Request { kind: Kind::Vulkan, vram: Some(1), ..Request::default() };
    let said = needs(&request, &network.graph()).err().ok_or("a byte is enough")?.report();
    let number = said.split("needs ").nth(1).and_then(|rest| rest.split(' ').next()).ok_or("no number")?;
    Ok(number.parse().map_err(|e| format!("{said}: {e}"))?)
}

/// What a device has no memory for as a whole is decoded in tiles without being asked for, unless that is forbidden.
#[test]
fn what_does_not_fit_is_decoded_in_tiles() -> TestResult {
    if gpus()?.is_empty() {
        return Ok(());
    }
    let folder = root().join("tests/golden/pipelines/sd1");
    let model = Model::open(Some(&folder)).map_err(report)?;
    let autoencoder = model.autoencoder().map_err(report)?.ok_or("no autoencoder")?;
    let whole = least(&autoencoder.decoder(96, 192).map_err(report)?)?;
    let tile = least(&autoencoder.decoder(96, 128).map_err(report)?)?;
    let network = least(&model.network(48, 96).map_err(report)?)?;
    assert!(tile.max(network) < whole, "a tile takes {tile}, the network {network}, the whole {whole}");
    let run = |vae_tile| {
        let options = Options {
            model: Some(folder.clone()),
            prompt: Some("a cat".into()),
            guidance: Some(1.0),
            steps: Some(1),
            size: Some((192, 96)),
            vae_tile,
            backend: Request { kind: Kind::Vulkan, vram: Some((tile.max(network) + whole) / 2), ..Request::default() },
            out: std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("does-not-fit.png"),
            ..Options::default()
        };
        sample(&options, &Stop::default(), &mut |_| {})
    };
    assert_eq!(run(Tile::Auto).map_err(report)?.recipe.vae_tile, Some(128));
    let said = run(Tile::Off).err().ok_or("it was decoded as a whole")?.report();
    assert!(said.contains("bytes of device memory at least"), "{said}");
    Ok(())
}

/// The mean step from each column to the next of what tiles change, over the rows of all planes.
fn steps(tiled: &[f32], whole: &[f32], width: usize) -> Vec<f32> {
    let changed: Vec<f32> = tiled.iter().zip(whole).map(|(a, b)| a - b).collect();
    let mut steps = vec![0.0_f32; width - 1];
    for row in changed.chunks_exact(width) {
        for (sum, pair) in steps.iter_mut().zip(row.windows(2)) {
            *sum += (pair[1] - pair[0]).abs() * width as f32 / tiled.len() as f32;
        }
    }
    steps
}

/// Where tiles meet, what they change has no larger steps than elsewhere: they go over into each other along the pixels that they share.
#[test]
fn tiles_have_no_seams() -> TestResult {
    let (net, side, m) = ("pipelines/sd1/vae", 64, 2);
    let [h, w] = [32_usize, 80];
    for kind in ["smooth", "random"] {
        let value = |i: usize| match kind {
            "smooth" => ((i / w % h) as f32 / 9.0).sin() + (i % w) as f32 / w as f32,
            _ => ((i * 7919 % 1013) as f32 / 506.0 - 1.0) * 1.5,
        };
        let latents: Vec<f32> = (0..4 * h * w).map(value).collect();
        let size = [h as u32, w as u32];
        let whole = decode(net, 160, &latents, size, Kind::Cpu)?;
        let tiled = decode(net, side, &latents, size, Kind::Cpu)?;
        let apart = tiled.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        let steps = steps(&tiled, &whole, w * m);
        // Tiles begin at each 48th column of pixels and share 16 with the one before.
        let share = side as usize / 4;
        let at_seams = |x: usize| x >= 47 && ([0, share].contains(&((x + 1) % 48)));
        let mean = |seam: bool| {
            let of: Vec<f32> = (0..steps.len()).filter(|&x| at_seams(x) == seam).map(|x| steps[x]).collect();
            of.iter().sum::<f32>() / of.len() as f32
        };
        let (seam, elsewhere, far) = (mean(true), mean(false), distance(&tiled, &whole));
        println!(
            "{kind}: tiles are {far:.1e} from the whole, {apart:.2} at most; steps {seam:.4} at seams, {elsewhere:.4} elsewhere"
        );
        assert!(seam <= 2.0 * elsewhere, "{kind}: {seam} at seams, {elsewhere} elsewhere");
        // A hard edge would be a step of the size of the difference itself.
        assert!(kind == "random" || apart > 5.0 * elsewhere, "{kind}: {apart} would be no seam beside {elsewhere}");
    }
    Ok(())
}
