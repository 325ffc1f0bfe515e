/* A prolog: brings the GPUs of this node to a spec before a job, and keeps what undoes it.
 *
 *     prolog [-e] SPEC SAVED
 *
 * SPEC is a file of YAML or JSON. What leads back is written to SAVED, which epilog takes, before anything
 * is changed: whenever this is killed, an epilog undoes what was done and no more. Where SAVED is there
 * already, as when a job runs again, it stays: it leads back to where the first one began.
 *
 * It does not ask the environment where the driver and its own state are, since a scheduler's may be
 * another's; with -e it does. To try it on a simulated node:
 * GPUSHARE_SIM=8xH100-80GB GPUSHARE_STATE_DIR=/tmp/somewhere prolog -e SPEC SAVED
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <gpushare.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Says why, for people; a program decides by the status and by gpushare_error_outcome(). */
static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "prolog: %s: %s: %s\n", what, gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    if (gpushare_error_outcome(err) == GPUSHARE_OUTCOME_INDETERMINATE)
        fprintf(stderr, "prolog: run `gpushare recover` before this node takes jobs again\n");
    gpushare_error_free(err);
    return 1;
}

static int fail_at(const char *what, const char *path) {
    fprintf(stderr, "prolog: cannot %s %s: %s\n", what, path, strerror(errno));
    return 1;
}

/* A whole file; NULL where it cannot be read. */
static char *contents(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    char *text = (char *)malloc((1 << 20) + 1);
    int failed = !file || !text;

    /* What is longer than a spec may be is refused later. */
    *len = failed ? 0 : fread(text, 1, (1 << 20) + 1, file);
    if (failed || ferror(file)) {
        if (file) fclose(file);
        free(text);
        return NULL;
    }
    fclose(file);
    return text;
}

/* On the disk, or the file is not there after a crash. */
static int sync_directory_of(const char *path) {
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int failed = fd < 0 || fsync(fd);

    if (fd >= 0) close(fd);
    free(copy);
    return failed;
}

/* Writes a new file, whole or not at all. 0: it is written; 1: one is there, and stays; -1: it failed. */
static int save(const char *path, const char *text) {
    size_t len = strlen(path);
    char *temporary = (char *)malloc(len + sizeof ".XXXXXX");
    int fd, result = -1;
    FILE *file;

    if (!temporary) return -1;
    sprintf(temporary, "%s.XXXXXX", path);
    /* Nobody else's file, and readable by nobody else. */
    fd = mkstemp(temporary);
    file = fd < 0 ? NULL : fdopen(fd, "w");
    if (file) {
        int failed = fputs(text, file) == EOF || fflush(file) || fsync(fd);

        failed |= fclose(file) != 0;
        /* Unlike rename(), it replaces nothing. */
        if (!failed && !link(temporary, path)) result = 0;
        else if (!failed && errno == EEXIST) result = 1;
    } else if (fd >= 0) close(fd);
    if (fd >= 0) {
        int why = errno;

        unlink(temporary);
        errno = why;
    }
    free(temporary);
    return result < 0 || sync_directory_of(path) ? -1 : result;
}

/* Tells how it goes. Anything but 0 would stop the apply and roll back what was done. */
static int32_t progress(const gpushare_event *event, void *user) {
    (void)user;
    if (event->kind == GPUSHARE_EVENT_KIND_STEP)
        fprintf(stderr, "prolog: %u/%u %s\n", event->step, event->steps, event->text);
    return 0;
}

/* Saves, then applies. */
static int bring(gpushare_plan *plan, const char *path) {
    gpushare_apply_options options;
    gpushare_error *err = NULL;
    char *previous = NULL;
    int saved;

    if (gpushare_plan_previous_json(plan, &previous, &err)) return fail("previous", err);
    saved = save(path, previous);
    gpushare_string_free(previous);
    if (saved < 0) return fail_at("write", path);
    if (saved == 1) fprintf(stderr, "prolog: %s is there already, and is kept\n", path);

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_s = 30;   /* Another job's prolog may be at work on the same GPU. */
    options.allow_reset = 1;  /* Ampere changes its MIG mode in no other way. */
    /* Nobody is evicted: where somebody uses a GPU that the spec changes, this is BUSY, and says who. */
    if (gpushare_plan_apply(plan, &options, progress, NULL, &err)) {
        /* Nothing was changed, or it is as it was: there is no way to go back. */
        if (saved == 0 && gpushare_error_outcome(err) != GPUSHARE_OUTCOME_INDETERMINATE) unlink(path);
        return fail("apply", err);
    }
    printf("%s\n", gpushare_plan_is_noop(plan) ? "nothing to do" : "applied");
    return 0;
}

int main(int argc, char **argv) {
    gpushare_node *node = NULL;
    gpushare_plan *plan = NULL;
    gpushare_error *err = NULL;
    gpushare_node_options options;
    int ask = argc > 1 && !strcmp(argv[1], "-e"), failed;
    const char *path;
    char *spec;
    size_t len;

    if (argc != 3 + ask) {
        fprintf(stderr, "usage: prolog [-e] SPEC SAVED\n");
        return 1;
    }
    path = argv[1 + ask];
    spec = contents(path, &len);
    if (!spec) return fail_at("read", path);

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.ignore_environment = !ask;
    if (gpushare_node_open(&options, &node, &err)) failed = fail("open", err);
    else if (gpushare_node_plan(node, spec, len, &plan, &err)) failed = fail(path, err);
    else failed = bring(plan, argv[2 + ask]);
    free(spec);
    gpushare_plan_free(plan);
    gpushare_node_free(node);
    return failed;
}
