/* An epilog: undoes after a job what prolog did before it.
 *
 *     epilog SAVED
 *
 * SAVED is what prolog wrote. What is left of the job on the GPUs is ended. On success the file goes.
 */
#include <errno.h>
#include <gpushare.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "epilog: %s: %s: %s\n", what, gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
    return 1;
}

int main(int argc, char **argv) {
    static char spec[(1 << 20) + 1];
    gpushare_node *node = NULL;
    gpushare_plan *plan = NULL;
    gpushare_error *err = NULL;
    gpushare_apply_options options;
    size_t len;
    FILE *saved;
    int failed = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: epilog SAVED\n");
        return 1;
    }
    saved = fopen(argv[1], "rb");
    if (!saved) {
        fprintf(stderr, "epilog: cannot read %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    len = fread(spec, 1, sizeof spec, saved);
    fclose(saved);

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_s = 30;
    options.drain_s = 5;      /* The job is over: what is left of it may go by itself, */
    options.allow_evict = 1;  /* or is ended: SIGTERM, */
    options.grace_s = 10;     /* and ten seconds later SIGKILL. */
    options.allow_reset = 1;
    /* What was there before the job was accepted then; it is not for the epilog to refuse it. */
    options.allow_hazards = "hopper-partial-sm,hopper-unmeasured,bypass-possible,minimum-sm,small-limit";

    if (gpushare_node_open(NULL, &node, &err)) failed = fail("open", err);
    /* A prolog that was killed at work has left nothing to undo, but something to settle. */
    else if (gpushare_node_recover(node, NULL, &err)) failed = fail("recover", err);
    else if (gpushare_node_plan(node, spec, len, &plan, &err)) failed = fail(argv[1], err);
    else if (gpushare_plan_apply(plan, &options, NULL, NULL, &err)) failed = fail("apply", err);
    else {
        printf("%s\n", gpushare_plan_is_noop(plan) ? "nothing to undo" : "undone");
        remove(argv[1]);
    }
    gpushare_plan_free(plan);
    gpushare_node_free(node);
    return failed;
}
