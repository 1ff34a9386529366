//! What goes wrong is an error that says so, and a damaged pipeline cache is none.

use crate::common::{One, context};
use unfog_core::nn::graph::WeightUse::{Kernel, Vector};
use unfog_core::nn::graph::{TensorId, WeightId};
use unfog_core::nn::op::{Conv2d, Op, Shape};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, DeviceChoice, GpuError, Network, Options, Precision, devices};

fn linear() -> One {
    let op = Op::Conv2d(Conv2d::linear(2, 3));
    One::new(op, &[Some(Shape::new(2, 2, 2))], &[Some(([3, 2, 1, 1], Kernel))])
}

fn error(context: &Context, weights: &[f32], precision: Precision) -> GpuError {
    let options = Options { precision, ..Options::default() };
    Network::new(context, &linear().graph(), &[WeightData::F32(weights)], options).unwrap_err()
}

#[test]
fn wrong_weights_are_refused() {
    let Some(context) = context("wrong_weights_are_refused") else { return };
    assert!(matches!(error(&context, &[1.0; 5], Precision::F32), GpuError::Weight(0)));
    assert!(matches!(error(&context, &[1e5; 6], Precision::F16), GpuError::HalfRange(0)));
    for precision in [Precision::Int8, Precision::Q4] {
        assert!(matches!(error(&context, &[f32::NAN; 6], precision), GpuError::Quantise(0)));
    }
    let none = Network::new(&context, &linear().graph(), &[], Options::default());
    assert!(matches!(none, Err(GpuError::Weight(0))));
}

/// A graph's fields are public: what doesn't fit must not reach the kernels, which don't check.
#[test]
fn graphs_that_no_builder_made_are_refused() {
    let Some(context) = context("graphs_that_no_builder_made_are_refused") else { return };
    let damages: [fn(&mut One); 7] = [
        |one| one.weights[0].shape = [3, 1, 1, 1],
        |one| one.weights[0].role = Vector,
        |one| one.nodes[0].weights = [None; 2],
        |one| one.nodes[0].weights[0] = Some(WeightId(1)),
        |one| one.nodes[0].inputs[1] = one.nodes[0].inputs[0],
        |one| one.tensors[1].shape = Shape::new(2, 2, 1),
        |one| one.nodes[0].output = TensorId(7),
    ];
    for (i, damage) in damages.into_iter().enumerate() {
        let mut one = linear();
        damage(&mut one);
        let values = [WeightData::F32(&[1.0; 6][..one.weights[0].len() as usize])];
        let result = Network::new(&context, &one.graph(), &values, Options::default());
        assert!(matches!(result, Err(GpuError::Node(0))), "{i}: {result:?}");
    }
}

#[test]
fn wrong_inputs_are_refused() {
    let Some(context) = context("wrong_inputs_are_refused") else { return };
    let one = linear();
    let graph = one.graph();
    let mut network = Network::new(&context, &graph, &[WeightData::F32(&[1.0; 6])], Options::default()).unwrap();
    let (input, _, _) = graph.inputs().next().unwrap();
    assert!(matches!(network.set_input(input, 0, &[0.0; 7]), Err(GpuError::Input(_))));
    assert!(matches!(network.set_input(input, 1, &[0.0; 8]), Err(GpuError::Input(_))));
    assert!(matches!(network.set_input(graph.output, 0, &[0.0; 12]), Err(GpuError::Input(_))));
    assert!(matches!(network.tensor(graph.output, 1), Err(GpuError::Input(_))));
    assert!(matches!(network.prepare(0), Err(GpuError::Input(_))));
    assert!(matches!(network.prepare(9), Err(GpuError::Limit(..))));
    assert!(matches!(network.run_nodes(0..2), Err(GpuError::Node(2))));
    assert!(network.output(1).is_none());
    network.execute().unwrap();
    assert_eq!(network.output(0), Some(vec![0.0; 12]));
    network.prepare(2).unwrap();
}

#[test]
fn unknown_devices_are_refused_with_the_list() {
    let Some(context) = context("unknown_devices_are_refused_with_the_list") else { return };
    let all = devices().unwrap();
    assert!(all.contains(context.info()));
    for choice in ["99", "no such device"] {
        let result = Context::open(&DeviceChoice::parse(choice), None);
        let Err(error @ GpuError::UnknownDevice(..)) = result else { panic!("{choice}: {result:?}") };
        assert!(error.to_string().contains(choice) && error.to_string().contains(&all[0].name));
    }
    let name = all[0].name.to_uppercase();
    assert_eq!(Context::open(&DeviceChoice::parse(&name), None).unwrap().info(), &all[0]);
    assert_eq!(Context::open(&DeviceChoice::parse("0"), None).unwrap().info(), &all[0]);
}

/// In a process of its own, since the loader reads the variables.
#[test]
fn without_a_driver_there_is_an_error() {
    const CHILD: &str = "UNFOG_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        match devices() {
            Err(error @ (GpuError::NoDevice | GpuError::Loader(_))) => println!("refused: {error}"),
            other => panic!("{other:?}"),
        }
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "errors::without_a_driver_there_is_an_error", "--nocapture"])
        .env(CHILD, "1")
        .env("VK_ICD_FILENAMES", "/nonexistent.json")
        .env("VK_DRIVER_FILES", "/nonexistent.json")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("refused: "), "{text}");
}

#[test]
fn pipelines_are_kept_and_damage_is_no_failure() {
    let Some(_) = context("pipelines_are_kept_and_damage_is_no_failure") else { return };
    let folder = std::env::temp_dir().join(format!("unfog-cache-{}", std::process::id()));
    let run = |folder: &std::path::Path| {
        let context = Context::open(&DeviceChoice::Auto, Some(folder.to_owned())).unwrap();
        let weights = [WeightData::F32(&[1.0; 6])];
        Network::new(&context, &linear().graph(), &weights, Options::default()).unwrap().execute().unwrap();
    };
    let nested = folder.join("of/unfog");
    run(&nested);
    let files: Vec<_> = std::fs::read_dir(&nested).unwrap().map(|f| f.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let whole = std::fs::read(file).unwrap();
    run(&nested);
    let flipped = whole.iter().enumerate().map(|(i, b)| if i == whole.len() - 1 { !b } else { *b }).collect();
    for damaged in [Vec::new(), whole[..whole.len() / 2].to_vec(), flipped, b"something else".to_vec()] {
        std::fs::write(file, &damaged).unwrap();
        run(&nested);
        let now = std::fs::read(file).unwrap();
        assert!(now.starts_with(&whole[..40]), "written anew after {} bytes of damage", damaged.len());
    }
    assert_eq!(std::fs::read_dir(&nested).unwrap().count(), 1, "nothing else is left");
    std::fs::remove_dir_all(&folder).unwrap();
    // A folder that can't be made.
    let in_the_way = folder.with_extension("file");
    std::fs::write(&in_the_way, "").unwrap();
    run(&in_the_way);
    std::fs::remove_file(&in_the_way).unwrap();
}
