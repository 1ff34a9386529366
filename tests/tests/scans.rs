//! DICOM files against pydicom: what a network sees of them, what is written, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, Tag, open_file};
use unfog::Error;
use unfog::backend::{Kind, Request};
use unfog::image::{Deep, Format, Picture, encode};
use unfog::replay::{Changes, replay};
use unfog::restore::{Entry, Event, NoiseModel, Options, Task, restore};
use unfog::stop::Stop;
use unfog_tests::compare::close;
use unfog_tests::golden::{Golden, root};
use unfog_tests::{TestResult, tolerance};

const SHAPE: [u32; 2] = [15, 13];

fn scan(name: &str) -> PathBuf {
    root().join(format!("tests/golden/scans/{name}.dcm"))
}

/// A mask of which the last pixel alone is missing: what is restored is the picture, but for that.
fn mask(place: &Path) -> TestResult<PathBuf> {
    let [width, height] = SHAPE;
    let mut values = vec![-1.0; (width * height) as usize];
    *values.last_mut().ok_or("empty")? = 1.0;
    let path = place.join("mask.png");
    let picture = Picture::from_values(&values, width, height, 1)?;
    encode(&picture, Format::Png, &[], &path, &mut fs::File::create(&path)?)?;
    Ok(path)
}

fn options(input: PathBuf, out: PathBuf, mask: Option<PathBuf>) -> Options {
    Options {
        inputs: vec![input],
        out: Some(out),
        task: if mask.is_some() { Task::Inpaint } else { Task::Denoise },
        mask,
        steps: Some(2),
        backend: Request { kind: Kind::Cpu, ..Request::default() },
        ..Options::default()
    }
}

