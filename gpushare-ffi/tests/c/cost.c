/* What calls cost: the best of several rounds, since other programs only ever add to it. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <time.h>

static double now(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* Nanoseconds of a statement, the best of `rounds` rounds of `times` times. */
#define COST(name, rounds, times, limit, statement)                                 \
    do {                                                                            \
        double best = 1e18, start;                                                  \
        int round, i;                                                               \
        for (round = 0; round < (rounds); round++) {                                \
            start = now();                                                          \
            for (i = 0; i < (times); i++) {                                         \
                statement;                                                          \
            }                                                                       \
            start = (now() - start) / (times);                                      \
            if (start < best) best = start;                                         \
        }                                                                           \
        printf("%-24s %10.1f ns, at most %10.0f\n", name, best, (double)(limit));   \
        CHECK(best <= (limit));                                                     \
    } while (0)

int main(int argc, char **argv) {
    gpushare_node_options options;
    gpushare_node *node = NULL;
    gpushare_lease *lease = NULL;
    gpushare_error *err = NULL;
    gpushare_gpu_info gpu;
    gpushare_share_info share;
    const char *name, *value;
    size_t count;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = "8xH100-80GB";
    gpu.struct_size = sizeof gpu;
    share.struct_size = sizeof share;

    COST("node_open, in memory", 50, 1, 1e6,
         gpushare_node_open(&options, &node, &err); gpushare_node_free(node));
    options.state_dir = argc > 1 ? argv[1] : NULL;
    COST("node_open, in files", 50, 1, 1e6,
         gpushare_node_open(&options, &node, &err); gpushare_node_free(node));
    WORKS(gpushare_node_open(&options, &node, &err));
    WORKS(gpushare_node_gpu_count(node, &count, &err));
    COST("node_gpu_count", 20, 100000, 100, gpushare_node_gpu_count(node, &count, &err));
    COST("node_gpu_info", 20, 100000, 100, gpushare_node_gpu_info(node, i & 7, &gpu, &err));
    COST("node_share_info", 20, 100000, 100, gpushare_node_share_info(node, i & 7, &share, &err));
    WORKS(gpushare_lease_acquire(node, NULL, &lease, &err));
    COST("lease_env", 20, 100000, 100, gpushare_lease_env(lease, 0, &name, &value));
    WORKS(gpushare_lease_release(lease, &err));
    gpushare_node_free(node);
    return failures != 0;
}
