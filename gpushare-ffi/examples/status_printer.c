/* Prints the GPUs of this node, how each is shared, and who has its shares.
 *
 *     status_printer          a line for each
 *     status_printer --json   the whole document, schema gpushare.status/v1
 */
#include <gpushare.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "status_printer: %s: %s: %s\n", what,
            gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
    return 1;
}

static int print_json(const gpushare_node *node) {
    gpushare_error *err = NULL;
    char *json = NULL;

    if (gpushare_node_status_json(node, &json, &err)) return fail("status", err);
    puts(json);
    gpushare_string_free(json);
    return 0;
}

/* All of it is of one look at the GPUs; gpushare_node_refresh() would look again. */
static int print_lines(const gpushare_node *node) {
    gpushare_gpu_info gpu;
    gpushare_share_info share;
    gpushare_error *err = NULL;
    size_t gpus, shares, i, j;

    gpu.struct_size = sizeof gpu;
    share.struct_size = sizeof share;
    if (gpushare_node_gpu_count(node, &gpus, &err)) return fail("gpus", err);
    if (gpushare_node_share_count(node, &shares, &err)) return fail("shares", err);
    if (gpushare_node_is_simulated(node)) puts("SIMULATED");
    for (i = 0; i < gpus; i++) {
        if (gpushare_node_gpu_info(node, i, &gpu, &err)) return fail("gpu", err);
        printf("%" PRId32 " %s %s, %" PRIu64 " MiB, %" PRIu32 " SMs: %s%s\n", gpu.index, gpu.uuid,
               gpu.model, gpu.memory_bytes >> 20, gpu.sm_count, gpushare_mode_name(gpu.mode),
               gpu.cordoned ? ", cordoned" : "");
        for (j = 0; j < shares; j++) {
            if (gpushare_node_share_info(node, j, &share, &err)) return fail("share", err);
            if (share.gpu != i) continue;
            printf("    %s %s", share.id, share.profile[0] ? share.profile : "whole GPU");
            if (share.leased) printf(": leased by pid %" PRId32 "\n", share.holder_pid);
            else puts(": free");
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    gpushare_node *node = NULL;
    gpushare_error *err = NULL;
    int failed;

    if (gpushare_node_open(NULL, &node, &err)) return fail("open", err);
    failed = argc > 1 && !strcmp(argv[1], "--json") ? print_json(node) : print_lines(node);
    gpushare_node_free(node);
    return failed;
}
