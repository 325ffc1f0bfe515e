/* A node's agent: picks a share for a container and says what its runtime is to put into it.
 *
 *     agent MEMORY_MIB [VISIBLE]
 *
 * Prints `env NAME=VALUE`, `unset NAME` and `device PATH MAJOR:MINOR`, then holds the share until its
 * standard input ends: a runtime's hook keeps that open as long as the container runs. VISIBLE is the
 * CUDA_VISIBLE_DEVICES within which it may choose.
 */
#include <gpushare.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what, gpushare_error *err) {
    /* The document says more than the message: who is in the way, what would fit. */
    char *json = gpushare_error_to_json(err);

    fprintf(stderr, "agent: %s: %s\n", what, json ? json : "out of memory");
    gpushare_string_free(json);
    gpushare_error_free(err);
    return 1;
}

static int print_device_nodes(const gpushare_lease *lease) {
    gpushare_device_node device;
    gpushare_error *err = NULL;
    size_t i;

    device.struct_size = sizeof device;
    for (i = 0; i < gpushare_lease_device_node_count(lease); i++) {
        if (gpushare_lease_device_node(lease, i, &device, &err)) return fail("device", err);
        if (device.missing) fprintf(stderr, "agent: %s is missing: %s\n", device.path, device.made_by);
        printf("device %s %" PRId32 ":%" PRId32 "\n", device.path, device.major_number,
               device.minor_number);
    }
    return 0;
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
    int told = 0, failed;

    if (argc < 2) {
        fprintf(stderr, "usage: agent MEMORY_MIB [VISIBLE]\n");
        return 1;
    }
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.min_memory_bytes = strtoull(argv[1], NULL, 10) << 20;
    request.visible = argc > 2 ? argv[2] : NULL;
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
    while (!failed && getchar() != EOF) continue;
    if (gpushare_lease_release(lease, &err)) failed = fail("release", err);
    gpushare_node_free(node);
    return failed;
}
