/* What happens before main and around it on a bare Cortex-M4F: vectors, memory, the FPU, the stack's paint, and output
 * through the debugger (semihosting). */
#include "startup.h"

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

int main(void);

/* What unused stack holds. */
#define PAINT 0xc5c5c5c5
#define TEXT(value) #value
#define TEXT_OF(value) TEXT(value)

static uint32_t semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void say(const char *text) {
    /* SYS_OPEN of the console, to write: standard output (SYS_WRITE0 would be standard error). */
    static uint32_t console;
    if (console == 0) {
        const uintptr_t open[3] = {(uintptr_t)":tt", 4, 3};
        console = semihosting(1, open);
    }
    uint32_t length = 0;
    while (text[length]) length++;
    /* SYS_WRITE. */
    const uintptr_t write[3] = {console, (uintptr_t)text, length};
    semihosting(5, write);
}

void leave(int failed) {
    /* SYS_EXIT: ADP_Stopped_ApplicationExit or ADP_Stopped_RunTimeErrorUnknown. */
    semihosting(0x18, (const void *)(failed ? 0x20023 : 0x20026));
    for (;;) {}
}

uint32_t static_bytes(void) { return (uint32_t)((uintptr_t)bss_end - (uintptr_t)data_start); }

uint32_t stack_peak(void) {
    const volatile uint32_t *word = bss_end;
    while (word < stack_top && *word == PAINT) word++;
    return (uint32_t)((uintptr_t)stack_top - (uintptr_t)word);
}

/* The first instructions: no stack is used before it is painted. */
__attribute__((naked)) void reset(void) {
    __asm__ volatile(
        "ldr r0, =bss_end\n"
        "ldr r1, =stack_top\n"
        "ldr r2, =" TEXT_OF(PAINT) "\n"
        "1: cmp r0, r1\n"
        "it lo\n"
        "strlo r2, [r0], #4\n"
        "blo 1b\n"
        /* The FPU: full access to coprocessors 10 and 11. */
        "ldr r0, =0xe000ed88\n"
        "ldr r1, [r0]\n"
        "orr r1, r1, #0xf00000\n"
        "str r1, [r0]\n"
        "dsb\n"
        "isb\n"
        "b prepare\n");
}

__attribute__((noreturn, used)) void prepare(void) {
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end;) *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    leave(main());
}

static void fault(void) {
    say("fault\n");
    leave(1);
}

/* The stack, reset, and the faults; nothing else can interrupt. */
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
