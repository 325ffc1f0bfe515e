/* What no program should do: none of it may crash, leak, or be taken for something else.
 *
 *     abuse            everything but panics
 *     abuse panic      with GPUSHARE_TEST_PANIC set to a function that is called here
 *     abuse leak       loses an error, which whoever watches must find
 *     abuse namespaces a child with its parent's pid; 77 where none can be had
 */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static const char MIG[] =
    "{\"version\": \"gpushare/v1\", \"gpus\": [{\"select\": 0, \"mode\": \"mig\", "
    "\"mig\": {\"instances\": {\"3g.40gb\": 1, \"1g.10gb\": 2}}}]}";
static const char EXCLUSIVE[] =
    "version: gpushare/v1\ngpus: [{select: all, mode: exclusive}]\n";
static const char HAZARD[] =
    "version: gpushare/v1\ngpus: [{select: 1, mode: mps, mps: {thread_percentage: 33}}]\n";

static gpushare_node *simulated(const char *fleet) {
    gpushare_node_options options;
    gpushare_node *node = NULL;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = fleet;
    WORKS(gpushare_node_open(&options, &node, &err));
    return node;
}

static gpushare_plan *planned(gpushare_node *node, const char *spec) {
    gpushare_plan *plan = NULL;

    WORKS(gpushare_node_plan(node, spec, strlen(spec), &plan, &err));
    return plan;
}

static gpushare_lease *leased(gpushare_node *node, const char *gpu) {
    gpushare_lease_request request;
    gpushare_lease *lease = NULL;

    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.gpu = gpu;
    WORKS(gpushare_lease_acquire(node, &request, &lease, &err));
    return lease;
}

