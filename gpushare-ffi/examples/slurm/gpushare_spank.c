/* A plugin for Slurm: --gpushare for srun, sbatch and salloc.
 *
 * Each step gets a lease within the GPUs that Slurm gave it, one on each of its nodes. slurmstepd
 * takes it, as the user of the job, before it forks the tasks; they inherit its descriptor and run
 * with its variables. It is given back when the step is over, or when the last process of the step is
 * gone, whatever became of slurmstepd.
 *
 * Arguments in plugstack.conf: README.md. */
#define _POSIX_C_SOURCE 200809L

/* slurm/spank.h takes uint32_t for granted. */
#include <stdint.h>
#include <slurm/spank.h>

#include <gpushare.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "wish.h"

SPANK_PLUGIN(gpushare, 1)

/* The status of a task that was to have a share and gets none, as of `gpushare run`. */
#define NO_SHARE 125

/* What a batch script or an interactive step passes on to the steps that it starts: the option, in the
 * variable from which srun takes it, and that they can run in this lease. */
#define OPTION_VARIABLE "SLURM_SPANK__SLURM_SPANK_OPTION_gpushare_gpushare"
#define PASSED_ON "GPUSHARE_SLURM"

/* Steps that are the job's own: slurm/slurm.h has these as SLURM_EXTERN_CONT and so on. */
#define EXTERN_STEP 0xfffffffcU
#define BATCH_STEP 0xfffffffbU
#define INTERACTIVE_STEP 0xfffffffaU

#define LIST_SIZE 8192

/* From plugstack.conf. */
static struct {
    const char *sim, *state_dir, *allow_hazards;
    double timeout_s;
    int any_gpu;
} settings = {NULL, NULL, NULL, 30, 0};

/* The step. Only slurmstepd and its forked children have more than the option. */
static struct {
    int asked;
    char text[256];
    wish wish;
    gpushare_node *node;
    gpushare_lease *lease;
    /* The devices of the lease that it runs in, where that is another step's. */
    char joined[LIST_SIZE];
    /* Whether it was started within another step's lease and is not to run in it. */
    int outside;
    /* Why it gets none. */
    char failure[1024];
} step;

/* As much of a text as fits. */
static void copy(char *into, size_t size, const char *text) {
    size_t length = strlen(text);

    if (length >= size) length = size - 1;
    memcpy(into, text, length);
    into[length] = '\0';
}

static void fail(const char *why, const char *more) {
    snprintf(step.failure, sizeof step.failure, "%s%s", why, more);
}

static void fail_with(gpushare_error *err) {
    snprintf(step.failure, sizeof step.failure, "%s: %s",
             gpushare_status_name(gpushare_error_code(err)),
             err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
}

/* --- The option, in srun, sbatch and salloc as in slurmstepd ------------------------------------- */

/* In slurmstepd it comes as often as there are ways to it: the step's own first, the job's next. */
static int on_option(int val, const char *text, int remote) {
    const char *why;

    (void)val;
    if (remote && step.asked) return ESPANK_SUCCESS;
    if (!text) text = "";
    why = strlen(text) < sizeof step.text ? wish_parse(text, &step.wish) : "it is too long";
    step.asked = 1;
    copy(step.text, sizeof step.text, text);
    if (!why) return ESPANK_SUCCESS;
    if (remote) fail("--gpushare: ", why);
    else slurm_error("--gpushare=%s: %s. Allowed is %s", text, why, WISH_ALLOWED);
    return ESPANK_BAD_ARG;
}

static struct spank_option option = {
    (char *)"gpushare",
    (char *)"MODE",
    (char *)"run with a share of a GPU: " WISH_ALLOWED,
    1,
    0,
    on_option,
};

static int read_settings(int argc, char **argv) {
    int i;
    char *end;

    for (i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "timeout=", 8)) {
            settings.timeout_s = strtod(argv[i] + 8, &end);
            if (argv[i][8] && !*end && settings.timeout_s >= 0 && settings.timeout_s <= 3600) continue;
        } else if (!strncmp(argv[i], "state_dir=/", 11)) {
            settings.state_dir = argv[i] + 10;
            continue;
        } else if (!strncmp(argv[i], "sim=", 4)) {
            settings.sim = argv[i] + 4;
            continue;
        } else if (!strncmp(argv[i], "allow_hazards=", 14)) {
            settings.allow_hazards = argv[i] + 14;
            continue;
        } else if (!strcmp(argv[i], "any_gpu")) {
            settings.any_gpu = 1;
            continue;
        }
        slurm_error("gpushare: plugstack.conf says %s; allowed are timeout=SECONDS (0 to 3600), "
                    "state_dir=/DIRECTORY, sim=FLEET, allow_hazards=NAMES and any_gpu", argv[i]);
        return ESPANK_BAD_ARG;
    }
    return ESPANK_SUCCESS;
}

