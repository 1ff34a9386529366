//! `--tune`: how the kernels of convolutions and attentions are cut up is measured on the device at hand, where the table decides
//! otherwise. A run's recipe has the choice, so that it can be made again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Choice, Context, candidates, shape_key};

use super::auto::layers;
use super::vulkan::{failed, open};
use super::{Request, Tuned, cache};
use crate::bench::alone::{Bench, alone};
use crate::cost::node_flops;
use crate::error::Result;
use crate::stop::Stop;

/// Tuning takes no longer than this, unless the first kernel alone does; shapes that it doesn't come to are left to the table.
const LIMIT: Duration = Duration::from_secs(20);
/// Time for measuring a candidate, after a run that doesn't count.
const BUDGET: Duration = Duration::from_millis(20);

/// Nodes of equal shapes.
struct Shape<C> {
    key: String,
    /// The first of them.
    node: usize,
    /// Operations of one of them.
    flops: u64,
    /// What may be faster than the table's choice.
    candidates: Vec<C>,
}

/// What is known of each shape that was measured: the fastest candidate, or none where that is the table's choice.
type Found<C> = BTreeMap<String, Option<C>>;

/// Measures a candidate for a shape, or the table's choice; gives nothing if the device can't run it.
type Time<'a, C> = &'a mut dyn FnMut(&Shape<C>, Option<&C>) -> Result<Option<Duration>>;

/// Measures shape by shape, the table's choice first, as long as there is time: `clock` says how long it has taken so far.
fn contest<C: Clone>(
    shapes: &[Shape<C>],
    clock: &dyn Fn() -> Duration,
    time: Time<'_, C>,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Found<C>> {
    let mut found = Found::new();
    // Of a measurement: the most seconds an operation so far.
    let mut dearest = 0.0_f64;
    for (done, shape) in shapes.iter().enumerate() {
        report(done as u64, shapes.len() as u64);
        let mut best: Option<(Duration, Option<&C>)> = None;
        let mut whole = true;
        for candidate in std::iter::once(None).chain(shape.candidates.iter().map(Some)) {
            let begun = clock();
            let expected = Duration::try_from_secs_f64(dearest * shape.flops as f64).unwrap_or(Duration::MAX);
            if begun.saturating_add(expected) > LIMIT {
                whole = false;
                break;
            }
            if let Some(took) = time(shape, candidate)?.filter(|took| best.is_none_or(|(fastest, _)| *took < fastest)) {
                best = Some((took, candidate));
            }
            dearest = dearest.max((clock() - begun).as_secs_f64() / shape.flops.max(1) as f64);
        }
        // What was cut short is of use now, but not to be remembered as if it were all.
        if let Some((_, candidate)) = best.filter(|(_, candidate)| whole || candidate.is_some()) {
            found.insert(shape.key.clone(), candidate.cloned());
        }
    }
    report(shapes.len() as u64, shapes.len() as u64);
    Ok(found)
}