/* NULL for every pointer, one after the other. Outputs are emptied all the same. */
static void nulls(gpushare_node *node) {
    gpushare_gpu_info gpu;
    gpushare_share_info share;
    gpushare_lease_share lease_share;
    gpushare_device_node device;
    gpushare_mps_attachment attachment;
    gpushare_plan *plan = (gpushare_plan *)&failures;
    gpushare_lease *lease = (gpushare_lease *)&failures;
    char *text = (char *)&failures;
    const char *name = (const char *)&failures, *value = name;
    size_t count = 7;
    int32_t fd = 7;
    uint32_t verdict = 7;

    gpu.struct_size = sizeof gpu;
    share.struct_size = sizeof share;
    lease_share.struct_size = sizeof lease_share;
    device.struct_size = sizeof device;
    attachment.struct_size = sizeof attachment;

    FAILS(gpushare_node_open(NULL, NULL, &err), INVALID);
    FAILS(gpushare_node_refresh(NULL, &err), INVALID);
    FAILS(gpushare_node_gpu_count(NULL, &count, &err), INVALID);
    CHECK(count == 0);
    FAILS(gpushare_node_gpu_count(node, NULL, &err), INVALID);
    gpu.sm_count = 7;
    FAILS(gpushare_node_gpu_info(NULL, 0, &gpu, &err), INVALID);
    CHECK(gpu.sm_count == 0 && gpu.struct_size == sizeof gpu);
    FAILS(gpushare_node_gpu_info(node, 0, NULL, &err), INVALID);
    FAILS(gpushare_node_gpu_info(node, SIZE_MAX, &gpu, &err), INVALID);
    count = 7;
    FAILS(gpushare_node_share_count(NULL, &count, &err), INVALID);
    CHECK(count == 0);
    FAILS(gpushare_node_share_count(node, NULL, &err), INVALID);
    FAILS(gpushare_node_share_info(NULL, 0, &share, &err), INVALID);
    FAILS(gpushare_node_share_info(node, 0, NULL, &err), INVALID);
    FAILS(gpushare_node_share_info(node, SIZE_MAX, &share, &err), INVALID);
    FAILS(gpushare_node_status_json(NULL, &text, &err), INVALID);
    CHECK(!text);
    FAILS(gpushare_node_status_json(node, NULL, &err), INVALID);
    FAILS(gpushare_node_leases_json(NULL, &text, &err), INVALID);
    FAILS(gpushare_node_leases_json(node, NULL, &err), INVALID);
    FAILS(gpushare_node_cordon(NULL, "0", "why", &err), INVALID);
    FAILS(gpushare_node_cordon(node, NULL, "why", &err), INVALID);
    FAILS(gpushare_node_cordon(node, "0", NULL, &err), INVALID);
    FAILS(gpushare_node_uncordon(NULL, "0", &err), INVALID);
    FAILS(gpushare_node_uncordon(node, NULL, &err), INVALID);
    text = (char *)&failures;
    FAILS(gpushare_node_recover(NULL, &text, &err), INVALID);
    CHECK(!text);
    FAILS(gpushare_node_plan(NULL, MIG, sizeof MIG - 1, &plan, &err), INVALID);
    CHECK(!plan);
    FAILS(gpushare_node_plan(node, NULL, 0, &plan, &err), INVALID);
    FAILS(gpushare_node_plan(node, NULL, 5, &plan, &err), INVALID);
    FAILS(gpushare_node_plan(node, MIG, sizeof MIG - 1, NULL, &err), INVALID);
    FAILS(gpushare_plan_apply(NULL, NULL, NULL, NULL, &err), INVALID);
    FAILS(gpushare_plan_to_json(NULL, &text, &err), INVALID);
    FAILS(gpushare_plan_report_json(NULL, &text, &err), INVALID);
    FAILS(gpushare_plan_previous_json(NULL, &text, &err), INVALID);
    CHECK(!gpushare_plan_is_noop(NULL) && !gpushare_plan_step_count(NULL));
    CHECK(!gpushare_plan_digest(NULL));
    FAILS(gpushare_resolve_visible_devices(NULL, NULL, &text, &err), INVALID);
    FAILS(gpushare_resolve_visible_devices(node, NULL, NULL, &err), INVALID);
    FAILS(gpushare_node_doctor_json(NULL, &text, &err), INVALID);
    FAILS(gpushare_node_doctor_json(node, NULL, &err), INVALID);
    FAILS(gpushare_node_advise_json(NULL, "{\"count\":2}", &text, &err), INVALID);
    FAILS(gpushare_node_export_json(NULL, "gres", NULL, &text, &err), INVALID);
    FAILS(gpushare_node_export_json(node, NULL, NULL, &text, &err), INVALID);
    FAILS(gpushare_node_export_json(node, "gres", NULL, NULL, &err), INVALID);
    FAILS(gpushare_node_export_json(node, "helm", NULL, &text, &err), INVALID);
    FAILS(gpushare_node_export_json(node, "gres", "", &text, &err), INVALID);
    FAILS(gpushare_node_export_json(node, "gres", "{\"image\":\"a\"}", &text, &err), INVALID);
    FAILS(gpushare_node_export_json(node, "compose", "{\"imgae\":\"a\"}", &text, &err), INVALID);
    FAILS(gpushare_node_advise_json(node, NULL, &text, &err), INVALID);
    FAILS(gpushare_node_advise_json(node, "{\"count\":2}", NULL, &err), INVALID);
    FAILS(gpushare_node_discard(NULL, "x", &text, &err), INVALID);
    FAILS(gpushare_node_discard(node, NULL, &text, &err), INVALID);
    FAILS(gpushare_mps_verify(NULL, 1, &attachment, &err), INVALID);
    FAILS(gpushare_mps_verify(node, 1, NULL, &err), INVALID);
    FAILS(gpushare_mps_verify_json(NULL, 1, &text, &err), INVALID);
    FAILS(gpushare_mps_verify_json(node, 1, NULL, &err), INVALID);
    FAILS(gpushare_mps_split(NULL, "0", 2, &text, &err), INVALID);
    FAILS(gpushare_mps_split(node, "0", 2, NULL, &err), INVALID);
    WORKS(gpushare_mps_split(node, NULL, 2, &text, &err)); /* two GPUs of a kind: one answer */
    gpushare_string_free(text);
    FAILS(gpushare_lease_acquire(NULL, NULL, &lease, &err), INVALID);
    CHECK(!lease);
    FAILS(gpushare_lease_acquire(node, NULL, NULL, &err), INVALID);
    CHECK(!gpushare_lease_name(NULL) && !gpushare_lease_share_count(NULL));
    CHECK(!gpushare_lease_env_count(NULL) && !gpushare_lease_device_node_count(NULL));
    FAILS(gpushare_lease_info(NULL, 0, &lease_share, &err), INVALID);
    FAILS(gpushare_lease_device_node(NULL, 0, &device, &err), INVALID);
    CHECK(gpushare_lease_env(NULL, 0, &name, &value) == INVALID && !name && !value);
    FAILS(gpushare_lease_fd(NULL, 0, &fd, &err), INVALID);
    CHECK(fd == -1);
    fd = 7;
    FAILS(gpushare_lease_dup_fd(NULL, 0, &fd, &err), INVALID);
    CHECK(fd == -1);
    FAILS(gpushare_lease_to_json(NULL, &text, &err), INVALID);
    FAILS(gpushare_lease_check(NULL, &err), INVALID);
    FAILS(gpushare_lease_verify(NULL, 1, &verdict, NULL, &err), INVALID);
    CHECK(verdict == GPUSHARE_VERDICT_UNKNOWN);
    WORKS(gpushare_lease_release(NULL, &err));

    CHECK(gpushare_error_code(NULL) == 0 && !gpushare_error_message(NULL));
    CHECK(gpushare_error_outcome(NULL) == 0 && gpushare_error_nvml_return(NULL) == -1);
    CHECK(gpushare_error_os_error(NULL) == 0);
    CHECK(!gpushare_error_to_json(NULL));
    CHECK(!gpushare_node_is_simulated(NULL));
    gpushare_node_free(NULL);
    gpushare_plan_free(NULL);
    gpushare_error_free(NULL);
    gpushare_string_free(NULL);

    /* Nobody wants the error. */
    CHECK(gpushare_node_refresh(NULL, NULL) == INVALID);
    CHECK(gpushare_plan_apply(NULL, NULL, NULL, NULL, NULL) == INVALID);
}

