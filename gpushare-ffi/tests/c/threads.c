/* Eight threads, one node, one plan:
 *
 *     threads SECONDS
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <time.h>

static const char SPEC[] = "version: gpushare/v1\ngpus: [{select: all, mode: time_sliced}]\n";

static gpushare_node *node;
static gpushare_plan *shared;
static time_t end;

static void *work(void *argument) {
    unsigned turn = (unsigned)(size_t)argument;
    unsigned long *done = (unsigned long *)calloc(1, sizeof *done);

    while (time(NULL) < end) {
        gpushare_error *err = NULL;
        gpushare_gpu_info gpu;
        size_t count = 0, i;
        char *json = NULL;

        gpu.struct_size = sizeof gpu;
        switch (turn++ % 8) {
        case 0:
            WORKS(gpushare_node_refresh(node, &err));
            break;
        case 1: {
            gpushare_plan *plan = NULL;
            WORKS(gpushare_node_plan(node, SPEC, sizeof SPEC - 1, &plan, &err));
            gpushare_plan_free(plan);
            break;
        }
        case 2: {
            gpushare_apply_options options;
            int32_t status;
            memset(&options, 0, sizeof options);
            options.struct_size = sizeof options;
            options.timeout_s = -1;
            status = gpushare_plan_apply(shared, &options, NULL, NULL, &err);
            CHECK(!status);
            WORKS(gpushare_plan_report_json(shared, &json, &err));
            gpushare_string_free(json);
            break;
        }
        case 3: {
            gpushare_lease *lease = NULL;
            int32_t status = gpushare_lease_acquire(node, NULL, &lease, &err);
            if (status && status != GPUSHARE_STATUS_BUSY) {
                fprintf(stderr, "lease: %s: %s\n", gpushare_status_name(status),
                        gpushare_error_message(err));
                failures++;
            }
            CHECK(!status == !!lease);
            gpushare_error_free(err);
            WORKS(gpushare_lease_release(lease, &err));
            break;
        }
        case 4:
            WORKS(gpushare_node_status_json(node, &json, &err));
            gpushare_string_free(json);
            break;
        case 5:
            WORKS(gpushare_plan_to_json(shared, &json, &err));
            gpushare_string_free(json);
            CHECK(strlen(gpushare_plan_digest(shared)) == 64);
            break;
        default:
            for (i = 0; i < 100; i++) {
                WORKS(gpushare_node_gpu_count(node, &count, &err));
                CHECK(count == 4);
                WORKS(gpushare_node_gpu_info(node, i % 4, &gpu, &err));
                CHECK(!strncmp(gpu.uuid, "GPU-", 4));
            }
        }
        ++*done;
    }
    return done;
}

int main(int argc, char **argv) {
    pthread_t threads[8];
    gpushare_node_options options;
    void *done;
    unsigned long total = 0;
    size_t i;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = "4xH100-80GB";
    WORKS(gpushare_node_open(&options, &node, &err));
    /* Once by one: afterwards there are the shares that the spec wants, and applies change nothing. */
    WORKS(gpushare_node_plan(node, SPEC, sizeof SPEC - 1, &shared, &err));
    WORKS(gpushare_plan_apply(shared, NULL, NULL, NULL, &err));
    gpushare_plan_free(shared);
    WORKS(gpushare_node_plan(node, SPEC, sizeof SPEC - 1, &shared, &err));
    CHECK(gpushare_plan_is_noop(shared));
    end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1);
    for (i = 0; i < 8; i++) CHECK(!pthread_create(&threads[i], NULL, work, (void *)i));
    for (i = 0; i < 8; i++) {
        CHECK(!pthread_join(threads[i], &done));
        total += *(unsigned long *)done;
        free(done);
    }
    gpushare_node_free(node);
    gpushare_plan_free(shared);
    printf("%lu calls\n", total);
    return failures != 0;
}