int slurm_spank_init(spank_t spank, int argc, char **argv) {
    spank_context_t context = spank_context();

    if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
        return ESPANK_SUCCESS;
    /* Below 0, or Slurm goes on. */
    if (read_settings(argc, argv)) return -1;
    return spank_option_register(spank, &option) ? -1 : ESPANK_SUCCESS;
}

/* --- The lease, in slurmstepd --------------------------------------------------------------------- */

static int wants_share(void) { return step.asked && step.wish.mode != WISH_NONE; }

static int open_node(gpushare_node **node, gpushare_error **err) {
    gpushare_node_options options;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = settings.sim;
    options.state_dir = settings.state_dir;
    /* plugstack.conf says where things are; whose environment slurmstepd has does not matter. */
    options.ignore_environment = 1;
    return gpushare_node_open(&options, node, err);
}

/* A variable of the job's, or "". */
static void variable(spank_t spank, const char *name, char *value, int size) {
    if (spank_getenv(spank, name, value, size)) *value = '\0';
}

/* Appends to a list with commas between, unless it has that already. */
static int append(char *list, const char *entry) {
    size_t length = strlen(list), more = strlen(entry);
    const char *found = list;

    for (; (found = strstr(found, entry)); found += more)
        if ((found == list || found[-1] == ',') && (!found[more] || found[more] == ',')) return 1;
    if (length + more + 2 > LIST_SIZE) return 0;
    sprintf(list + length, "%s%s", length ? "," : "", entry);
    return 1;
}

static int contains(const char *list, const char *entry) {
    char longer[LIST_SIZE];

    /* What appending does not lengthen was there. */
    copy(longer, sizeof longer, list);
    return *list && append(longer, entry) && !strcmp(longer, list);
}

/* The numbers of the step's GPUs: Slurm's count of all of the node, which is NVML's where gres.conf lists
 * them in that order. (In a cgroup those in CUDA_VISIBLE_DEVICES are counted anew.) Slurm removes the
 * variable that it does not set, but a step can inherit that of its batch script. */
static void slurms_gpus(spank_t spank, char *numbers) {
    uint32_t id = 0;

    *numbers = '\0';
    if (spank_get_item(spank, S_JOB_STEPID, &id)) return;
    variable(spank, id == BATCH_STEP || id == INTERACTIVE_STEP ? "SLURM_JOB_GPUS" : "SLURM_STEP_GPUS",
             numbers, LIST_SIZE);
}

/* The uuids of the GPUs that Slurm gave the step and that are shared as is wished for; 0 on failure. */
static int within(const char *numbers, const char *devices, char *visible, char *given) {
    uint32_t mode = wish_gpu_mode(&step.wish);
    gpushare_gpu_info gpu;
    gpushare_error *err = NULL;
    size_t count, i, seen = 0;
    char number[16], other[1024] = "";

    *visible = *given = '\0';
    /* MIG devices that Slurm knows one by one, by their uuids. */
    if (strstr(devices, "MIG-")) {
        copy(visible, LIST_SIZE, devices);
        copy(given, LIST_SIZE, devices);
        if (mode == GPUSHARE_MODE_MIG || !mode) return 1;
        fail("Slurm gave the step MIG devices: ask for --gpushare=mig, not ", step.text);
        return 0;
    }
    gpu.struct_size = sizeof gpu;
    if (gpushare_node_gpu_count(step.node, &count, &err)) return fail_with(err), 0;
    for (i = 0; i < count; i++) {
        if (gpushare_node_gpu_info(step.node, i, &gpu, &err)) return fail_with(err), 0;
        snprintf(number, sizeof number, "%" PRId32, gpu.index);
        if (!settings.any_gpu || *numbers)
            if (!contains(numbers, number)) continue;
        seen++;
        append(given, gpu.uuid);
        if (!mode || gpu.mode == mode) append(visible, gpu.uuid);
        else if (strlen(other) + 64 < sizeof other)
            sprintf(other + strlen(other), "%sGPU %s is %s", *other ? ", " : "", number,
                    gpushare_mode_name(gpu.mode));
    }
    if (*visible) return 1;
    if (seen) {
        char wanted[64];

        snprintf(wanted, sizeof wanted, "none of the step's GPUs is %s: ", gpushare_mode_name(mode));
        fail(wanted, other);
    } else fail("this node has no GPU of the numbers that Slurm gave the step: ", numbers);
    return 0;
}

