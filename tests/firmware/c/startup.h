#include <stdint.h>

/* Prints through the debugger. */
void say(const char *text);
/* Ends QEMU, with an exit status of 0 or not. */
__attribute__((noreturn)) void leave(int failed);
/* Bytes of variables. */
uint32_t static_bytes(void);
/* The most bytes of stack that were in use since the start. */
uint32_t stack_peak(void);