/* A lease's getters past its end. */
static void past_the_end(gpushare_node *node) {
    gpushare_lease *lease = leased(node, "0");
    gpushare_lease_share share;
    gpushare_device_node device;
    const char *name, *value;
    int32_t fd;

    share.struct_size = sizeof share;
    device.struct_size = sizeof device;
    WORKS(gpushare_lease_info(lease, 0, &share, &err));
    CHECK(!strncmp(share.id, "GPU-", 4) && !strncmp(share.gpu, "GPU-", 4));
    FAILS(gpushare_lease_info(lease, 1, &share, &err), INVALID);
    CHECK(!share.id[0]);
    FAILS(gpushare_lease_device_node(lease, SIZE_MAX, &device, &err), INVALID);
    FAILS(gpushare_lease_fd(lease, 1, &fd, &err), INVALID);
    FAILS(gpushare_lease_fd(lease, 0, NULL, &err), INVALID);
    FAILS(gpushare_lease_dup_fd(lease, 1, &fd, &err), INVALID);
    CHECK(fd == -1);
    FAILS(gpushare_lease_dup_fd(lease, 0, NULL, &err), INVALID);
    CHECK(gpushare_lease_env(lease, SIZE_MAX, &name, &value) == INVALID);
    CHECK(gpushare_lease_env(lease, 0, NULL, &value) == INVALID);
    CHECK(gpushare_lease_env(lease, 0, &name, NULL) == INVALID);
    WORKS(gpushare_lease_check(lease, &err));
    WORKS(gpushare_lease_release(lease, &err));
}

/* Every size of every struct: what is too small is left alone, what is larger is emptied to its end. */
static void sizes(gpushare_node *node) {
    unsigned char *bytes = (unsigned char *)malloc(8192);
    gpushare_lease *lease;
    gpushare_node *other;
    gpushare_plan *plan = planned(node, EXCLUSIVE);
    uint32_t odd[] = {0, 1, 3, 4, 7, 8, 55, 4097, 65536, 0x7fffffff, 0x80000000u, 0xffffffffu};
    uint32_t size;
    size_t i, j;

    for (i = 0; i < sizeof odd / sizeof *odd; i++) {
        memset(bytes, 0, 8192);
        memcpy(bytes, &odd[i], 4);
        FAILS(gpushare_node_gpu_info(node, 0, (gpushare_gpu_info *)bytes, &err), INVALID);
        FAILS(gpushare_node_share_info(node, 0, (gpushare_share_info *)bytes, &err), INVALID);
        FAILS(gpushare_mps_verify(node, 1, (gpushare_mps_attachment *)bytes, &err), INVALID);
        FAILS(gpushare_plan_apply(plan, (gpushare_apply_options *)bytes, NULL, NULL, &err), INVALID);
        FAILS(gpushare_lease_acquire(node, (gpushare_lease_request *)bytes, &lease, &err), INVALID);
        for (j = 4; j < 8192; j++) CHECK(bytes[j] == 0);
    }
    for (size = sizeof(gpushare_gpu_info); size <= 4096; size += 61) {
        memset(bytes, 255, 8192);
        memcpy(bytes, &size, 4);
        WORKS(gpushare_node_gpu_info(node, 0, (gpushare_gpu_info *)bytes, &err));
        for (j = sizeof(gpushare_gpu_info); j < size; j++) CHECK(bytes[j] == 0);
        CHECK(bytes[size] == 255 && !memcmp(bytes, &size, 4));
    }
    for (size = sizeof(gpushare_lease_request); size <= 4096; size += 61) {
        memset(bytes, 0, 8192);
        memcpy(bytes, &size, 4);
        bytes[size] = 255;
        WORKS(gpushare_lease_acquire(node, (gpushare_lease_request *)bytes, &lease, &err));
        WORKS(gpushare_lease_release(lease, &err));
        if (size > sizeof(gpushare_lease_request)) {
            bytes[size - 1] = 1;
            FAILS(gpushare_lease_acquire(node, (gpushare_lease_request *)bytes, &lease, &err), INVALID);
        }
    }
    gpushare_plan_free(plan);
    /* An older program's end anywhere, in the middle of a field too. */
    other = simulated("1xT4");
    plan = planned(other, EXCLUSIVE);
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    plan = planned(other, EXCLUSIVE);
    for (size = 56; size <= 4096; size += size < sizeof(gpushare_apply_options) + 8 ? 1 : 61) {
        memset(bytes, 0, 8192);
        memcpy(bytes, &size, 4);
        bytes[size] = 255;
        WORKS(gpushare_plan_apply(plan, (gpushare_apply_options *)bytes, NULL, NULL, &err));
        if (size > sizeof(gpushare_apply_options)) {
            bytes[size - 1] = 1;
            FAILS(gpushare_plan_apply(plan, (gpushare_apply_options *)bytes, NULL, NULL, &err), INVALID);
        }
    }
    gpushare_plan_free(plan);
    gpushare_node_free(other);
    free(bytes);
}