/* Whether a process is the slurmstepd of a step of this job: anybody can take its title, and not its user. */
static int is_slurmstepd(int32_t pid, uint32_t job) {
    char path[64], title[64], wanted[64];
    struct stat owner;
    FILE *file;
    size_t length;

    snprintf(path, sizeof path, "/proc/%" PRId32 "/cmdline", pid);
    if (stat(path, &owner) || owner.st_uid != getuid() || !(file = fopen(path, "r"))) return 0;
    length = fread(title, 1, sizeof title - 1, file);
    fclose(file);
    title[length] = '\0';
    snprintf(wanted, sizeof wanted, "slurmstepd: [%" PRIu32 ".", job);
    return !strncmp(title, wanted, strlen(wanted));
}

/* The parent of a process; 0 where it is not to be seen. */
static int32_t parent_of(int32_t pid) {
    char path[64], text[512], *end;
    FILE *file;
    size_t length;
    int32_t parent = 0;

    snprintf(path, sizeof path, "/proc/%" PRId32 "/stat", pid);
    if (!(file = fopen(path, "r"))) return 0;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    /* The name before it may have any letters. */
    if (!(end = strrchr(text, ')')) || sscanf(end + 1, " %*c %" SCNd32, &parent) != 1) return 0;
    return parent;
}

/* Whether a process is of a step of this job. An ordinary user sees that a task has the lease, and not
 * that slurmstepd has it too. */
static int is_of_job(int32_t pid, uint32_t job) {
    int depth;

    for (depth = 0; pid > 1 && depth < 64; depth++, pid = parent_of(pid))
        if (is_slurmstepd(pid, job)) return 1;
    return 0;
}

/* Whether the step was started within a lease of this job on this node, of GPUs that it has too: then
 * it runs in that lease, as everything else does that was started there. */
static int join(spank_t spank, const char *given) {
    char shares[LIST_SIZE], devices[LIST_SIZE] = "", wanted[LIST_SIZE] = "";
    gpushare_share_info share;
    size_t count, i;
    uint32_t job = 0;

    variable(spank, "GPUSHARE_SHARES", shares, sizeof shares);
    if (!*shares || spank_get_item(spank, S_JOB_ID, &job)) return 0;
    share.struct_size = sizeof share;
    if (gpushare_node_share_count(step.node, &count, NULL)) return 0;
    for (i = 0; i < count; i++) {
        gpushare_gpu_info gpu;

        gpu.struct_size = sizeof gpu;
        if (gpushare_node_share_info(step.node, i, &share, NULL)) return 0;
        if (!contains(shares, share.id) || !share.leased || !is_of_job(share.holder_pid, job)) continue;
        if (gpushare_node_gpu_info(step.node, share.gpu, &gpu, NULL)) return 0;
        if (!contains(given, gpu.uuid) && !contains(given, share.device)) continue;
        if (!append(wanted, share.id) || !append(devices, share.device)) return 0;
    }
    /* All of them, and no others. */
    if (strlen(wanted) != strlen(shares)) return 0;
    strcpy(step.joined, devices);
    return 1;
}

static void lease(const char *visible) {
    gpushare_lease_request request;
    gpushare_lease_share share;
    gpushare_error *err = NULL;
    int32_t fd;

    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.count = step.wish.count;
    request.visible = visible;
    request.timeout_s = settings.timeout_s;
    request.allow_hazards = settings.allow_hazards;
    if (step.wish.mode == WISH_MIG) request.mig_profile = *step.wish.profile ? step.wish.profile : "any";
    if (step.wish.mode == WISH_MPS) {
        request.thread_percentage = step.wish.thread_percentage;
        request.pinned_memory_bytes = step.wish.memory_bytes;
    } else request.min_memory_bytes = step.wish.memory_bytes;

    memset(&share, 0, sizeof share);
    share.struct_size = sizeof share;
    if (gpushare_lease_acquire(step.node, &request, &step.lease, &err) ||
        gpushare_lease_info(step.lease, 0, &share, &err) ||
        /* Hands the lease on to all children of slurmstepd: they are the tasks of this step, and the
         * lease is the only one. */
        gpushare_lease_fd(step.lease, 0, &fd, &err)) {
        gpushare_lease_release(step.lease, NULL);
        step.lease = NULL;
        fail_with(err);
        return;
    }
    slurm_verbose("gpushare: lease %s: %s", gpushare_lease_name(step.lease), share.id);
    if (share.scope_private)
        slurm_spank_log("gpushare: this node is not set up for leases of all users: others do not see "
                        "this one");
}

