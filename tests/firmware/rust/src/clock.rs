//! Counts instructions: under QEMU's `-icount shift=0` each takes a nanosecond, and the board's system timer ticks at 25 MHz.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;

/// Instructions of a tick.
const INSTRUCTIONS: u64 = 40;
/// The counter falls from here to 0 and starts again.
const RELOAD: u32 = 0x00ff_ffff;

/// Ticks since the start. They must be read before the counter has gone round: at least every 671 million instructions.
pub(crate) struct Clock {
    last: AtomicU32,
    ticks: AtomicU32,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { last: AtomicU32::new(RELOAD), ticks: AtomicU32::new(0) }
    }

    /// Starts the counter.
    pub(crate) fn start(&self, timer: &mut SYST) {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_counter();
        self.last.store(SYST::get_current(), Ordering::Relaxed);
    }

    /// Instructions so far.
    pub(crate) fn read(&self) -> u64 {
        let now = SYST::get_current();
        let passed = self.last.swap(now, Ordering::Relaxed).wrapping_sub(now) & RELOAD;
        let ticks = self.ticks.load(Ordering::Relaxed).wrapping_add(passed);
        self.ticks.store(ticks, Ordering::Relaxed);
        u64::from(ticks) * INSTRUCTIONS
    }
}