/* Text that is none, numbers that are none. */
static void values(gpushare_node *node) {
    static const char BAD[] = "a\xff\xfe";
    gpushare_node_options options;
    gpushare_apply_options apply;
    gpushare_lease_request request;
    gpushare_plan *plan = planned(node, EXCLUSIVE);
    gpushare_lease *lease;
    gpushare_node *other;
    char *text;
    double bad[] = {NAN, -1.0, 101.0, INFINITY, -INFINITY};
    size_t i;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = BAD;
    FAILS(gpushare_node_open(&options, &other, &err), INVALID);
    options.sim = "9999999999xH100";
    FAILS(gpushare_node_open(&options, &other, &err), INVALID);
    options.sim = NULL;
    options.nvml_path = "\xff";
    FAILS(gpushare_node_open(&options, &other, &err), INVALID); /* no absolute path */
    options.nvml_path = NULL;
    options.sim = "T4";
    options.log_level = 6;
    FAILS(gpushare_node_open(&options, &other, &err), INVALID);
    options.log_level = 0;
    options.reserved = 1;
    FAILS(gpushare_node_open(&options, &other, &err), INVALID);
    options.reserved = 0;
    /* The environment counts, unless it is to be ignored. */
    options.sim = NULL;
    setenv("GPUSHARE_SIM", "no such card", 1);
    FAILS(gpushare_node_open(&options, &other, &err), INVALID);
    setenv("GPUSHARE_SIM", "1xT4", 1);
    WORKS(gpushare_node_open(&options, &other, &err));
    CHECK(gpushare_node_is_simulated(other));
    gpushare_node_free(other);
    options.ignore_environment = 1;
    WORKS(gpushare_node_open(&options, &other, &err)); /* opens no driver yet */
    CHECK(!gpushare_node_is_simulated(other));
    gpushare_node_free(other);
    unsetenv("GPUSHARE_SIM");

    FAILS(gpushare_node_cordon(node, BAD, "why", &err), INVALID);
    FAILS(gpushare_node_cordon(node, "0", BAD, &err), INVALID);
    FAILS(gpushare_node_cordon(node, "99", "why", &err), GPUSHARE_STATUS_NOT_FOUND);
    FAILS(gpushare_resolve_visible_devices(node, BAD, &text, &err), INVALID);
    FAILS(gpushare_node_advise_json(node, BAD, &text, &err), INVALID);
    FAILS(gpushare_node_advise_json(node, "{\"count\":0}", &text, &err), INVALID);
    FAILS(gpushare_node_advise_json(node, "{\"count\":1,\"memory\":1}", &text, &err), INVALID);
    FAILS(gpushare_node_discard(node, "../../etc/passwd", &text, &err), GPUSHARE_STATUS_NOT_FOUND);
    FAILS(gpushare_node_discard(node, BAD, &text, &err), INVALID);
    FAILS(gpushare_mps_split(node, BAD, 2, &text, &err), INVALID);
    FAILS(gpushare_mps_split(node, "1", 0, &text, &err), INVALID);
    FAILS(gpushare_mps_verify_json(node, 0, &text, &err), INVALID);
    FAILS(gpushare_mps_verify_json(node, -1, &text, &err), INVALID);
    FAILS(gpushare_mps_verify_json(node, 0x7fffffff, &text, &err), GPUSHARE_STATUS_NOT_FOUND);

    memset(&apply, 0, sizeof apply);
    apply.struct_size = sizeof apply;
    apply.allow_hazards = "no-such";
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    apply.allow_hazards = BAD;
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    apply.allow_hazards = NULL;
    apply.expect_digest = "0000";
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), GPUSHARE_STATUS_STALE);
    apply.expect_digest = NULL;
    apply.reserved = 1;
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    apply.reserved = 0;
    /* A path need not be text, but it must be absolute, and a specification is text. */
    apply.cdi = BAD;
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    apply.cdi_program = "/a\xff\xfe";
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), GPUSHARE_STATUS_UNSUPPORTED); /* in memory */
    apply.cdi = apply.cdi_program = NULL;
    apply.reserved_2 = 1;
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    apply.reserved_2 = 0;
    apply.timeout_s = NAN;
    FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    apply.timeout_s = 0;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (bad[i] == 101.0) continue;
        apply.drain_s = bad[i];
        FAILS(gpushare_plan_apply(plan, &apply, NULL, NULL, &err), INVALID);
    }
    gpushare_plan_free(plan);

    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.gpu = request.mig_profile = "0";
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    request.mig_profile = NULL;
    request.gpu = BAD;
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    request.gpu = NULL;
    request.share = "GPU-0::-1";
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    request.share = NULL;
    request.create = 1;
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    request.create = 0;
    request.for_pid = -5;
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    request.for_pid = 0;
    request.pinned_memory_bytes = 1;
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    request.pinned_memory_bytes = 0;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        request.thread_percentage = bad[i];
        FAILS(gpushare_lease_acquire(node, &request, &lease, &err), INVALID);
    }
    request.thread_percentage = 0;
    request.count = 0xffffffffu;
    FAILS(gpushare_lease_acquire(node, &request, &lease, &err), GPUSHARE_STATUS_INSUFFICIENT);
}

static uint32_t seed = 12345;

