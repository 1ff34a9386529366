//! The reader of diffusers' scheduler_config.json, and a run with what it reads.

#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use unfog::model::Scheduler;
use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::Philox;
use unfog_core::schedule::{Level, Schedule};
use unfog_fuzz::Folder;

/// Longer chains take long, and show nothing else.
const TRAIN_STEPS: usize = 2000;

/// A network that returns half of what it sees.
struct Half(usize);

impl Denoise for Half {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        self.0
    }

    fn predict(&mut self, x: &[f32], _: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        assert_eq!((x.len(), out.len()), (2, self.0 * conds.len()));
        out.iter_mut().zip(x.iter().cycle()).for_each(|(out, x)| *out = x / 2.0);
        Ok(())
    }
}

fn run(scheduler: Scheduler, steps: usize) {
    let config = Config { steps, ..scheduler.config };
    let train_steps = config.train_steps;
    if train_steps > TRAIN_STEPS {
        let _ = config.validate();
        return;
    }
    let mut alpha_bar = scheduler.trained_betas.unwrap_or_else(|| vec![0.0; train_steps]);
    let (mut timesteps, mut levels) = (vec![0; steps], vec![Level::default(); scheduler.sampler.levels(steps)]);
    let schedule = Schedule::for_sampler(&config, scheduler.sampler, &mut alpha_bar, &mut timesteps, &mut levels);
    let Ok(schedule) = schedule else { return };
    for out_len in [2, 4] {
        let batch = Batch { first_image: 0, len: 2, out_len, conds: &[Cond::None] };
        let Ok(needed) = Chain::memory(&config, scheduler.sampler, &batch) else { continue };
        let mut memory = vec![0.0; needed];
        let Ok(mut chain) = Chain::new(&config, scheduler.sampler, schedule, batch, &mut memory) else { continue };
        let mut noise = Philox::new(1);
        assert_eq!(chain.init(&mut noise), Ok(()));
        while let Ok(Some(_)) = chain.step(&mut Half(out_len), &mut noise) {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static FOLDER: Folder = Folder::of_process());
    FOLDER.with(|folder| {
        let path = folder.write("scheduler_config.json", bytes);
        let steps = 1 + bytes.len() % 8;
        if let Ok(scheduler) = Scheduler::open(&path) {
            run(scheduler, steps);
        }
    });
});
