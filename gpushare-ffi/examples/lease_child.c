/* Runs a command with a share of a GPU of its own.
 *
 *     lease_child gpu=SELECTOR|mig=PROFILE|share=ID|any COMMAND [ARGUMENT]...
 *
 * The command inherits the lease's descriptors: it keeps the share when this process is killed, and so
 * do its own children, until the last of them is gone.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <gpushare.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "lease_child: %s: %s: %s\n", what,
            gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
    return 125;
}

/* In the child: reading from a lease works there. Only this process's environment is changed. */
static int become_tenant(const gpushare_lease *lease) {
    const char *name, *value;
    size_t i;

    for (i = 0; i < gpushare_lease_env_count(lease); i++) {
        if (gpushare_lease_env(lease, i, &name, &value)) return -1;
        /* What an outer environment says of MPS must go, or it would count. */
        if (value ? setenv(name, value, 1) : unsetenv(name)) return -1;
    }
    return 0;
}

int main(int argc, char **argv) {
    gpushare_node *node = NULL;
    gpushare_lease *lease = NULL;
    gpushare_error *err = NULL;
    gpushare_lease_request request;
    gpushare_lease_share share;
    int32_t fd;
    int status, result = 125;
    pid_t child;

    if (argc < 3) {
        fprintf(stderr, "usage: lease_child gpu=SELECTOR|mig=PROFILE|share=ID|any COMMAND...\n");
        return 125;
    }
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    if (!strncmp(argv[1], "gpu=", 4)) request.gpu = argv[1] + 4;
    if (!strncmp(argv[1], "mig=", 4)) request.mig_profile = argv[1] + 4;
    if (!strncmp(argv[1], "share=", 6)) request.share = argv[1] + 6;
    request.timeout_s = 5;
    /* The library reads no CUDA_VISIBLE_DEVICES. What hides GPUs from us hides them from the command. */
    request.visible = getenv("CUDA_VISIBLE_DEVICES");

    if (gpushare_node_open(NULL, &node, &err)) return fail("open", err);
    if (gpushare_lease_acquire(node, &request, &lease, &err)) {
        gpushare_node_free(node);
        return fail(argv[1], err);
    }
    memset(&share, 0, sizeof share);
    share.struct_size = sizeof share;
    if (gpushare_lease_info(lease, 0, &share, &err)) result = fail("info", err);
    /* Asking for the descriptor is what hands the lease on to children. */
    else if (gpushare_lease_fd(lease, 0, &fd, &err)) result = fail("fd", err);
    else {
        fprintf(stderr, "lease_child: %s: %s, %s\n", gpushare_lease_name(lease), share.id,
                gpushare_mode_name(share.mode));
        child = fork();
        if (child == 0) {
            if (become_tenant(lease) == 0) execvp(argv[2], argv + 2);
            fprintf(stderr, "lease_child: cannot run %s: %s\n", argv[2], strerror(errno));
            _exit(errno == ENOENT ? 127 : 126);
        }
        while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
        if (child > 0) result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (gpushare_lease_release(lease, &err)) result = fail("release", err);
    gpushare_node_free(node);
    return result;
}