static uint32_t random_number(void) {
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

/* Specs that are too long, that are cut, and that are noise. */
static void specs(gpushare_node *node) {
    gpushare_plan *plan;
    gpushare_error *err = NULL;
    char noise[sizeof MIG];
    char *large = (char *)malloc(2 << 20);
    size_t len, i, changes;
    int32_t status;

    memset(large, ' ', 2 << 20);
    FAILS(gpushare_node_plan(node, large, 2 << 20, &plan, &err), INVALID);
    FAILS(gpushare_node_plan(node, MIG, SIZE_MAX, &plan, &err), INVALID);
    FAILS(gpushare_node_plan(node, MIG, (size_t)1 << 62, &plan, &err), INVALID);
    memset(large, '[', 1 << 20);
    FAILS(gpushare_node_plan(node, large, 1 << 20, &plan, &err), INVALID);
    memset(large, 0, 1 << 20);
    FAILS(gpushare_node_plan(node, large, 1 << 20, &plan, &err), INVALID);
    free(large);
    for (len = 0; len < sizeof MIG - 1; len++)
        FAILS(gpushare_node_plan(node, MIG, len, &plan, &err), INVALID);
    for (i = 0; i < 2000; i++) {
        memcpy(noise, MIG, sizeof MIG);
        for (changes = 1 + random_number() % 4; changes; changes--)
            noise[random_number() % (sizeof MIG - 1)] = (char)random_number();
        status = gpushare_node_plan(node, noise, sizeof MIG - 1, &plan, &err);
        CHECK(status == gpushare_error_code(err) && !status == !err && !status == !!plan);
        CHECK(status != GPUSHARE_STATUS_PANIC);
        gpushare_error_free(err);
        gpushare_plan_free(plan);
    }
}

/* Plans and leases outlive their node, and each other. */
static void orders(void) {
    int order;

    for (order = 0; order < 3; order++) {
        gpushare_node *node = simulated("2xH100-80GB");
        gpushare_plan *plan = planned(node, MIG);
        gpushare_lease *lease = leased(node, "1");
        char *json = NULL;

        if (order == 0) gpushare_node_free(node);
        if (order == 1) WORKS(gpushare_lease_release(lease, &err));
        WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
        WORKS(gpushare_plan_report_json(plan, &json, &err));
        CHECK(json && strstr(json, "\"applied\""));
        gpushare_string_free(json);
        if (order == 0) WORKS(gpushare_lease_check(lease, &err));
        gpushare_plan_free(plan);
        if (order == 2) gpushare_node_free(node);
        if (order != 1) WORKS(gpushare_lease_release(lease, &err));
        if (order == 1) gpushare_node_free(node);
    }
}

static int32_t stop_at_second_step(const gpushare_event *event, void *user) {
    int *events = (int *)user;

    CHECK(event->struct_size >= sizeof(gpushare_event) && event->text && event->text[0]);
    ++*events;
    return event->kind == GPUSHARE_EVENT_KIND_STEP && event->step == 2;
}

static void hear(uint32_t level, const char *target, const char *message, void *user) {
    CHECK(level >= GPUSHARE_LOG_LEVEL_ERROR && level <= GPUSHARE_LOG_LEVEL_TRACE);
    if (!strcmp(target, "gpushare::audit") && message[0]) ++*(int *)user;
}

/* What was refused says why; what was stopped is undone; what happened is logged. */
static void stories(void) {
    gpushare_node_options options;
    gpushare_node *node = NULL;
    gpushare_plan *plan;
    gpushare_error *err = NULL;
    gpushare_gpu_info gpu;
    char *json, *spec = NULL;
    int events = 0, heard = 0;
    int32_t status;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = "2xH100-80GB";
    options.log = hear;
    options.log_user = &heard;
    WORKS(gpushare_node_open(&options, &node, &err));
    gpu.struct_size = sizeof gpu;
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
    CHECK(gpu.mode == GPUSHARE_MODE_TIME_SLICED && gpu.sm_count && gpu.memory_bytes);
    CHECK(!strcmp(gpu.model, "H100-80GB") || strstr(gpu.model, "H100"));

    plan = planned(node, MIG);
    CHECK(!gpushare_plan_is_noop(plan) && gpushare_plan_step_count(plan) > 2);
    CHECK(strlen(gpushare_plan_digest(plan)) == 64);
    FAILS(gpushare_plan_report_json(plan, &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    WORKS(gpushare_plan_previous_json(plan, &spec, &err)); /* who is killed meanwhile has it */
    CHECK(strstr(spec, gpu.uuid) && strstr(spec, "time_sliced"));
    status = gpushare_plan_apply(plan, NULL, stop_at_second_step, &events, &err);
    CHECK(status == GPUSHARE_STATUS_INTERRUPTED && events >= 3);
    CHECK(gpushare_error_outcome(err) == GPUSHARE_OUTCOME_ROLLED_BACK);
    json = gpushare_error_to_json(err);
    CHECK(json && strstr(json, "\"simulated\":true") && strstr(json, "INTERRUPTED"));
    gpushare_string_free(json);
    gpushare_error_free(err);
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
    CHECK(gpu.mode == GPUSHARE_MODE_TIME_SLICED && !gpu.mig_enabled);

    heard = 0;
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    CHECK(heard > 0);
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err)); /* an apply is seen without a refresh */
    CHECK(gpu.mode == GPUSHARE_MODE_MIG && gpu.mig_device_count == 3 && gpu.free_share_count == 3);
    WORKS(gpushare_plan_previous_json(plan, &json, &err));
    CHECK(!strcmp(json, spec));
    gpushare_string_free(json);
    /* It led from another state. */
    FAILS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err), GPUSHARE_STATUS_STALE);
    gpushare_plan_free(plan);
    plan = planned(node, spec);
    gpushare_string_free(spec);
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
    CHECK(gpu.mode == GPUSHARE_MODE_TIME_SLICED);

    plan = planned(node, HAZARD);
    status = gpushare_plan_apply(plan, NULL, NULL, NULL, &err);
    CHECK(status == GPUSHARE_STATUS_HAZARD);
    CHECK(gpushare_error_outcome(err) == GPUSHARE_OUTCOME_UNTOUCHED);
    json = gpushare_error_to_json(err);
    CHECK(json && strstr(json, "\"safe\":[\""));
    gpushare_string_free(json);
    gpushare_error_free(err);
    gpushare_plan_free(plan);

    WORKS(gpushare_node_cordon(node, "0", "a test", &err));
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
    CHECK(gpu.cordoned);
    WORKS(gpushare_node_uncordon(node, "0", &err));
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
    CHECK(!gpu.cordoned);
    WORKS(gpushare_node_leases_json(node, &json, &err));
    CHECK(strstr(json, "gpushare.leases/v1") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_resolve_visible_devices(node, "1,0", &json, &err));
    CHECK(strstr(json, "gpushare.resolve/v1") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_node_doctor_json(node, &json, &err));
    CHECK(strstr(json, "gpushare.doctor/v1") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_node_advise_json(node, "{\"count\":2,\"isolation\":\"strict\"}", &json, &err));
    CHECK(strstr(json, "gpushare.advice/v1") != NULL && strstr(json, "\"count\":2") != NULL);
    CHECK(strstr(json, "\"isolation\":\"strict\"") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_node_export_json(node, "gres", NULL, &json, &err));
    CHECK(strstr(json, "gpushare.export/v1") != NULL && strstr(json, "/dev/nvidia") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_node_export_json(node, "compose", "{\"image\":\"train\"}", &json, &err));
    CHECK(strstr(json, "image: train") != NULL && strstr(json, "\"kind\":\"compose\"") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_mps_split(node, "1", 1, &json, &err));
    CHECK(strstr(json, "gpushare.split/v1") != NULL);
    gpushare_string_free(json);
    WORKS(gpushare_node_recover(node, &json, &err));
    CHECK(strstr(json, "gpushare.report/v1") != NULL);
    gpushare_string_free(json);
    gpushare_node_free(node);
}