fn run(options: &Options) -> Result<Vec<Entry>, Error> {
    restore(options, &Stop::default(), &mut |_: Event<'_>| {})
}

fn text(object: &DefaultDicomObject, tag: Tag) -> TestResult<String> {
    Ok(object.element(tag)?.to_str()?.trim_matches(['\0', ' ']).to_string())
}

/// The stored values of a file that is not compressed.
fn stored(object: &DefaultDicomObject) -> TestResult<Vec<f32>> {
    let signed = object.element(tags::PIXEL_REPRESENTATION)?.to_int::<u16>()? == 1;
    let bytes = object.element(tags::PIXEL_DATA)?.to_bytes()?;
    let count = (SHAPE[0] * SHAPE[1]) as usize;
    Ok(match object.element(tags::BITS_ALLOCATED)?.to_int::<u16>()? {
        8 => bytes.iter().take(count).map(|&byte| byte.into()).collect(),
        _ => {
            let words = bytes.as_chunks::<2>().0.iter().take(count).map(|&pair| u16::from_le_bytes(pair));
            words.map(|word| if signed { f32::from(word as i16) } else { word.into() }).collect()
        }
    })
}

#[test]
fn a_network_sees_what_viewers_show() -> TestResult {
    let golden = Golden::read("scans")?;
    let place = tempfile::tempdir()?;
    let mask = mask(place.path())?;
    for name in ["ct", "mr", "cr", "eight", "jpeg"] {
        let out = place.path().join(format!("{name}.png"));
        let window = (name == "mr").then(|| -> TestResult<_> {
            let values = &golden.tensor("mr.stored")?.values;
            let (least, most) = values.iter().fold((f32::MAX, 0.0_f32), |(a, b), v| (a.min(*v), b.max(*v)));
            Ok(format!("{},{}", (least + most) / 4.0, (most - least) / 2.0).parse()?)
        });
        // Without a window, from the least to the largest value: the same.
        for window in [None, window.transpose()?] {
            run(&Options { window, ..options(scan(name), out.clone(), Some(mask.clone())) })?;
            let (found, truth) = (Deep::load(&out)?, golden.tensor(name)?);
            let known = found.values.len() - 1;
            assert_eq!([found.width, found.height], SHAPE, "{name}");
            let allowed = tolerance::shown(found.sixteen, name == "jpeg");
            close(name, &found.values[..known], &truth.values[..known], allowed)?;
        }
    }
    Ok(())
}

#[test]
fn what_a_file_says_is_kept_and_what_was_known_to_the_last_bit() -> TestResult {
    let golden = Golden::read("scans")?;
    let place = tempfile::tempdir()?;
    let mask = mask(place.path())?;
    for name in ["ct", "mr", "cr", "eight"] {
        let out = place.path().join(format!("{name}.dcm"));
        let options = options(scan(name), out.clone(), Some(mask.clone()));
        run(&options)?;
        let (was, now) = (open_file(scan(name))?, open_file(&out)?);
        assert_eq!(now.meta().transfer_syntax.trim_end_matches('\0'), "1.2.840.10008.1.2.1");
        let truth = golden.tensor(&format!("{name}.stored"))?.values.clone();
        let known = truth.len() - 1;
        assert_eq!(stored(&now)?[..known], truth[..known], "{name}");
        for element in was.iter() {
            let tag = element.header().tag;
            let changes = [
                tags::IMAGE_TYPE,
                tags::DERIVATION_DESCRIPTION,
                tags::SOP_INSTANCE_UID,
                tags::SERIES_INSTANCE_UID,
                tags::SMALLEST_IMAGE_PIXEL_VALUE,
                tags::PIXEL_DATA,
            ];
            if !changes.contains(&tag) {
                assert_eq!(now.element(tag)?.value(), element.value(), "{name}: {tag}");
            }
        }
        let [uid, before] = [text(&now, tags::SOP_INSTANCE_UID)?, text(&was, tags::SOP_INSTANCE_UID)?];
        assert!(uid.starts_with("2.25.") && uid.len() <= 64 && uid != before, "{uid}");
        assert_eq!(now.meta().media_storage_sop_instance_uid(), uid);
        assert!(text(&now, tags::IMAGE_TYPE)?.starts_with("DERIVED\\PRIMARY"));
        let said = text(&now, tags::DERIVATION_DESCRIPTION)?;
        assert!(said.contains("Not for diagnosis") && said.contains("seed 0") && said.len() <= 1024, "{said}");
        let source = now.element(tags::SOURCE_IMAGE_SEQUENCE)?.items().ok_or("no items")?;
        assert_eq!(source[0].element(tags::REFERENCED_SOP_INSTANCE_UID)?.to_str()?.trim_matches('\0'), before);
        // It is there already, is made again bit by bit, and the same a second time.
        assert!(run(&options)?[0].kept, "{name}");
        let bytes = fs::read(&out)?;
        let comparison = replay(&out, &Changes::default(), &Stop::default(), &mut |_| {})?;
        assert_eq!((comparison.values, comparison.differing), (truth.len(), 0), "{name}");
        fs::remove_file(&out)?;
        run(&options)?;
        assert_eq!(fs::read(&out)?, bytes, "{name}");
    }
    let ct = open_file(place.path().join("ct.dcm"))?;
    assert!(text(&ct, tags::DERIVATION_DESCRIPTION)?.starts_with("Smoothed; unfog"));
    assert_eq!(ct.private_element(0x0009, "ELSEWHERE", 1)?.to_str()?, "kept");
    Ok(())
}

/// Padding stays, and what lies beyond the window changes by no more than the window's end does.
#[test]
fn what_a_window_does_not_show_passes_by() -> TestResult {
    let golden = Golden::read("scans")?;
    let place = tempfile::tempdir()?;
    let out = place.path().join("ct.dcm");
    let noisy = Options { noise: Some(20.0), ..options(scan("ct"), out.clone(), None) };
    for noise_model in [NoiseModel::Gaussian, NoiseModel::Rician] {
        run(&Options { noise_model, ..noisy.clone() })?;
        let (found, was) = (stored(&open_file(&out)?)?, &golden.tensor("ct.stored")?.values);
        assert!(found.iter().zip(was).filter(|(found, was)| found != was).count() > 50);
        for (found, was) in found.iter().zip(was) {
            // The window is 400 wide, from -160 on; stored values are 1024 more.
            let shown = (864.0..=1264.0).contains(was);
            assert!(*was != -2000.0 || found == was, "padding became {found}");
            assert!((found - was).abs() <= 401.0, "{was} became {found}");
            assert!(*was <= 1300.0 || *found >= *was - 400.0 && *found <= *was + 0.5, "{was} became {found}");
            assert!(!shown || (863.5..=1264.5).contains(found), "{was} became {found}");
        }
    }
    Ok(())
}

#[test]
fn scans_that_can_not_be_restored_are_named_and_the_rest_is_done() -> TestResult {
    let place = tempfile::tempdir()?;
    let refused = [
        ("bad-frames", "2 frames"),
        ("bad-colours", "has colours"),
        ("bad-huge", "65535x65535"),
        ("bad-cut", "cut off"),
        ("bad-palette", "PALETTE"),
        ("bad-flat", "slope of 0"),
        ("bad-none", "no pixels"),
    ];
    let input = place.path().join("in");
    fs::create_dir(&input)?;
    for (name, why) in refused {
        let error = run(&options(scan(name), place.path().join("a.dcm"), None)).err().ok_or("nothing was refused")?;
        assert!(error.report().contains(why), "{name}: {}", error.report());
        fs::copy(scan(name), input.join(format!("{name}.dcm")))?;
    }
    // Files of scans often have no extension, or what looks like one.
    fs::copy(scan("ct"), input.join("1.2.840.7"))?;
    fs::copy(scan("mr"), input.join("IM0001"))?;
    let whole = fs::read(scan("eight"))?;
    fs::write(input.join("half.dcm"), &whole[..whole.len() / 2])?;
    fs::write(input.join("text.dcm"), "no scan")?;
    let out = place.path().join("out");
    let error = run(&options(input, out.clone(), None)).err().ok_or("nothing was refused")?;
    assert!(error.to_string().starts_with("9 of 11"), "{error}");
    let mut made: Vec<_> = fs::read_dir(&out)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    made.sort();
    assert_eq!(made, ["1.2.840.7.dcm", "IM0001.dcm"]);
    let error = |options: &Options| run(options).err().map(|e| (e.exit_code(), e.to_string())).unwrap_or_default();
    let png = place.path().join("a.png");
    run(&options(scan("ct"), png.clone(), None))?;
    let (code, said) = error(&options(png.clone(), place.path().join("b.dcm"), None));
    assert!(code == 2 && said.contains("made of such alone"), "{said}");
    let larger = Options { task: Task::Upscale, factor: 2, ..options(scan("ct"), place.path().join("b.dcm"), None) };
    let (code, said) = error(&larger);
    assert!(code == 2 && said.contains("keeps its size"), "{said}");
    let (code, said) =
        error(&Options { window: Some("40,400".parse()?), ..options(png, place.path().join("b.png"), None) });
    assert!(code == 2 && said.contains("--window"), "{said}");
    Ok(())
}

/// Whatever becomes of a file's bytes: a scan, or one line.
#[test]
fn damaged_scans_are_read_or_refused() -> TestResult {
    let place = tempfile::tempdir()?;
    let input = place.path().join("in");
    fs::create_dir(&input)?;
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for name in ["ct", "mr", "cr", "eight", "jpeg"] {
        let whole = fs::read(scan(name))?;
        for i in 0..60 {
            let mut bytes = whole.clone();
            // Headers are small beside pixels, and what they say matters more.
            for _ in 0..=random(3) {
                let at = 132 + random(bytes.len() - 132);
                bytes[at] = random(256) as u8;
            }
            if i % 6 == 0 {
                bytes.truncate(132 + random(bytes.len() - 132));
            }
            fs::write(input.join(format!("{name}{i}.dcm")), bytes)?;
        }
    }
    let mut failed = Vec::new();
    // What has another size than the mask is not restored, however large it says it is.
    let options = options(input, place.path().join("out"), Some(mask(place.path())?));
    let result = restore(&options, &Stop::default(), &mut |event| {
        if let Event::Failed(error) = event {
            failed.push(error.report());
        }
    });
    assert!(result.is_err() && (50..300).contains(&failed.len()), "{} failed", failed.len());
    assert!(failed.iter().all(|said| said.contains(".dcm")), "{failed:?}");
    Ok(())
}
