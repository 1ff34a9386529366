/* glyph-tiny on a Cortex-M4F, from C: 20 steps of DDIM, the picture as text, a hash of its bits, and the memory it took.
 * No operating system, no C library, no allocator; the model is read where it lies in flash. */
#include "startup.h"
#include "unfog_core.h"

extern const unsigned char pack[], pack_end[];

/* Room for glyph-tiny; unfog_core_init refuses what is too small. */
static _Alignas(UNFOG_CORE_ALIGN) unsigned char workspace[102400];

static void say_hex(uint64_t value) {
    char text[17] = {0};
    for (int i = 15; i >= 0; i--, value >>= 4) text[i] = "0123456789abcdef"[value & 15];
    say(text);
}

static void say_number(const char *before, uint32_t value, const char *after) {
    char text[11] = {0};
    int i = 10;
    do text[--i] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    say(before);
    say(text + i);
    say(after);
}

/* FNV-1a, 64 bits, over the values' bits. */
static uint64_t hash(const float *values, uint32_t count) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t i = 0; i < count; i++) {
        union {
            float value;
            uint32_t bits;
        } word = {values[i]};
        for (int byte = 0; byte < 4; byte++) hash = (hash ^ (word.bits >> 8 * byte & 255)) * 0x100000001b3u;
    }
    return hash;
}

/* Asked between the network's nodes: the place to feed a watchdog. */
static int keep_going(void *context) {
    ++*(uint32_t *)context;
    return 1;
}

static unfog_core_status sample(void) {
    const size_t pack_bytes = (size_t)(pack_end - pack);
    unfog_core_options options = {.steps = 20};
    size_t needed = 0, used = 0, arena = 0;
    unfog_core_status status = unfog_core_workspace(pack, pack_bytes, &options, &needed);
    if (status < 0) return status;
    say_number("workspace ", needed, " bytes\n");

    unfog_core_session *session;
    status = unfog_core_init(&session, pack, pack_bytes, workspace, sizeof workspace, &options);
    if (status < 0) return status;
    unfog_core_used(session, &used, &arena);
    say_number("used ", used, " bytes\n");
    say_number("arena ", arena, " bytes\n");

    uint32_t nodes = 0, step = 0, steps = 0;
    unfog_core_image image;
    do {
        status = unfog_core_step(session, keep_going, &nodes);
        if (status < 0) return status;
        unfog_core_progress(session, &step, &steps);
        unfog_core_picture(session, &image);
        say_number("step ", step, "/");
        say_number("", steps, " ");
        say_hex(hash(image.values, image.channels * image.height * image.width));
        say("\n");
    } while (status == UNFOG_CORE_STATUS_RUNNING);
    say_number("nodes ", nodes, "\n");

    for (uint32_t y = 0; y < image.height; y++) {
        for (uint32_t x = 0; x < image.width; x++) {
            int shade = (int)((image.values[y * image.width + x] + 1.0f) * 2.5f);
            char c = " .+#@"[shade < 0 ? 0 : shade > 4 ? 4 : shade];
            say((char[]){c, c, 0});
        }
        say("\n");
    }
    say("image ");
    say_hex(hash(image.values, image.channels * image.height * image.width));
    say("\n");
    return status;
}

int main(void) {
    unfog_core_status status = sample();
    say_number("statics ", static_bytes(), " bytes\n");
    say_number("stack ", stack_peak(), " bytes\n");
    if (status < 0) {
        say("failed: ");
        say(unfog_core_status_text(status));
        say("\n");
    }
    return status < 0;
}
