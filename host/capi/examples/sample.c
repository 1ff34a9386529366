/* Makes pictures with unfog.
 *
 *     cc sample.c $(pkg-config --cflags --libs unfog) -o sample && ./sample steps=20 seed=3 out=picture.png
 *
 * Arguments are options of `unfog sample`, as name=value; "model" is a folder. With "out" the pictures are written there,
 * without they are printed as text, with FNV-1a (64 bits) of their values' bits. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unfog.h>

static int progress(void *context, uint64_t done, uint64_t total) {
    (void)context;
    fprintf(stderr, "\r%" PRIu64 "/%" PRIu64 "%s", done, total, done == total ? "\n" : "");
    return 0; /* Anything else would stop. */
}

static void print(const unfog_shape *shape, const float *x0, const uint8_t *pixels) {
    size_t values = (size_t)shape->count * shape->channels * shape->height * shape->width;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, &x0[i], sizeof bits);
        for (int byte = 0; byte < 4; byte++) hash = (hash ^ (bits >> 8 * byte & 255)) * 0x100000001b3u;
    }
    for (size_t y = 0; y < (size_t)shape->count * shape->height; y++) {
        for (size_t x = 0; x < shape->width; x++) {
            char c = " .+#@"[pixels[(y * shape->width + x) * shape->channels] * 5 / 256];
            putchar(c), putchar(c);
        }
        putchar('\n');
    }
    printf("image %016" PRIx64 "\n", hash);
}

int main(int count, char **arguments) {
    const char *path = NULL;
    int to_files = 0;
    unfog_model *model = NULL;
    unfog_options *options = unfog_options_new();
    unfog_status status = UNFOG_STATUS_OK;
    for (int i = 1; i < count && status == UNFOG_STATUS_OK; i++) {
        char *value = strchr(arguments[i], '=');
        if (!value) {
            fprintf(stderr, "usage: %s [NAME=VALUE ...]\n", arguments[0]);
            unfog_options_free(options);
            return 2;
        }
        *value++ = '\0';
        if (strcmp(arguments[i], "model") == 0) path = value;
        else status = unfog_options_set(options, arguments[i], value);
        to_files |= strcmp(arguments[i], "out") == 0;
    }
    if (status == UNFOG_STATUS_OK) status = unfog_model_open(path, &model);
    if (status == UNFOG_STATUS_OK && to_files) {
        status = unfog_sample_to_files(model, options, progress, NULL);
    } else if (status == UNFOG_STATUS_OK) {
        unfog_shape shape;
        status = unfog_picture_shape(model, options, &shape);
        if (status == UNFOG_STATUS_OK) {
            size_t values = (size_t)shape.count * shape.channels * shape.height * shape.width;
            float *x0 = malloc(values * sizeof *x0);
            uint8_t *pixels = malloc(values);
            if (x0 && pixels)
                status = unfog_sample(model, options, progress, NULL, x0, values, pixels, values);
            if (x0 && pixels && status == UNFOG_STATUS_OK) print(&shape, x0, pixels);
            free(pixels);
            free(x0);
        }
    }
    if (status != UNFOG_STATUS_OK) fprintf(stderr, "%s\n", unfog_last_error());
    unfog_model_free(model);
    unfog_options_free(options);
    return status;
}