/* As root: from now on every user of the node can lease what there is. */
int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv) {
    gpushare_node *node = NULL;
    char *json = NULL;
    uint32_t id = EXTERN_STEP;

    (void)argc;
    (void)argv;
    if (spank_context() != S_CTX_REMOTE || !wants_share() || geteuid() != 0) return ESPANK_SUCCESS;
    if (spank_get_item(spank, S_JOB_STEPID, &id) || id == EXTERN_STEP) return ESPANK_SUCCESS;
    if (!open_node(&node, NULL) && !gpushare_node_leases_json(node, &json, NULL))
        gpushare_string_free(json);
    gpushare_node_free(node);
    return ESPANK_SUCCESS;
}

/* As the user. Nothing fails here: of a batch script slurmctld would take that for a defect of the
 * node and drain it. The tasks end instead, before they begin. */
int slurm_spank_user_init(spank_t spank, int argc, char **argv) {
    char numbers[LIST_SIZE], devices[LIST_SIZE], passed[sizeof step.text];
    char visible[LIST_SIZE], given[LIST_SIZE];
    gpushare_error *err = NULL;
    int inherited;

    (void)argc;
    (void)argv;
    if (!step.asked || *step.failure) return ESPANK_SUCCESS;
    variable(spank, PASSED_ON, passed, sizeof passed);
    inherited = !strcmp(passed, step.text);
    if (!wants_share()) {
        step.outside = *passed != '\0';
        return ESPANK_SUCCESS;
    }
    slurms_gpus(spank, numbers);
    variable(spank, "CUDA_VISIBLE_DEVICES", devices, sizeof devices);
    if (!*numbers && !settings.any_gpu) {
        /* A step without GPUs beside others that have some: it was not the one who asked. */
        if (inherited) step.outside = 1;
        else fail("Slurm gave this step no GPU, and shares are of the GPUs that it gives: ask for some, "
                  "--gres=gpu:1", "");
        return ESPANK_SUCCESS;
    }
    if (open_node(&step.node, &err)) fail_with(err);
    else if (within(numbers, devices, visible, given) && !(inherited && join(spank, given)))
        lease(visible);
    return ESPANK_SUCCESS;
}

/* --- The tasks, each a forked child of slurmstepd ------------------------------------------------- */

static int set(spank_t spank, const char *name, const char *value) {
    if (value) return spank_setenv(spank, name, value, 1);
    /* What is not there is removed. */
    spank_unsetenv(spank, name);
    return ESPANK_SUCCESS;
}

static int become_tenant(spank_t spank) {
    /* What a lease sets. */
    static const char *const variables[] = {
        "GPUSHARE_LEASE", "GPUSHARE_SHARES", PASSED_ON, OPTION_VARIABLE, "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"};
    const char *name, *value;
    size_t i;

    if (step.outside)
        for (i = 0; i < sizeof variables / sizeof *variables; i++) set(spank, variables[i], NULL);
    if (step.outside) return ESPANK_SUCCESS;
    if (*step.joined) return set(spank, "CUDA_VISIBLE_DEVICES", step.joined);
    for (i = 0; i < gpushare_lease_env_count(step.lease); i++)
        if (gpushare_lease_env(step.lease, i, &name, &value) || set(spank, name, value)) return -1;
    return set(spank, OPTION_VARIABLE, step.text) || set(spank, PASSED_ON, step.text);
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv) {
    int task = 0;

    (void)argc;
    (void)argv;
    if (!*step.failure && !step.lease && !*step.joined && !step.outside) return ESPANK_SUCCESS;
    if (!*step.failure && become_tenant(spank)) fail("cannot set the environment", "");
    if (!*step.failure) return ESPANK_SUCCESS;
    /* On standard error, which is srun's or the job's file; once on each node. Whatever plugstack.conf
     * says, required or optional, no task runs without the share that it was to have. */
    if (spank_get_item(spank, S_TASK_ID, &task) || task == 0)
        fprintf(stderr, "gpushare: --gpushare=%s: %s\n", step.text, step.failure);
    fflush(stderr);
    _exit(NO_SHARE);
}

/* --- The end -------------------------------------------------------------------------------------- */

/* The tasks are gone by now; what of the step holds on to the share has it until it is gone too. */
int slurm_spank_exit(spank_t spank, int argc, char **argv) {
    gpushare_error *err = NULL;

    (void)spank;
    (void)argc;
    (void)argv;
    if (gpushare_lease_release(step.lease, &err))
        slurm_error("gpushare: %s", err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
    gpushare_node_free(step.node);
    step.lease = NULL;
    step.node = NULL;
    return ESPANK_SUCCESS;
}
