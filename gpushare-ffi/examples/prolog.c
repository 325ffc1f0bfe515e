/* A prolog: brings the GPUs of this node to a spec before a job, and keeps what undoes it.
 *
 *     prolog SPEC SAVED
 *
 * SPEC is a file of YAML or JSON. What leads back is written to SAVED, which epilog takes. On a
 * simulated node: GPUSHARE_SIM=2xH100-80GB GPUSHARE_STATE_DIR=/tmp/somewhere prolog SPEC SAVED
 */
#include <errno.h>
#include <gpushare.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Says why, for people; a program decides by the status and by gpushare_error_outcome(). */
static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "prolog: %s: %s: %s\n", what, gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    if (gpushare_error_outcome(err) == GPUSHARE_OUTCOME_INDETERMINATE)
        fprintf(stderr, "prolog: run `gpushare recover` before this node takes jobs again\n");
    gpushare_error_free(err);
    return 1;
}

/* A whole file; NULL where it cannot be read. */
static char *contents(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    char *text = (char *)malloc((1 << 20) + 1);
    *len = 0;
    if (!file || !text) {
        if (file) fclose(file);
        free(text);
        return NULL;
    }
    *len = fread(text, 1, (1 << 20) + 1, file); /* What is longer than a spec may be is refused. */
    fclose(file);
    return text;
}

/* Tells how it goes. Anything but 0 would stop the apply and roll back what was done. */
static int32_t progress(const gpushare_event *event, void *user) {
    (void)user;
    if (event->kind == GPUSHARE_EVENT_KIND_STEP)
        fprintf(stderr, "prolog: %u/%u %s\n", event->step, event->steps, event->text);
    return 0;
}

int main(int argc, char **argv) {
    gpushare_node *node = NULL;
    gpushare_plan *plan = NULL;
    gpushare_error *err = NULL;
    gpushare_apply_options options;
    char *spec, *previous = NULL;
    size_t len;
    FILE *saved;
    int failed = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: prolog SPEC SAVED\n");
        return 1;
    }
    spec = contents(argv[1], &len);
    if (!spec) {
        fprintf(stderr, "prolog: cannot read %s: %s\n", argv[1], strerror(errno));
        return 1;
    }

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_s = 30;   /* Another job's prolog may be at work on the same GPU. */
    options.allow_reset = 1;  /* Ampere changes its MIG mode in no other way. */

    /* Nobody is evicted: where somebody uses a GPU that the spec changes, this is BUSY, and says who. */
    if (gpushare_node_open(NULL, &node, &err)) failed = fail("open", err);
    else if (gpushare_node_plan(node, spec, len, &plan, &err)) failed = fail(argv[1], err);
    else if (gpushare_plan_apply(plan, &options, progress, NULL, &err)) failed = fail("apply", err);
    else if (gpushare_plan_previous_json(plan, &previous, &err)) failed = fail("previous", err);
    free(spec);

    if (!failed) {
        saved = fopen(argv[2], "wb");
        failed = !saved || fputs(previous, saved) == EOF;
        if (saved && fclose(saved)) failed = 1;
        if (failed) fprintf(stderr, "prolog: cannot write %s: %s\n", argv[2], strerror(errno));
        else printf("%s\n", gpushare_plan_is_noop(plan) ? "nothing to do" : "applied");
    }
    gpushare_string_free(previous);
    gpushare_plan_free(plan);
    gpushare_node_free(node);
    return failed;
}