/// Tunes the kernels of a network for the device that `request` names: what differs from the table, and a line for the user.
/// `report` is told how many shapes are done, of how many. What was measured before is remembered.
///
/// # Errors
/// No such device, or the run was stopped.
pub(crate) fn tune(
    request: &Request,
    graph: &Graph<'_>,
    weights: &[WeightData<'_>],
    stop: &Stop,
    report: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Tuned>, String)> {
    let start = Instant::now();
    let (context, precision) = open(request)?;
    let cached = cache_key(request, &context);
    let mut known: Found<String> = cache::load(&cached).unwrap_or_default();
    let all = shapes(&context, graph, precision)?;
    let keys: Vec<String> = all.iter().map(|shape| shape.key.clone()).collect();
    let new: Vec<_> = all.into_iter().filter(|shape| !known.contains_key(&shape.key)).collect();
    let mut time = |shape: &Shape<Choice>, choice: Option<&Choice>| {
        let ids = graph.nodes[shape.node].weights.iter().flatten().map(|id| usize::from(id.0));
        let data: Vec<WeightData<'_>> = ids.filter_map(|id| weights.get(id).copied()).collect();
        let choices = choice.map(|&choice| (shape.key.clone(), choice));
        let bench = Bench::Vulkan(context.tuned(choices), precision);
        match bench.time(&alone(graph, shape.node)?, &data, BUDGET, stop) {
            Err(_) if !stop.asked() => Ok(None),
            time => time.map(Some),
        }
    };
    let found = contest(&new, &|| start.elapsed(), &mut time, report)?;
    known.extend(found.into_iter().map(|(key, choice)| (key, choice.map(|choice| choice.to_string()))));
    cache::keep(&cached, &known);
    let chosen = |key: String| Some(Tuned { kernel: known.get(&key)?.clone()?, shape: key });
    let all = keys.len();
    let tuned: Vec<Tuned> = keys.into_iter().filter_map(chosen).collect();
    let why = format!(
        "{} of {all} shapes run other kernels than the table's; {} measured in {:.1} s",
        tuned.len(),
        new.len(),
        start.elapsed().as_secs_f64()
    );
    Ok((tuned, why))
}

/// The different shapes of a network, those first that cost most together.
fn shapes(context: &Context, graph: &Graph<'_>, precision: unfog_gpu::Precision) -> Result<Vec<Shape<Choice>>> {
    let mut found: Vec<Shape<Choice>> = Vec::new();
    for (node, _) in layers(graph) {
        let Some(key) = shape_key(graph, &graph.nodes[node]) else { continue };
        // Layers that differ in an activation alone have one kernel.
        if found.iter().all(|shape| shape.key != key) {
            let candidates = candidates(context, graph, node, precision).map_err(failed)?;
            found.push(Shape { key, node, flops: node_flops(graph, &graph.nodes[node]), candidates });
        }
    }
    Ok(found)
}

/// The file name under which choices are kept: it changes with whatever they depend on but for the shapes.
fn cache_key(request: &Request, context: &Context) -> String {
    let info = context.info();
    let version = env!("CARGO_PKG_VERSION");
    let table = unfog_gpu::table_version();
    let text = format!("{version} {table:x} {}, {} {:?}", info.name, info.driver, request.precision);
    let digits: String = Sha256::digest(text.as_bytes()).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("tune-{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A contest of shapes with these operations among candidates that take so many milliseconds an operation, the table's choice
    /// first; every measurement takes as long as what it measures, on a clock that is only told.
    fn told(flops: &[u64], ms: &[u64]) -> (Found<u64>, Duration) {
        let candidates = ms[1..].to_vec();
        let shape = |&flops: &u64| Shape { key: flops.to_string(), node: 0, flops, candidates: candidates.clone() };
        let shapes: Vec<_> = flops.iter().map(shape).collect();
        let now = Cell::new(Duration::ZERO);
        let mut time = |shape: &Shape<u64>, candidate: Option<&u64>| {
            let took = Duration::from_millis(shape.flops * candidate.copied().unwrap_or(ms[0]));
            now.set(now.get() + took);
            // What takes 7 can't be run.
            Ok((candidate != Some(&7)).then_some(took))
        };
        let mut reports = Vec::new();
        let found = contest(&shapes, &|| now.get(), &mut time, &mut |done, all| reports.push((done, all))).unwrap();
        assert_eq!(reports.last(), Some(&(flops.len() as u64, flops.len() as u64)));
        (found, now.get())
    }

    #[test]
    fn the_fastest_is_taken() {
        let (found, _) = told(&[2, 1], &[5, 8, 7, 3, 4, 3]);
        assert_eq!(found, [("1".to_string(), Some(3)), ("2".to_string(), Some(3))].into());
        // The table's where nothing is faster.
        assert_eq!(told(&[1], &[5, 5, 8]).0, [("1".to_string(), None)].into());
    }

    #[test]
    fn it_is_over_in_time() {
        for flops in [&[1, 1, 1][..], &[900; 40], &[15_000, 10, 1], &[1000, 9000, 3]] {
            let (found, took) = told(flops, &[1, 2, 1, 1]);
            assert!(took <= LIMIT, "{flops:?} {took:?}");
            // Nothing is faster than the table's, and what was not measured whole is not remembered.
            assert!(found.values().all(Option::is_none));
            assert!(!found.contains_key("15000"), "{flops:?}");
        }
        // A shape that was cut short keeps the best so far; what is small still fits.
        let (found, _) = told(&[8000, 10], &[2, 1, 3]);
        assert_eq!((found.get("8000"), found.get("10")), (None, Some(&Some(1))));
    }
}
