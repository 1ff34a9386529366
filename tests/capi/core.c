/* Everything that unfog_core.h says of errors, tried with a good pack: prints the line of each check that fails.
 *
 * Arguments: a pack of glyph-tiny. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unfog_core.h"

#define S(name) UNFOG_CORE_STATUS_##name
static int failures;
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("line %d: %s\n", __LINE__, #condition); \
            failures++; \
        } \
    } while (0)

static _Alignas(16) unsigned char pack[1 << 21];
static _Alignas(16) unsigned char space[1 << 21];
static _Alignas(16) unsigned char other[1 << 21];

struct stop {
    unfog_core_session *session;
    int after;
    size_t bytes;
    unfog_core_status inside, inside_init;
};

static int stop_after(void *context) {
    struct stop *stop = context;
    unfog_core_session *another = NULL;
    stop->inside = unfog_core_step(stop->session, NULL, NULL);
    stop->inside_init = unfog_core_init(&another, pack, stop->bytes, other, sizeof other, NULL);
    return stop->after-- > 0;
}

static unfog_core_status run(unfog_core_session *session) {
    unfog_core_status status;
    do status = unfog_core_step(session, NULL, NULL);
    while (status == S(RUNNING));
    return status;
}

int main(int count, char **arguments) {
    FILE *file = count > 1 ? fopen(arguments[1], "rb") : NULL;
    size_t n = file ? fread(pack, 1, sizeof pack, file) : 0;
    if (n == 0 || n == sizeof pack) return 2;
    fclose(file);

    unfog_core_options options = {0};
    options.steps = 3;
    size_t bytes = 0, used = 0, arena = 0;
    unfog_core_session *session = NULL;
    unfog_core_image image, again;
    uint32_t step = 9, steps = 9;

    CHECK(unfog_core_version() == (0u << 16 | 1u << 8 | 0u));
    for (int status = -14; status < 3; status++) CHECK(strlen(unfog_core_status_text(status)) > 3);
    CHECK(strcmp(unfog_core_status_text(-14), unfog_core_status_text(12345)) == 0);
    CHECK(strcmp(unfog_core_status_text(-13), unfog_core_status_text(12345)) != 0);

    /* The pack and the options. */
    CHECK(unfog_core_workspace(pack, n, &options, NULL) == S(NULL));
    CHECK(unfog_core_workspace(pack, n, &options, (size_t *)(void *)(space + 1)) == S(ALIGNMENT));
    CHECK(unfog_core_workspace(NULL, n, &options, &bytes) == S(NULL));
    CHECK(unfog_core_workspace(pack + 1, n, &options, &bytes) == S(ALIGNMENT));
    CHECK(unfog_core_workspace(pack, n - 1, &options, &bytes) == S(PACK));
    CHECK(unfog_core_workspace(pack, 0, &options, &bytes) == S(PACK));
    CHECK(unfog_core_workspace(pack, SIZE_MAX, &options, &bytes) == S(PACK));
    CHECK(unfog_core_workspace(space, 4096, &options, &bytes) == S(PACK));
    pack[12] ^= 1;
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(VERSION));
    pack[12] ^= 1;
    pack[n / 2] ^= 1;
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(PACK));
    pack[n / 2] ^= 1;
    options.sampler = "no such";
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(SAMPLER));
    options.sampler = NULL;
    options.steps = 1001;
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(OPTIONS));
    options.steps = 3;
    options.eta = 1.5f;
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(OPTIONS));
    options.eta = 0;
    CHECK(bytes == 0);
    CHECK(unfog_core_workspace(pack, n, (unfog_core_options *)(void *)(space + 1), &bytes) == S(ALIGNMENT));
    CHECK(unfog_core_workspace(pack, n, NULL, &bytes) == S(OK) && bytes > 0);
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(OK) && bytes > 0 && bytes < sizeof space);

    /* The workspace. */
    CHECK(unfog_core_init(NULL, pack, n, space, bytes, &options) == S(NULL));
    session = (void *)space;
    CHECK(unfog_core_init(&session, pack, n, NULL, bytes, &options) == S(NULL) && session == NULL);
    CHECK(unfog_core_init(&session, pack, n, space + 8, bytes, &options) == S(ALIGNMENT) && session == NULL);
    CHECK(unfog_core_init(&session, pack, n, space, 0, &options) == S(WORKSPACE) && session == NULL);
    CHECK(unfog_core_init(&session, pack, n, space, SIZE_MAX, &options) == S(WORKSPACE) && session == NULL);
    CHECK(unfog_core_init(&session, pack, n, pack + (n & ~(size_t)15) - 16, bytes, &options) == S(WORKSPACE));
    options.has_class = 1;
    CHECK(unfog_core_init(&session, pack, n, space, bytes, &options) == S(CLASS) && session == NULL);
    options.has_class = 0;
    CHECK(unfog_core_step((void *)space, NULL, NULL) == S(SESSION));

    /* What is not a session. */
    memset(other, 0, 64);
    CHECK(unfog_core_step(NULL, NULL, NULL) == S(NULL));
    CHECK(unfog_core_step((void *)(other + 1), NULL, NULL) == S(ALIGNMENT));
    CHECK(unfog_core_step((void *)other, NULL, NULL) == S(SESSION));
    CHECK(unfog_core_restart(NULL, 0) == S(NULL) && unfog_core_restart((void *)other, 0) == S(SESSION));
    CHECK(unfog_core_progress((void *)other, &step, &steps) == S(SESSION) && step == 9 && steps == 9);
    CHECK(unfog_core_picture((void *)other, &image) == S(SESSION));
    CHECK(unfog_core_used((void *)other, &used, &arena) == S(SESSION) && used == 0);

    /* A session, and how much of the memory it takes: not a byte more is touched, and not a byte less is enough. */
    memset(space, 0xa5, sizeof space);
    CHECK(unfog_core_init(&session, pack, n, space, bytes, &options) == S(OK) && session != NULL);
    CHECK(unfog_core_used(session, &used, &arena) == S(OK) && used == bytes && arena < used && arena > 0);
    CHECK(unfog_core_used(session, NULL, NULL) == S(OK));
    CHECK(unfog_core_picture(session, NULL) == S(NULL));
    CHECK(unfog_core_progress(session, &step, NULL) == S(OK) && step == 0 && steps == 9);
    CHECK(unfog_core_step(session, NULL, NULL) == S(RUNNING));
    CHECK(unfog_core_progress(session, &step, &steps) == S(OK) && step == 1 && steps == 3);
    CHECK(run(session) == S(OK) && unfog_core_step(session, NULL, NULL) == S(OK));
    CHECK(unfog_core_progress(session, &step, &steps) == S(OK) && step == 3 && steps == 3);
    CHECK(unfog_core_picture(session, &image) == S(OK));
    CHECK(image.channels == 1 && image.height == 16 && image.width == 16);
    for (size_t i = used; i < sizeof space; i++)
        if (space[i] != 0xa5) {
            CHECK(!"written behind the session");
            break;
        }
    float picture[256];
    memcpy(picture, image.values, sizeof picture);

    /* Moved, it is none. */
    memcpy(other, space, bytes);
    CHECK(unfog_core_step((void *)other, NULL, NULL) == S(SESSION));
    unfog_core_session *second = NULL;
    CHECK(unfog_core_init(&second, pack, n, other, used - 1, &options) == S(WORKSPACE) && second == NULL);
    CHECK(unfog_core_init(&second, pack, n, other, used, &options) == S(OK));
    CHECK(run(second) == S(OK) && unfog_core_picture(second, &again) == S(OK));
    CHECK(memcmp(again.values, picture, sizeof picture) == 0);

    /* Stopped between two nodes, and gone on with from the start. */
    CHECK(unfog_core_restart(second, 0) == S(OK));
    struct stop stop = {second, 5, n, S(OK), S(OK)};
    CHECK(unfog_core_step(second, stop_after, &stop) == S(STOPPED) && stop.after == -1);
    CHECK(stop.inside == S(BUSY) && stop.inside_init == S(BUSY));
    CHECK(unfog_core_step(second, NULL, NULL) == S(STOPPED));
    CHECK(unfog_core_restart(second, 0) == S(OK));
    CHECK(unfog_core_progress(second, &step, NULL) == S(OK) && step == 0);
    CHECK(run(second) == S(OK) && unfog_core_picture(second, &again) == S(OK));
    CHECK(memcmp(again.values, picture, sizeof picture) == 0);

    /* Another seed and another image are other pictures. */
    CHECK(unfog_core_restart(second, 1) == S(OK) && run(second) == S(OK));
    CHECK(unfog_core_picture(second, &again) == S(OK) && memcmp(again.values, picture, sizeof picture) != 0);
    options.image = 1;
    CHECK(unfog_core_init(&second, pack, n, other, bytes, &options) == S(OK) && run(second) == S(OK));
    CHECK(unfog_core_picture(second, &again) == S(OK) && memcmp(again.values, picture, sizeof picture) != 0);
    CHECK(memcmp(image.values, picture, sizeof picture) == 0);

    /* A sampler with levels and a history. */
    options.sampler = "unipc";
    CHECK(unfog_core_workspace(pack, n, &options, &bytes) == S(OK));
    CHECK(unfog_core_init(&second, pack, n, other, bytes, &options) == S(OK) && run(second) == S(OK));

    /* Written over, it is none. */
    memset(other, 0, 8);
    CHECK(unfog_core_step(second, NULL, NULL) == S(SESSION));
    return failures != 0;
}
