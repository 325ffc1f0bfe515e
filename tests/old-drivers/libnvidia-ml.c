/*
 * As much of NVML as gpushare asks an old driver for, with the habits of one of three:
 *   R470     no ...V functions, no _v3 lists, no placements of compute instances
 *   R535_54  profile structs up to version 2; _v3 lists of processes with 32 bytes an entry
 *   STRICT   answers INVALID_ARGUMENT to a struct of a version that it does not know;
 *            its list of processes grows while it is asked for; refuses a change of MIG mode
 *            with SUCCESS and a status beside it
 * Compiled by old_drivers.rs. The layouts are those of nvml.h.
 */
#include <string.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       IN_USE = 19, ARGUMENT_VERSION_MISMATCH = 25 };

typedef struct { unsigned start, size; } placement;
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process;
typedef struct { process process; unsigned long long protected_memory; } long_process;
typedef struct {
    unsigned id, p2p, slices, instances, sms, copy, dec, enc, jpeg, ofa;
    unsigned long long megabytes;
} profile_v1;
typedef struct {
    unsigned version, id, p2p, slices, instances, sms, copy, dec, enc, jpeg, ofa;
    unsigned long long megabytes;
    char name[96];
} profile_v2;
typedef struct { unsigned id, slices, instances, sms, copy, dec, enc, jpeg, ofa; } compute_profile;

static int gpu, instance, compute;

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }

static int text(char *to, unsigned length, const char *from) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}

int nvmlSystemGetDriverVersion(char *to, unsigned length) { return text(to, length, "470.256.02"); }
int nvmlSystemGetCudaDriverVersion(int *version) { *version = 11040; return OK; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (strcmp(uuid, "GPU-old")) return NOT_FOUND;
    *device = &gpu;
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *total_free_used) {
    total_free_used[0] = 42949672960ull;
    total_free_used[1] = total_free_used[0];
    total_free_used[2] = 0;
    return device == &gpu ? OK : INVALID_ARGUMENT;
}

/* A name that fills its buffer to the last byte, without a NUL. */
int nvmlDeviceGetName(void *device, char *to, unsigned length) {
    memset(to, 'x', length);
    return device == &gpu ? OK : INVALID_ARGUMENT;
}

/* 1g.5gb at index 0, nothing at 1, 1g.5gb+me at 7, and the end after that. */
static int describe(void *device, unsigned index, profile_v1 *info) {
    profile_v1 one = { 19, 0, 1, 7, 14, 1, 0, 0, 0, 0, 4864 };
    if (device != &gpu || index > 7) return INVALID_ARGUMENT;
    if (index != 0 && index != 7) return NOT_SUPPORTED;
    if (index == 7) { one.id = 20; one.instances = 1; one.jpeg = one.ofa = 1; }
    *info = one;
    return OK;
}

int nvmlDeviceGetGpuInstanceProfileInfo(void *device, unsigned index, profile_v1 *info) {
    return describe(device, index, info);
}

#ifndef R470
int nvmlDeviceGetGpuInstanceProfileInfoV(void *device, unsigned index, profile_v2 *info) {
    profile_v1 one;
    int code;
    if (info->version != (sizeof(profile_v2) | 2u << 24))
#ifdef STRICT
        return INVALID_ARGUMENT;
#else
        return ARGUMENT_VERSION_MISMATCH;
#endif
    code = describe(device, index, &one);
    if (code != OK) return code;
    memcpy(&info->id, &one, 10 * sizeof(unsigned));
    info->megabytes = one.megabytes;
    strcpy(info->name, index == 7 ? "MIG 1g.5gb+me" : "MIG 1g.5gb");
    return OK;
}
#endif

#ifdef R470
int nvmlDeviceGetGpuInstancePossiblePlacements
#else
int nvmlDeviceGetGpuInstancePossiblePlacements_v2
#endif
(void *device, unsigned id, placement *places, unsigned *count) {
    unsigned i;
    if (device != &gpu || (id != 19 && id != 20)) return INVALID_ARGUMENT;
    for (i = 0; i < 7; i++) { places[i].start = i; places[i].size = 1; }
    *count = 7;
    return OK;
}

int nvmlDeviceSetMigMode(void *device, unsigned mode, int *status) {
    *status = device == &gpu && mode <= 1 ? IN_USE : OK;
    return OK;
}

/* Five processes; the memory of the second cannot be told, and the third is on an instance. */
static process one_of_five(unsigned i) {
    process it = { 1000 + i, 1048576ull * i, ~0u, ~0u };
    if (i == 1) it.memory = ~0ull;
    if (i == 2) { it.gi = 7; it.ci = 0; }
    return it;
}

#ifdef R470
int nvmlDeviceGetComputeRunningProcesses_v2
#else
int nvmlDeviceGetComputeRunningProcesses_v3
#endif
(void *device, unsigned *count, void *list) {
    unsigned i;
#ifdef STRICT
    static unsigned asked = 64;
    if (*count < 5 || asked < 300) { asked += 100; *count = asked; return INSUFFICIENT_SIZE; }
#endif
    if (device != &gpu || *count < 5) return INVALID_ARGUMENT;
    for (i = 0; i < 5; i++) {
#ifdef R535_54
        long_process it = { one_of_five(i), 0 };
        ((long_process *)list)[i] = it;
#else
        ((process *)list)[i] = one_of_five(i);
#endif
    }
    *count = 5;
    return OK;
}

int nvmlDeviceGetGpuInstanceById(void *device, unsigned id, void **handle) {
    *handle = &instance;
    return device == &gpu && id == 7 ? OK : NOT_FOUND;
}

int nvmlGpuInstanceGetComputeInstanceProfileInfo(void *gi, unsigned index, unsigned engines,
                                                 compute_profile *info) {
    compute_profile of[3] = { { 0, 1, 3, 14, 3, 1, 0, 0, 0 }, { 1, 2, 1, 28, 3, 1, 0, 0, 0 },
                              { 2, 3, 1, 42, 3, 1, 0, 0, 0 } };
    if (gi != &instance || engines || index > 8) return INVALID_ARGUMENT;
    if (index > 2) return NOT_SUPPORTED;
    *info = of[index];
    return OK;
}

int nvmlGpuInstanceCreateComputeInstance(void *gi, unsigned id, void **handle) {
    *handle = &compute;
    return gi == &instance && id < 3 ? IN_USE : INVALID_ARGUMENT;
}
