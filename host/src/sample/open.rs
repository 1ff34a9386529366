//! A backend opened while the user is told how long it takes.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use super::Event;
use crate::backend::{Backend, Kind, Request};
use crate::error::{Error, Result};
use crate::stop::Stop;

/// What takes less is not worth a word: kernels come from the cache.
const UNTOLD: Duration = Duration::from_millis(400);
/// How often there is news.
const NEWS: Duration = Duration::from_millis(100);

/// As [`Backend::open`]; while a GPU's kernels are compiled, `report` is told how long that has taken ([`Event::Compiling`]), and in
/// the end how long it took ([`Event::Compiled`]).
///
/// # Errors
/// Those of [`Backend::open`].
pub(crate) fn open<'a>(
    request: &Request,
    graph: Graph<'a>,
    weights: &'a [WeightData<'a>],
    stop: &Stop,
    report: &mut dyn FnMut(Event),
) -> Result<Backend<'a>> {
    if request.kind != Kind::Vulkan {
        return Backend::open(request, graph, weights, stop);
    }
    told(|| Backend::open(request, graph, weights, stop), report)?
}

/// Runs `work` on another thread and reports how long it takes.
fn told<T: Send>(work: impl FnOnce() -> T + Send, report: &mut dyn FnMut(Event)) -> Result<T> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        // Nothing is sent: the end of the work closes the channel.
        let (end, wait) = channel::<()>();
        let worker = scope.spawn(move || {
            let _end = end;
            work()
        });
        let mut told = false;
        while wait.recv_timeout(NEWS) == Err(RecvTimeoutError::Timeout) {
            let so_far = start.elapsed();
            if so_far >= UNTOLD {
                report(Event::Compiling(so_far));
                told = true;
            }
        }
        let result = worker.join().map_err(|_| Error::failure("opening the device panicked"))?;
        if told {
            report(Event::Compiled(start.elapsed()));
        }
        Ok(result)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_told_of() {
        let mut events = Vec::new();
        let work = |time| move || std::thread::sleep(time);
        told(work(Duration::from_millis(1)), &mut |event| events.push(event)).unwrap();
        assert!(events.is_empty());
        told(work(UNTOLD * 2), &mut |event| events.push(event)).unwrap();
        let (last, before) = events.split_last().unwrap();
        assert!(matches!(last, Event::Compiled(time) if *time >= UNTOLD * 2), "{last:?}");
        assert!(!before.is_empty() && before.iter().all(|event| matches!(event, Event::Compiling(_))), "{before:?}");
    }
}