/* In the child: what was read can be read; nothing else; and all can be closed. */
static void child(gpushare_node *node, gpushare_plan *plan, gpushare_lease *lease) {
    gpushare_gpu_info gpu;
    gpushare_node *own;
    gpushare_lease *other;
    gpushare_mps_attachment attachment;
    const char *name, *value;
    char *json = NULL;
    size_t count = 0;
    int32_t fd;

    failures = 0;
    gpu.struct_size = sizeof gpu;
    attachment.struct_size = sizeof attachment;
    WORKS(gpushare_node_gpu_count(node, &count, &err));
    CHECK(count == 2);
    WORKS(gpushare_node_gpu_info(node, 1, &gpu, &err));
    WORKS(gpushare_node_status_json(node, &json, &err));
    gpushare_string_free(json);
    WORKS(gpushare_plan_to_json(plan, &json, &err));
    gpushare_string_free(json);
    CHECK(gpushare_lease_env(lease, 0, &name, &value) == 0 && name[0]);
    FAILS(gpushare_node_refresh(node, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_plan(node, MIG, sizeof MIG - 1, &plan, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_recover(node, NULL, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_leases_json(node, &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_cordon(node, "0", "x", &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_uncordon(node, "0", &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_resolve_visible_devices(node, NULL, &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_doctor_json(node, &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_export_json(node, "gres", NULL, &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_advise_json(node, "{\"count\":2}", &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_node_discard(node, "x", &json, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_mps_verify(node, 1, &attachment, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_lease_acquire(node, NULL, &other, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_lease_fd(lease, 0, &fd, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_lease_dup_fd(lease, 0, &fd, &err), GPUSHARE_STATUS_INVALID_STATE);
    FAILS(gpushare_lease_check(lease, &err), GPUSHARE_STATUS_INVALID_STATE);
    WORKS(gpushare_lease_release(lease, &err));
    gpushare_node_free(node);
    own = simulated("T4"); /* one of its own works */
    WORKS(gpushare_node_refresh(own, &err));
    gpushare_node_free(own);
}

static int exit_status(pid_t pid) {
    int status = -1;

    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static void forks(void) {
    gpushare_node *node = simulated("2xH100-80GB");
    gpushare_plan *plan = planned(node, MIG), *applied;
    gpushare_lease *lease = leased(node, "1");
    gpushare_lease_request request;
    size_t count;
    int hold[2], ready[2];
    char byte;
    pid_t pid;

    WORKS(gpushare_node_gpu_count(node, &count, &err));
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        applied = plan;
        FAILS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err), GPUSHARE_STATUS_INVALID_STATE);
        child(node, plan, lease);
        gpushare_plan_free(applied);
        exit(failures ? 1 : 0);
    }
    CHECK(exit_status(pid) == 0);

    /* What the child closed is still the parent's. */
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.gpu = "1";
    {
        gpushare_lease *others = NULL;
        FAILS(gpushare_lease_acquire(node, &request, &others, &err), GPUSHARE_STATUS_BUSY);
    }
    WORKS(gpushare_lease_check(lease, &err));

    /* A child that only lives on holds nothing: what the parent gives back is free. */
    CHECK(pipe(hold) == 0 && pipe(ready) == 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        close(hold[1]);
        close(ready[0]);
        byte = 1;
        if (write(ready[1], &byte, 1) != 1) _exit(1);
        while (read(hold[0], &byte, 1) > 0) continue;
        failures = 0;
        WORKS(gpushare_lease_release(lease, &err));
        gpushare_plan_free(plan);
        gpushare_node_free(node);
        _exit(failures != 0);
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    WORKS(gpushare_lease_release(lease, &err));
    WORKS(gpushare_lease_acquire(node, &request, &lease, &err));
    CHECK(gpushare_lease_share_count(lease) == 1);
    close(hold[1]);
    CHECK(exit_status(pid) == 0);
    close(hold[0]);
    close(ready[0]);
    close(ready[1]);
    WORKS(gpushare_lease_release(lease, &err));
    gpushare_plan_free(plan);
    gpushare_node_free(node);
}

/* What the first share of the node is now. */
static gpushare_share_info first_share(gpushare_node *node) {
    gpushare_share_info share;

    memset(&share, 0, sizeof share);
    share.struct_size = sizeof share;
    WORKS(gpushare_node_refresh(node, &err));
    WORKS(gpushare_node_share_info(node, 0, &share, &err));
    return share;
}

/* A copy of the descriptor is one process's: neither another child nor the lease has to do with it. */
static void copies(void) {
    gpushare_node *node = simulated("1xH100-80GB");
    gpushare_plan *plan = planned(node, EXCLUSIVE);
    gpushare_lease *lease;
    gpushare_share_info share;
    gpushare_gpu_info gpu;
    int hold[2];
    int32_t fd;
    char byte;
    pid_t pid;

    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    lease = leased(node, "0");
    WORKS(gpushare_lease_dup_fd(lease, 0, &fd, &err));
    CHECK(fd > 2 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(pipe(hold) == 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        /* Its own lease's descriptors went with the fork; this is the caller's. */
        CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
        close(hold[1]);
        while (read(hold[0], &byte, 1) > 0) continue;
        WORKS(gpushare_lease_release(lease, &err));
        gpushare_node_free(node);
        _exit(failures != 0);
    }
    close(fd);
    share = first_share(node);
    CHECK(share.leased && !share.inherited && share.holder_pid == getpid());
    gpu.struct_size = sizeof gpu;
    WORKS(gpushare_node_gpu_info(node, share.gpu, &gpu, &err));
    CHECK(!strcmp(share.gpu_uuid, gpu.uuid) && share.index == 0);
    CHECK(share.mode == GPUSHARE_MODE_EXCLUSIVE && share.mode == gpu.mode);
    WORKS(gpushare_lease_release(lease, &err));
    share = first_share(node);
    CHECK(share.leased && share.inherited && share.holder_pid == pid);
    close(hold[1]);
    CHECK(exit_status(pid) == 0);
    close(hold[0]);
    share = first_share(node);
    CHECK(!share.leased && !share.inherited && !share.holder_pid);
    gpushare_node_free(node);
}

/* What is created for a lease goes with it, and what a child still has does not, and is named. */
static void given_back(void) {
    static const char EMPTY[] =
        "version: gpushare/v1\ngpus: [{select: all, mode: mig, mig: {instances: {}}}]\n";
    gpushare_node *node = simulated("1xH100-80GB");
    gpushare_plan *plan = planned(node, EMPTY);
    gpushare_lease_request request;
    gpushare_lease_share share;
    gpushare_lease *lease;
    gpushare_error *err = NULL;
    gpushare_gpu_info gpu;
    char *json, holder[64];
    int hold[2], kept;
    int32_t fd = -1, status;
    char byte;
    pid_t pid = 0;

    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.mig_profile = "1g.10gb";
    request.create = request.give_back = 1;
    gpu.struct_size = sizeof gpu;
    share.struct_size = sizeof share;
    for (kept = 0; kept < 2; kept++) {
        WORKS(gpushare_lease_acquire(node, &request, &lease, &err));
        WORKS(gpushare_lease_info(lease, 0, &share, &err));
        WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
        CHECK(gpu.mig_device_count == 1 && gpu.free_share_count == 0);
        if (kept) {
            WORKS(gpushare_lease_dup_fd(lease, 0, &fd, &err));
            CHECK(pipe(hold) == 0);
            fflush(NULL);
            pid = fork();
            if (pid == 0) {
                close(hold[1]);
                while (read(hold[0], &byte, 1) > 0) continue;
                /* It is its parent's to give back. */
                WORKS(gpushare_lease_release(lease, &err));
                gpushare_node_free(node);
                _exit(failures != 0);
            }
            close(fd);
        }
        status = gpushare_lease_release(lease, &err);
        CHECK(status == (kept ? GPUSHARE_STATUS_BUSY : 0) && gpushare_error_code(err) == status);
        /* It is seen without a refresh. */
        WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
        CHECK(gpu.mig_device_count == (uint32_t)kept);
    }
    CHECK(strstr(gpushare_error_message(err), share.mig_device) != NULL);
    CHECK(gpushare_error_outcome(err) == GPUSHARE_OUTCOME_UNTOUCHED);
    json = gpushare_error_to_json(err);
    sprintf(holder, "\"pid\":%d", (int)pid);
    CHECK(json && strstr(json, holder));
    gpushare_string_free(json);
    gpushare_error_free(err);
    close(hold[1]);
    CHECK(exit_status(pid) == 0);
    close(hold[0]);
    WORKS(gpushare_node_refresh(node, &err));
    WORKS(gpushare_node_gpu_info(node, 0, &gpu, &err));
    CHECK(gpu.mig_device_count == 1 && gpu.free_share_count == 1);
    gpushare_node_free(node);
}

/* Functions of the caller's that call the library. */
static struct {
    gpushare_node *node, *silent;
    int depth, heard, of_silent, events;
} again;

static void log_again(uint32_t level, const char *target, const char *message, void *user) {
    gpushare_node_options options;
    gpushare_node *other = NULL;
    gpushare_error *err = NULL;
    char *json = NULL;

    (void)level;
    (void)target;
    (void)user;
    CHECK(message[0]);
    again.heard++;
    if (!again.node || again.heard > 40) return;
    /* What is called from here is not logged: there is no second round. */
    CHECK(again.depth++ == 0);
    WORKS(gpushare_node_status_json(again.node, &json, &err));
    gpushare_string_free(json);
    WORKS(gpushare_node_refresh(again.node, &err));
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = "1xT4";
    options.log = log_again;
    WORKS(gpushare_node_open(&options, &other, &err));
    CHECK(gpushare_node_refresh(other, NULL) == 0);
    CHECK(gpushare_node_refresh(NULL, &err) == INVALID);
    gpushare_error_free(err);
    gpushare_node_free(other);
    again.depth--;
}

static int32_t progress_again(const gpushare_event *event, void *user) {
    gpushare_plan *plan, *own = (gpushare_plan *)user;
    gpushare_lease *lease;
    char *json;
    int heard;

    WORKS(gpushare_node_status_json(again.node, &json, &err));
    gpushare_string_free(json);
    if (event->kind != GPUSHARE_EVENT_KIND_PLANNED) return 0;
    again.events++;
    /* The GPU of this call is locked; others are not. */
    FAILS(gpushare_plan_apply(own, NULL, NULL, NULL, &err), GPUSHARE_STATUS_LOCKED);
    lease = leased(again.node, "1");
    WORKS(gpushare_lease_release(lease, &err));
    /* A node without a log is silent here, too. */
    heard = again.heard;
    plan = planned(again.silent, EXCLUSIVE);
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    again.of_silent += again.heard - heard;
    return 0;
}

static void from_callbacks(void) {
    gpushare_node_options options;
    gpushare_plan *plan;
    int heard;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = "2xH100-80GB";
    options.log = log_again;
    options.log_level = GPUSHARE_LOG_LEVEL_TRACE;
    WORKS(gpushare_node_open(&options, &again.node, &err));
    again.silent = simulated("1xH100-80GB");
    plan = planned(again.node, MIG);
    heard = again.heard;
    WORKS(gpushare_plan_apply(plan, NULL, progress_again, plan, &err));
    CHECK(again.events == 1 && again.heard > heard && again.of_silent == 0);
    gpushare_plan_free(plan);
    /* It is logged as before. */
    heard = again.heard;
    plan = planned(again.node, EXCLUSIVE);
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    CHECK(again.heard > heard);
    gpushare_plan_free(plan);
    gpushare_node_free(again.silent);
    gpushare_node_free(again.node);
}

static void panic(void) {
    gpushare_node *node = simulated("2xH100-80GB");
    gpushare_plan *plan = planned(node, MIG);
    gpushare_error *err = NULL;
    const char *planted = getenv("GPUSHARE_TEST_PANIC");
    int32_t outcome = GPUSHARE_OUTCOME_UNTOUCHED, status;

    if (!strcmp(planted, "gpushare_plan_apply")) {
        status = gpushare_plan_apply(plan, NULL, NULL, NULL, &err);
        outcome = GPUSHARE_OUTCOME_INDETERMINATE;
    } else {
        status = gpushare_node_refresh(node, &err);
    }
    CHECK(status == GPUSHARE_STATUS_PANIC && gpushare_error_code(err) == status);
    CHECK(strstr(gpushare_error_message(err), planted) != NULL);
    CHECK(gpushare_error_outcome(err) == outcome);
    gpushare_error_free(err);
    /* Nobody wants the error, and nothing is left locked. */
    CHECK(strcmp(planted, "gpushare_node_refresh") || gpushare_node_refresh(node, NULL) == status);
    gpushare_plan_free(plan);
    plan = planned(node, EXCLUSIVE);
    gpushare_plan_free(plan);
    gpushare_node_free(node);
}

/* A child has its parent's pid where each is the first of a namespace. It is a child all the same. */
static int namespaces(void) {
    gpushare_node *node;
    int status = 0;
    pid_t pid, parent;

    if (unshare(CLONE_NEWPID)) return 77;
    pid = fork();
    if (pid == 0) {
        node = simulated("1xT4");
        WORKS(gpushare_node_refresh(node, &err));
        parent = getpid();
        if (unshare(CLONE_NEWPID)) _exit(77);
        pid = fork();
        if (pid == 0) {
            CHECK(getpid() == parent);
            FAILS(gpushare_node_refresh(node, &err), GPUSHARE_STATUS_INVALID_STATE);
            _exit(failures != 0);
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        gpushare_node_free(node);
        _exit(failures != 0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return failures ? 1 : WEXITSTATUS(status);
}

int main(int argc, char **argv) {
    gpushare_node *node;

    if (argc > 1 && !strcmp(argv[1], "namespaces")) return namespaces();
    if (argc > 1 && !strcmp(argv[1], "panic")) {
        panic();
        return failures != 0;
    }
    if (argc > 1 && !strcmp(argv[1], "leak")) {
        gpushare_error *err = NULL;
        CHECK(gpushare_node_refresh(NULL, &err) == INVALID);
        err = NULL;
        return failures != 0;
    }
    node = simulated("2xH100-80GB");
    nulls(node);
    sizes(node);
    values(node);
    specs(node);
    past_the_end(node);
    gpushare_node_free(node);
    orders();
    stories();
    forks();
    copies();
    given_back();
    from_callbacks();
    return failures != 0;
}
