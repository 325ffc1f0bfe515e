/* An epilog: undoes after a job what prolog did before it.
 *
 *     epilog [-e] SAVED
 *
 * SAVED is what prolog wrote, before it changed anything: where it is not there, nothing was changed. What
 * is left of the job on the GPUs is ended, and so is whoever else is in the way: it is for jobs that have
 * whole nodes. On success the file goes. -e is as of prolog.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <gpushare.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "epilog: %s: %s: %s\n", what, gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
    return 1;
}

/* Opens a file that prolog wrote: ours, and no link to another. */
static FILE *opened(const char *path) {
    struct stat there;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) return NULL;
    if (!fstat(fd, &there) && S_ISREG(there.st_mode) && there.st_uid == geteuid()) return fdopen(fd, "rb");
    close(fd);
    errno = EACCES;
    return NULL;
}

/* Brings the GPUs to what was saved. */
static int undo(gpushare_node *node, const char *path, const char *spec, size_t len) {
    gpushare_plan *plan = NULL;
    gpushare_error *err = NULL;
    gpushare_apply_options options;
    int failed = 0;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_s = 30;
    options.drain_s = 5;      /* The job is over: what is left of it may go by itself, */
    options.allow_evict = 1;  /* or is ended: SIGTERM, */
    options.grace_s = 10;     /* and ten seconds later SIGKILL. */
    options.allow_reset = 1;
    /* What was there before the job was accepted then; it is not for the epilog to refuse it. */
    options.allow_hazards = "hopper-partial-sm,hopper-unmeasured,bypass-possible,minimum-sm,small-limit";

    if (gpushare_node_plan(node, spec, len, &plan, &err)) failed = fail(path, err);
    else if (gpushare_plan_apply(plan, &options, NULL, NULL, &err)) failed = fail("apply", err);
    else {
        printf("%s\n", gpushare_plan_is_noop(plan) ? "nothing to undo" : "undone");
        /* Or the next prolog of that name would keep it. */
        if (remove(path)) {
            fprintf(stderr, "epilog: cannot remove %s: %s\n", path, strerror(errno));
            failed = 1;
        }
    }
    gpushare_plan_free(plan);
    return failed;
}

int main(int argc, char **argv) {
    static char spec[(1 << 20) + 1];
    gpushare_node *node = NULL;
    gpushare_error *err = NULL;
    gpushare_node_options options;
    int ask = argc > 1 && !strcmp(argv[1], "-e"), failed = 0;
    size_t len = 0;
    const char *path;
    FILE *saved;

    if (argc != 2 + ask) {
        fprintf(stderr, "usage: epilog [-e] SAVED\n");
        return 1;
    }
    path = argv[1 + ask];
    saved = opened(path);
    if (saved) {
        len = fread(spec, 1, sizeof spec, saved);
        failed = ferror(saved);
        fclose(saved);
    } else failed = errno != ENOENT;
    if (failed) {
        fprintf(stderr, "epilog: cannot read %s: %s\n", path, strerror(errno));
        return 1;
    }

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.ignore_environment = !ask;
    if (gpushare_node_open(&options, &node, &err)) failed = fail("open", err);
    /* A prolog that was killed at work has left something to settle. */
    else if (gpushare_node_recover(node, NULL, &err)) failed = fail("recover", err);
    else if (saved) failed = undo(node, path, spec, len);
    else printf("nothing was saved, and nothing is undone\n");
    gpushare_node_free(node);
    return failed;
}
