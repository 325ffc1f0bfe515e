/* A node's agent: picks a share for a container, and starts the container's first process with it.
 *
 *     agent MEMORY_MIB [VISIBLE] [-- COMMAND [ARGUMENT]...]
 *
 * VISIBLE is the CUDA_VISIBLE_DEVICES within which it may choose. It prints what a runtime is to put into the
 * container: `env NAME=VALUE`, `unset NAME` and `device PATH MAJOR:MINOR`. COMMAND, a runtime's `run`,
 * gets a copy of the lease's descriptor in GPUSHARE_FD: the share is the container's as long as one
 * of its processes has that, whatever becomes of the agent. Without COMMAND the agent holds the share
 * until its standard input ends.
 */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gpushare.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what, gpushare_error *err) {
    /* The document says more than the message: who is in the way, what would fit. */
    char *json = gpushare_error_to_json(err);

    fprintf(stderr, "agent: %s: %s\n", what, json ? json : "out of memory");
    gpushare_string_free(json);
    gpushare_error_free(err);
    return 1;
}

/* MiB in bytes; 0 for what is no such number. */
static uint64_t mebibytes(const char *text) {
    unsigned long long number;
    char *end;

    errno = 0;
    /* strtoull() takes "-1" and " 1", too. */
    number = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
    if (!number || errno || *end || number > UINT64_MAX >> 20) return 0;
    return (uint64_t)number << 20;
}

/* A container without one of them would start, and find no GPU. */
static int print_device_nodes(const gpushare_lease *lease) {
    gpushare_device_node device;
    gpushare_error *err = NULL;
    size_t i;
    int failed = 0;

    device.struct_size = sizeof device;
    for (i = 0; i < gpushare_lease_device_node_count(lease); i++) {
        if (gpushare_lease_device_node(lease, i, &device, &err)) return fail("device", err);
        if (device.missing || device.major_number < 0 || device.minor_number < 0) {
            fprintf(stderr, "agent: %s is missing: %s\n", device.path, device.made_by);
            failed = 1;
        } else
            printf("device %s %" PRId32 ":%" PRId32 "\n", device.path, device.major_number,
                   device.minor_number);
    }
    return failed;
}

static void print_environment(const gpushare_lease *lease) {
    const char *name, *value;
    size_t i;

    for (i = 0; i < gpushare_lease_env_count(lease); i++) {
        if (gpushare_lease_env(lease, i, &name, &value)) continue;
        if (value) printf("env %s=%s\n", name, value);
        else printf("unset %s\n", name);
    }
}

/* Starts the container's process with the descriptor, and waits for it. */
static int start(const gpushare_lease *lease, char **command) {
    gpushare_error *err = NULL;
    char number[16];
    int32_t fd;
    int status;
    pid_t pid, ended;

    if (gpushare_lease_dup_fd(lease, 0, &fd, &err)) return fail("dup_fd", err);
    sprintf(number, "%" PRId32, fd);
    pid = fork();
    if (pid == 0) {
        /* Of this process alone: other containers' do not get it. */
        if (!fcntl(fd, F_SETFD, 0) && !setenv("GPUSHARE_FD", number, 1)) execvp(command[0], command);
        perror("agent: cannot start the container");
        _exit(127);
    }
    if (pid < 0) perror("agent: fork");
    close(fd);
    if (pid < 0) return 1;
    do ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    if (ended < 0) {
        perror("agent: waitpid");
        return 1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Says who is in the way, once. Anything but 0 would give up. */
static int32_t waiting(const gpushare_event *event, void *user) {
    int *told = (int *)user;

    if (!(*told)++) fprintf(stderr, "agent: %s\n", event->text);
    return 0;
}

int main(int argc, char **argv) {
    gpushare_node *node = NULL;
    gpushare_lease *lease = NULL;
    gpushare_error *err = NULL;
    gpushare_lease_request request;
    int told = 0, failed, next = 2;

    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    if (argc > 1) request.min_memory_bytes = mebibytes(argv[1]);
    if (next < argc && strcmp(argv[next], "--")) request.visible = argv[next++];
    if (!request.min_memory_bytes || (next < argc && (strcmp(argv[next], "--") || ++next == argc))) {
        fprintf(stderr, "usage: agent MEMORY_MIB [VISIBLE] [-- COMMAND...]\n");
        return 1;
    }
    request.timeout_s = 1;
    request.progress = waiting;
    request.progress_user = &told;

    if (gpushare_node_open(NULL, &node, &err)) return fail("open", err);
    if (gpushare_lease_acquire(node, &request, &lease, &err)) {
        gpushare_node_free(node);
        return fail("lease", err);
    }
    print_environment(lease);
    failed = print_device_nodes(lease);
    fflush(stdout);
    if (!failed && next < argc) failed = start(lease, argv + next);
    else while (!failed && getchar() != EOF) continue;
    if (gpushare_lease_release(lease, &err)) failed = fail("release", err);
    gpushare_node_free(node);
    return failed;
}
