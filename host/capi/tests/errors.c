/* Everything that unfog.h says of errors: prints the line of each check that fails. */
#include <stdio.h>
#include <string.h>

#include <unfog.h>

#define S(name) UNFOG_STATUS_##name
static int failures;
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("line %d: %s; last error: %s\n", __LINE__, #condition, unfog_last_error()); \
            failures++; \
        } \
    } while (0)
#define SAYS(text) (strstr(unfog_last_error(), text) != NULL)

struct count {
    int calls, stop_at;
    uint64_t done, total;
};

static int count(void *context, uint64_t done, uint64_t total) {
    struct count *count = context;
    count->done = done;
    count->total = total;
    return ++count->calls == count->stop_at;
}

int main(void) {
    unfog_model *model = (void *)&failures;
    unfog_options *options = unfog_options_new();
    unfog_shape shape = {0};
    float x0[2 * 256], again[2 * 256];
    uint8_t pixels[2 * 256];

    CHECK(unfog_version() == (0u << 16 | 1u << 8 | 0u));
    CHECK(strcmp(unfog_last_error(), "") == 0);

    CHECK(unfog_model_open("no/such/folder", &model) == S(FAILURE) && model == NULL && SAYS("no/such/folder"));
    CHECK(unfog_model_open(NULL, NULL) == S(USAGE) && SAYS("model is NULL"));
    CHECK(unfog_model_open(NULL, &model) == S(OK) && model != NULL);

    CHECK(options != NULL);
    CHECK(unfog_options_set(NULL, "steps", "3") == S(USAGE) && SAYS("options is NULL"));
    CHECK(unfog_options_set(options, NULL, "3") == S(USAGE) && SAYS("name is NULL"));
    CHECK(unfog_options_set(options, "steps", NULL) == S(USAGE) && SAYS("value is NULL"));
    CHECK(unfog_options_set(options, "no such", "3") == S(USAGE) && SAYS("known: prompt, lora, embedding, control"));
    CHECK(unfog_options_set(options, "steps", "three") == S(USAGE) && SAYS("--steps: \"three\""));
    CHECK(unfog_options_set(options, "steps", "-1") == S(USAGE));
    CHECK(unfog_options_set(options, "size", "16") == S(USAGE) && SAYS("64x64"));
    CHECK(unfog_options_set(options, "sampler", "\xff") == S(USAGE) && SAYS("UTF-8"));
    CHECK(unfog_options_set(options, "steps", "3") == S(OK));
    CHECK(unfog_options_set(options, "count", "2") == S(OK));
    CHECK(unfog_options_set(options, "backend", "reference") == S(OK));

    CHECK(unfog_picture_shape(NULL, options, &shape) == S(USAGE) && SAYS("model is NULL"));
    CHECK(unfog_picture_shape(model, NULL, &shape) == S(USAGE) && SAYS("options is NULL"));
    CHECK(unfog_picture_shape(model, options, NULL) == S(USAGE) && SAYS("shape is NULL"));
    CHECK(unfog_picture_shape(model, options, &shape) == S(OK));
    CHECK(shape.count == 2 && shape.channels == 1 && shape.height == 16 && shape.width == 16);

    struct count all = {0, 0, 0, 0};
    CHECK(unfog_sample(NULL, options, NULL, NULL, x0, 512, pixels, 512) == S(USAGE));
    CHECK(unfog_sample(model, NULL, NULL, NULL, x0, 512, pixels, 512) == S(USAGE));
    CHECK(unfog_sample(model, options, NULL, NULL, x0, 511, pixels, 512) == S(USAGE) && SAYS("room for 511"));
    CHECK(unfog_sample(model, options, NULL, NULL, x0, 512, pixels, 0) == S(USAGE) && SAYS("pixels"));
    CHECK(unfog_sample(model, options, count, &all, x0, 512, pixels, 512) == S(OK));
    /* At the start, and after every step. */
    CHECK(all.calls == 4 && all.done == 3 && all.total == 3);
    for (int i = 0; i < 512; i++) {
        /* Rounding may go either way at a tie. */
        float byte = (x0[i] / 2 + 0.5f) * 255;
        byte = byte < 0 ? 0 : byte > 255 ? 255 : byte;
        if (byte - pixels[i] > 0.5001f || pixels[i] - byte > 0.5001f) {
            CHECK(!"pixels are not those of x0");
            break;
        }
    }
    CHECK(unfog_sample(model, options, NULL, NULL, NULL, 0, NULL, 0) == S(OK));
    CHECK(unfog_sample(model, options, NULL, NULL, again, 512, NULL, 0) == S(OK));
    CHECK(memcmp(again, x0, sizeof x0) == 0);

    struct count stopped = {0, 2, 0, 0};
    CHECK(unfog_sample(model, options, count, &stopped, again, 512, NULL, 0) == S(INTERRUPTED));
    CHECK(stopped.calls == 2 && SAYS("interrupted"));

    CHECK(unfog_sample_to_files(NULL, options, NULL, NULL) == S(USAGE));
    CHECK(unfog_options_set(options, "out", "no/such/folder/picture.png") == S(OK));
    CHECK(unfog_sample_to_files(model, options, NULL, NULL) == S(USAGE) && SAYS("no/such/folder"));
    remove("cancelled.png");
    CHECK(unfog_options_set(options, "out", "cancelled.png") == S(OK));
    stopped.calls = 0;
    CHECK(unfog_sample_to_files(model, options, count, &stopped) == S(INTERRUPTED));
    FILE *file = fopen("cancelled.png", "rb");
    CHECK(file == NULL);

    unfog_model_free(NULL);
    unfog_options_free(NULL);
    unfog_model_free(model);
    unfog_options_free(options);
    return failures != 0;
}
