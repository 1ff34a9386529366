//! How much stack a program has used: what is free is painted first and looked at afterwards.

use core::arch::asm;
use core::ptr::addr_of;

/// What unused stack holds.
const PAINT: u32 = 0xc5c5_c5c5;

unsafe extern "C" {
    /// The end of the variables, where the stack ends; cortex-m-rt's linker script.
    static __sheap: u32;
    /// Where the stack begins.
    static _stack_start: u32;
}

fn bounds() -> (*mut u32, *mut u32) {
    (addr_of!(__sheap).cast_mut(), addr_of!(_stack_start).cast_mut())
}

/// Paints what is free of the stack. Call it first.
pub fn paint() {
    let (start, _) = bounds();
    // In one piece, so that nothing of this function's own can lie below the stack pointer while it is read.
    // SAFETY: between the variables and the stack in use lies memory that nothing uses.
    unsafe {
        asm!(
            "mov {end}, sp",
            "2: cmp {word}, {end}",
            "bhs 3f",
            "str {paint}, [{word}], #4",
            "b 2b",
            "3:",
            word = inout(reg) start => _,
            paint = in(reg) PAINT,
            end = out(reg) _,
            options(nostack)
        );
    }
}

/// The most bytes of stack that were in use since [`paint`].
pub fn peak() -> usize {
    let (mut word, top) = bounds();
    // SAFETY: reads memory below the stack's start that `paint` has written, or that is in use.
    while word < top && unsafe { word.read_volatile() } == PAINT {
        // SAFETY: stays at or below `top`.
        word = unsafe { word.add(1) };
    }
    top.addr() - word.addr()
}
