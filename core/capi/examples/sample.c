/* Samples a picture with unfog's core on a computer that has files.
 *
 *     cc -I core/capi core/capi/examples/sample.c libunfog_core.a -o sample && ./sample glyph.pack
 *
 * Prints the picture as text and FNV-1a (64 bits) of its values' bits. With arguments after the pack: steps, seed, sampler. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unfog_core.h"

/* A whole file, in memory as unfog wants it; NULL if that fails. The caller frees it. */
static void *read_aligned(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    void *memory = NULL;
    long length = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (length >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        *bytes = (size_t)length;
        size_t room = (*bytes + UNFOG_CORE_ALIGN) / UNFOG_CORE_ALIGN * UNFOG_CORE_ALIGN;
        memory = aligned_alloc(UNFOG_CORE_ALIGN, room);
        if (memory && fread(memory, 1, *bytes, file) != *bytes) {
            free(memory);
            memory = NULL;
        }
    }
    fclose(file);
    return memory;
}

static void print(const unfog_core_image *image) {
    uint64_t hash = 0xcbf29ce484222325u;
    size_t values = (size_t)image->channels * image->height * image->width;
    for (size_t i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, &image->values[i], sizeof bits);
        for (int byte = 0; byte < 4; byte++) hash = (hash ^ (bits >> 8 * byte & 255)) * 0x100000001b3u;
    }
    for (size_t y = 0; y < image->height; y++) {
        for (size_t x = 0; x < image->width; x++) {
            int shade = (int)((image->values[y * image->width + x] + 1.0f) * 2.5f);
            char c = " .+#@"[shade < 0 ? 0 : shade > 4 ? 4 : shade];
            putchar(c), putchar(c);
        }
        putchar('\n');
    }
    printf("image %016" PRIx64 "\n", hash);
}

/* Asked between the nodes of the network. A program would feed its watchdog here. */
static int keep_going(void *context) {
    ++*(unsigned long *)context;
    return 1;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: %s PACK [STEPS [SEED [SAMPLER]]]\n", arguments[0]);
        return 2;
    }
    size_t pack_bytes = 0;
    void *pack = read_aligned(arguments[1], &pack_bytes);
    if (!pack) {
        fprintf(stderr, "can't read %s\n", arguments[1]);
        return 1;
    }
    unfog_core_options options = {0};
    options.steps = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) : 20;
    options.seed = count > 3 ? strtoull(arguments[3], NULL, 10) : 0;
    options.sampler = count > 4 ? arguments[4] : NULL;

    size_t bytes = 0;
    unfog_core_session *session = NULL;
    unsigned long nodes = 0;
    void *memory = NULL;
    unfog_core_status status = unfog_core_workspace(pack, pack_bytes, &options, &bytes);
    if (status == UNFOG_CORE_STATUS_OK) {
        memory = aligned_alloc(UNFOG_CORE_ALIGN, (bytes + UNFOG_CORE_ALIGN - 1) / UNFOG_CORE_ALIGN * UNFOG_CORE_ALIGN);
        status = unfog_core_init(&session, pack, pack_bytes, memory, bytes, &options);
    }
    if (status == UNFOG_CORE_STATUS_OK) {
        do status = unfog_core_step(session, keep_going, &nodes);
        while (status == UNFOG_CORE_STATUS_RUNNING);
    }
    unfog_core_image image;
    if (status == UNFOG_CORE_STATUS_OK) status = unfog_core_picture(session, &image);
    if (status == UNFOG_CORE_STATUS_OK) {
        print(&image);
        printf("nodes %lu\nworkspace %zu\n", nodes, bytes);
    } else {
        fprintf(stderr, "%s\n", unfog_core_status_text(status));
    }
    free(memory);
    free(pack);
    return status == UNFOG_CORE_STATUS_OK ? 0 : 1;
}
