/* gpushare: share NVIDIA GPUs by time-slicing, MPS and MIG.
 *
 * Link with -lgpushare. The driver is loaded when it is needed: a program that links this library
 * starts on machines without a GPU.
 *
 * Calls that can fail return 0 or a gpushare_status, and take where an error goes as their last
 * argument, which may be NULL. What a call is to answer is NULL or 0 where it fails. A pointer is NULL
 * only where that is allowed; a NULL elsewhere is INVALID_ARGUMENT.
 *
 * Strings are UTF-8 and end in NUL. A `const char *` belongs to the object that it came from; a
 * `char *` is the caller's, to be freed with gpushare_string_free().
 *
 * Structs start with `uint32_t struct_size`, which the caller sets to their sizeof; all zero besides
 * is the default. They only ever grow at their end: a program that was compiled with an older header
 * works with a newer library, and one with a newer header with an older library as long as it sets
 * nothing that the library does not know. Flags are 0 or not. Constants are passed as uint32_t.
 *
 * That holds as long as the ABI is the same: GPUSHARE_ABI_VERSION, the N in libgpushare.so.N, and the
 * version's major number are one number, before 1.0 too. What would break a program that was compiled
 * raises it. CMake's find_package(gpushare X.Y) takes that version and newer ones of the same X.
 *
 * A node and a plan may be used by several threads at once; a lease and an error by one at a time.
 * They may be freed in any order. Calls block. The library starts no thread, sets no signal
 * handler, and leaves standard output, environment, working directory and umask alone; it writes to
 * standard error only where a defect of its own becomes PANIC.
 *
 * In a forked child what reads from memory still works, _free and gpushare_lease_release() only close,
 * and everything else is INVALID_STATE: the child opens a node of its own. daemon(3) forks: open nodes and
 * take leases after it.
 *
 * Written by cbindgen from gpushare-ffi; do not edit. */

#ifndef GPUSHARE_H
#define GPUSHARE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The size of an id: the uuid of a GPU or MIG device, or that of a share, and its NUL.
 */
#define GPUSHARE_ID_SIZE 128

/**
 * The size of a name, a model's for one, and its NUL.
 */
#define GPUSHARE_NAME_SIZE 128

/**
 * The size of the name of a MIG profile and its NUL.
 */
#define GPUSHARE_PROFILE_SIZE 32

/**
 * The size of a PCI address and its NUL.
 */
#define GPUSHARE_PCI_SIZE 32

/**
 * The size of the path of a device node and its NUL.
 */
#define GPUSHARE_PATH_SIZE 256

/**
 * The size of a reason and its NUL: what is longer is cut, and whole in the JSON.
 */
#define GPUSHARE_REASON_SIZE 512

/**
 * The major version of this header.
 */
#define GPUSHARE_VERSION_MAJOR 0

/**
 * The minor version of this header.
 */
#define GPUSHARE_VERSION_MINOR 1

/**
 * The patch version of this header.
 */
#define GPUSHARE_VERSION_PATCH 0

/**
 * The ABI of this header: the number in `libgpushare.so.N`, and the version's major number.
 */
#define GPUSHARE_ABI_VERSION 0

/**
 * What became of a call. Numbers are never changed and never reused.
 *
 * It is an `int32_t`, in C and in C++, and so is what functions return: a newer library can return what an
 * older header does not know.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It worked.
   */
  GPUSHARE_STATUS_OK = 0,
  /**
   * Something asked for makes no sense as written: a spec, a name, a size, an option.
   */
  GPUSHARE_STATUS_INVALID_ARGUMENT = 1,
  /**
   * No driver, no GPU, or none of that name.
   */
  GPUSHARE_STATUS_NOT_FOUND = 2,
  /**
   * This GPU or this driver cannot do it.
   */
  GPUSHARE_STATUS_UNSUPPORTED = 3,
  /**
   * The caller may not; the error names what is missing.
   */
  GPUSHARE_STATUS_PERMISSION_DENIED = 4,
  /**
   * Somebody uses what would have to go; the error names them.
   */
  GPUSHARE_STATUS_BUSY = 5,
  /**
   * It does not fit; the error says what would.
   */
  GPUSHARE_STATUS_INSUFFICIENT = 6,
  /**
   * Only a reset of the GPU leads there, and none was allowed.
   */
  GPUSHARE_STATUS_RESET_REQUIRED = 7,
  /**
   * The GPU is no longer as it was when the plan was made.
   */
  GPUSHARE_STATUS_STALE = 8,
  /**
   * Another gpushare process is changing the GPU.
   */
  GPUSHARE_STATUS_LOCKED = 9,
  /**
   * The object cannot do that in the state it is in.
   */
  GPUSHARE_STATUS_INVALID_STATE = 10,
  /**
   * It would work and do harm; allowed only by name.
   */
  GPUSHARE_STATUS_HAZARD = 11,
  /**
   * It took longer than the caller wanted to wait.
   */
  GPUSHARE_STATUS_TIMEOUT = 12,
  /**
   * The driver refused or failed.
   */
  GPUSHARE_STATUS_DRIVER = 13,
  /**
   * The MPS daemon refused or failed.
   */
  GPUSHARE_STATUS_MPS = 14,
  /**
   * A file, directory or process of the system refused or failed.
   */
  GPUSHARE_STATUS_IO = 15,
  /**
   * The caller asked to stop.
   */
  GPUSHARE_STATUS_INTERRUPTED = 16,
  /**
   * A defect of gpushare.
   */
  GPUSHARE_STATUS_PANIC = 17,
  /**
   * An unfinished change lies in the way and a person has to decide.
   */
  GPUSHARE_STATUS_RECOVERY_REQUIRED = 18,
};
typedef int32_t gpushare_status;

/**
 * What an error left behind on the hardware.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing was changed.
   */
  GPUSHARE_OUTCOME_UNTOUCHED = 0,
  /**
   * Something was changed and is back as it was.
   */
  GPUSHARE_OUTCOME_ROLLED_BACK = 1,
  /**
   * It is not known: gpushare_node_recover() settles it.
   */
  GPUSHARE_OUTCOME_INDETERMINATE = 2,
};
typedef int32_t gpushare_outcome;

/**
 * How a GPU is shared. Numbers are never changed and never reused; a newer library may have more.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A mode that this library has no number for.
   */
  GPUSHARE_MODE_UNKNOWN = 0,
  /**
   * One process at a time: compute mode EXCLUSIVE_PROCESS.
   */
  GPUSHARE_MODE_EXCLUSIVE = 1,
  /**
   * Several processes take turns: compute mode DEFAULT.
   */
  GPUSHARE_MODE_TIME_SLICED = 2,
  /**
   * Several processes run at once through an MPS daemon of gpushare's.
   */
  GPUSHARE_MODE_MPS = 3,
  /**
   * It is cut into MIG instances.
   */
  GPUSHARE_MODE_MIG = 4,
  /**
   * Compute mode PROHIBITED: nobody can use it.
   */
  GPUSHARE_MODE_CLOSED = 5,
  /**
   * A change of MIG mode waits for a reset.
   */
  GPUSHARE_MODE_PENDING = 6,
  /**
   * An MPS daemon that is not gpushare's serves it.
   */
  GPUSHARE_MODE_FOREIGN = 7,
  /**
   * gpushare's MPS daemon is recorded, and dead.
   */
  GPUSHARE_MODE_DEGRADED = 8,
  /**
   * It does not answer, or is no longer there.
   */
  GPUSHARE_MODE_LOST = 9,
};
typedef uint32_t gpushare_mode;

/**
 * Whether a process is where it should be. What is unknown never counts as attached.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It cannot be told.
   */
  GPUSHARE_VERDICT_UNKNOWN = 0,
  /**
   * It is.
   */
  GPUSHARE_VERDICT_ATTACHED = 1,
  /**
   * It is not.
   */
  GPUSHARE_VERDICT_NOT_ATTACHED = 2,
};
typedef uint32_t gpushare_verdict;

/**
 * What happens. A newer library may have more.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Something that this library has no number for.
   */
  GPUSHARE_EVENT_KIND_OTHER = 0,
  /**
   * The GPUs are locked, the plan is consented to, and nothing is changed yet.
   */
  GPUSHARE_EVENT_KIND_PLANNED = 1,
  /**
   * Another process has the lock of a GPU.
   */
  GPUSHARE_EVENT_KIND_WAITING_FOR_LOCK = 2,
  /**
   * Holders have time to go by themselves.
   */
  GPUSHARE_EVENT_KIND_DRAINING = 3,
  /**
   * A holder is being ended.
   */
  GPUSHARE_EVENT_KIND_EVICTING = 4,
  /**
   * A step begins.
   */
  GPUSHARE_EVENT_KIND_STEP = 5,
  /**
   * Something failed, or the caller asked to stop: what was done is being undone.
   */
  GPUSHARE_EVENT_KIND_ROLLING_BACK = 6,
  /**
   * What a dead applier left is being settled.
   */
  GPUSHARE_EVENT_KIND_RECOVERING = 7,
  /**
   * A lease waits for a share.
   */
  GPUSHARE_EVENT_KIND_WAITING_FOR_SHARE = 8,
};
typedef uint32_t gpushare_event_kind;

/**
 * When a hook is called.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Something that this library has no number for.
   */
  GPUSHARE_MOMENT_OTHER = 0,
  /**
   * The GPUs are locked and there is something to do. Nobody was asked for consent yet: whoever the
   * hook ends is in the way no more. Nothing is touched when it says no.
   */
  GPUSHARE_MOMENT_PRE_APPLY = 1,
  /**
   * A step comes next that changes the MIG mode of `gpu` or resets it, for the first time in this
   * apply. When it says no, what was done is rolled back. Not called when such a step is undone.
   */
  GPUSHARE_MOMENT_PRE_MODE = 2,
  /**
   * All is done. That it says no undoes nothing: it is in the report, as `failed_hooks`.
   */
  GPUSHARE_MOMENT_POST_APPLY = 3,
  /**
   * It failed: `error` says how. What this hook says is added to that.
   */
  GPUSHARE_MOMENT_FAILURE = 4,
};
typedef uint32_t gpushare_moment;

/**
 * How much is logged.
 */
enum
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Of options: INFO. No message has it.
   */
  GPUSHARE_LOG_LEVEL_DEFAULT = 0,
  /**
   * What failed.
   */
  GPUSHARE_LOG_LEVEL_ERROR = 1,
  /**
   * What is not as it should be, and did not fail for it.
   */
  GPUSHARE_LOG_LEVEL_WARN = 2,
  /**
   * Each change of the hardware, among others; target `gpushare::audit` has those alone.
   */
  GPUSHARE_LOG_LEVEL_INFO = 3,
  /**
   * How decisions came about.
   */
  GPUSHARE_LOG_LEVEL_DEBUG = 4,
  /**
   * Everything.
   */
  GPUSHARE_LOG_LEVEL_TRACE = 5,
};
typedef uint32_t gpushare_log_level;

/**
 * Why a call failed. The caller's, until gpushare_error_free(). One thread at a time.
 *
 * A call that fails writes one where its last argument points, unless that is NULL; a call that
 * succeeds writes NULL there. Neither looks at what stood there before: an error that is not freed before
 * its pointer is used for the next call is lost, and leaks.
 */
typedef struct gpushare_error gpushare_error;

/**
 * The right of one process tree to one share, or to several. One thread at a time; it outlives its
 * node.
 *
 * It lasts until gpushare_lease_release(), or until the last process that has a descriptor of it is gone.
 * Its descriptors are close-on-exec and given up by forked children: gpushare_lease_dup_fd() makes a copy for
 * one process, and gpushare_lease_fd() hands them on to every child.
 */
typedef struct gpushare_lease gpushare_lease;

/**
 * The GPUs of one machine. Any thread may use it, several at once; plans and leases keep what they
 * need of it, so that all can be freed in any order. It holds no device open.
 */
typedef struct gpushare_node gpushare_node;

/**
 * The steps from the GPUs as they are to a spec. Any thread may use it, several at once, and it
 * outlives its node.
 */
typedef struct gpushare_plan gpushare_plan;

/**
 * When a hook is called, and with what. Everything in it is valid during the call alone.
 *
 * See gpushare_hook_fn.
 */
typedef struct gpushare_hook {
  /**
   * How much of this struct the library knows, in bytes: read what lies within it.
   */
  uint32_t struct_size;
  /**
   * When: a gpushare_moment.
   */
  uint32_t moment;
  /**
   * The plan that is carried out, a document of schema `gpushare.plan/v1`; never NULL.
   */
  const char *plan_json;
  /**
   * PRE_MODE: the uuid of the GPU; else NULL.
   */
  const char *gpu;
  /**
   * FAILURE: the error in words; else NULL.
   */
  const char *error;
  /**
   * FAILURE: its gpushare_status; else 0.
   */
  int32_t status;
  /**
   * FAILURE: its gpushare_outcome; else 0.
   */
  int32_t outcome;
} gpushare_hook;

/**
 * A function that is called around a change, and says whether it may go on.
 *
 * It runs on the thread that made the call. It returns 0 to go on, anything else to say no. Nothing is
 * called where there is nothing to do; after PRE_APPLY exactly one of POST_APPLY and FAILURE is, unless the
 * process dies. The GPUs are locked meanwhile: changing them with gpushare is LOCKED. It may fork: the call
 * goes on in the parent alone, and in a child that returns from it the call is INVALID_STATE, changes
 * nothing more and undoes nothing. No exception and no longjmp may leave it.
 */
typedef int32_t (*gpushare_hook_fn)(const struct gpushare_hook *hook, void *user);

/**
 * What apply may do, and how long it may wait: all zero allows nothing and does not wait.
 */
typedef struct gpushare_apply_options {
  /**
   * sizeof(gpushare_apply_options)
   */
  uint32_t struct_size;
  /**
   * Whether processes that are in the way are ended.
   */
  uint32_t allow_evict;
  /**
   * Whether GPUs are reset where that is the only way; covers the resets of a rollback too.
   */
  uint32_t allow_reset;
  /**
   * Must be 0.
   */
  uint32_t reserved;
  /**
   * The hazards that are accepted, by name with commas between: "bypass-possible,minimum-sm". NULL
   * for none. Which values do no harm is in the error that HAZARD comes with.
   */
  const char *allow_hazards;
  /**
   * The digest that the plan must have; NULL for any.
   */
  const char *expect_digest;
  /**
   * How long to wait for a GPU's lock, in seconds: 0 does not wait, below 0 is for ever.
   */
  double timeout_s;
  /**
   * How long processes have to go by themselves, in seconds.
   */
  double drain_s;
  /**
   * How long a process that is ended has between SIGTERM and SIGKILL, in seconds: 0 is 30, below 0
   * is no time.
   */
  double grace_s;
  /**
   * A directory of programs that are run around the change, `pre-apply`, `pre-mode`, `post-apply` and
   * `failure` as far as they are there: each reads the plan as JSON, and has GPUSHARE_HOOK, GPUSHARE_GPU
   * or GPUSHARE_ERROR in its environment. NULL for none.
   */
  const char *hooks;
  /**
   * How long each of them may take, in seconds: 0 is 60.
   */
  double hook_timeout_s;
  /**
   * A function that is called in their place; NULL for none.
   */
  gpushare_hook_fn hook;
  /**
   * What `hook` gets as its last argument.
   */
  void *hook_user;
  /**
   * The directory, by its absolute path, in which the GPUs have CDI specifications from now on, such as
   * "/var/run/cdi": a container gets a share by `gpushare.dev/share=NAME`. They follow every change of
   * these GPUs, also one that does not ask for it, and are written when nothing else is to do; which were
   * is in the report, as `cdi_specifications`. NULL for none but those that are there.
   */
  const char *cdi;
  /**
   * The `gpushare` program, by its absolute path, with which each container takes a lease of its share;
   * NULL for containers without leases. Goes with `cdi`. UNSUPPORTED where the node is simulated in memory,
   * which no other process sees.
   */
  const char *cdi_program;
  /**
   * Whether the CDI specifications of the GPUs are removed, and there are none from now on.
   */
  uint32_t no_cdi;
  /**
   * Must be 0.
   */
  uint32_t reserved_2;
} gpushare_apply_options;

/**
 * What happens while a call waits or works. Everything in it is valid during the callback alone.
 *
 * See gpushare_progress_fn.
 */
typedef struct gpushare_event {
  /**
   * How much of this struct the library knows, in bytes: read what lies within it.
   */
  uint32_t struct_size;
  /**
   * What happens: a gpushare_event_kind.
   */
  uint32_t kind;
  /**
   * STEP: its number over all GPUs, from 1; else 0.
   */
  uint32_t step;
  /**
   * STEP: how many there are. PLANNED: how many there will be.
   */
  uint32_t steps;
  /**
   * The uuid of the GPU that it is about; NULL where it is about none or several.
   */
  const char *gpu;
  /**
   * It in words, one line of UTF-8; never NULL.
   */
  const char *text;
  /**
   * WAITING_FOR_SHARE: the seconds waited so far; else 0.
   */
  double waited_s;
} gpushare_event;

/**
 * A function that hears what happens, and says whether to go on.
 *
 * It runs on the thread that made the call, at each step and every 100 ms of waiting. It returns 0 to go
 * on; anything else stops: what was done is rolled back, and the call returns INTERRUPTED. It may call
 * the library, of the same node too: a GPU that the call has locked is LOCKED to it then, so that
 * it must not wait for ever (`timeout_s`) for that. It may fork: the call goes on in the parent alone, and
 * in a child that returns from it the call is INVALID_STATE, changes nothing more and undoes nothing. No
 * exception and no longjmp may leave it.
 */
typedef int32_t (*gpushare_progress_fn)(const struct gpushare_event *event, void *user);

/**
 * A GPU as it was observed. Set `struct_size` before the call. The document of
 * gpushare_node_status_json() has all there is to know.
 */
typedef struct gpushare_gpu_info {
  /**
   * sizeof(gpushare_gpu_info)
   */
  uint32_t struct_size;
  /**
   * How it is shared: a gpushare_mode.
   */
  uint32_t mode;
  /**
   * Its uuid: the key to it.
   */
  char uuid[GPUSHARE_ID_SIZE];
  /**
   * Its PCI address; empty where unknown.
   */
  char pci[GPUSHARE_PCI_SIZE];
  /**
   * NVML's name without "NVIDIA ".
   */
  char model[GPUSHARE_NAME_SIZE];
  /**
   * NVML's index, never a CUDA ordinal; -1 where unknown.
   */
  int32_t index;
  /**
   * The minor number of /dev/nvidiaN; -1 where unknown.
   */
  int32_t minor_number;
  /**
   * Its memory in bytes; 0 where unknown.
   */
  uint64_t memory_bytes;
  /**
   * Its streaming multiprocessors; 0 where unknown.
   */
  uint32_t sm_count;
  /**
   * The major number of its compute capability; 0 where unknown.
   */
  uint32_t compute_capability_major;
  /**
   * The minor number of its compute capability.
   */
  uint32_t compute_capability_minor;
  /**
   * Whether MIG is on.
   */
  uint32_t mig_enabled;
  /**
   * How many MIG devices it has.
   */
  uint32_t mig_device_count;
  /**
   * How many shares of it can be leased.
   */
  uint32_t share_count;
  /**
   * How many of these nobody has leased.
   */
  uint32_t free_share_count;
  /**
   * How many processes are on it, as far as the driver shows them.
   */
  uint32_t process_count;
  /**
   * Whether the driver did not show who uses it: then it is not known to be idle.
   */
  uint32_t processes_hidden;
  /**
   * Whether not all of it could be seen, for want of a privilege.
   */
  uint32_t visibility_partial;
  /**
   * Whether no new leases of it are given: gpushare_node_cordon().
   */
  uint32_t cordoned;
  /**
   * Whether a change of it was not finished: gpushare_node_recover().
   */
  uint32_t unsettled;
} gpushare_gpu_info;

/**
 * A request for a lease: all zero asks for one share of any GPU and does not wait. At most one of
 * `share`, `gpu` and `mig_profile` is set.
 */
typedef struct gpushare_lease_request {
  /**
   * sizeof(gpushare_lease_request)
   */
  uint32_t struct_size;
  /**
   * How many shares, all or none, of different devices where there are enough; 0 is 1.
   */
  uint32_t count;
  /**
   * That share, by its id.
   */
  const char *share;
  /**
   * A share of that GPU: NVML's index, a uuid or the beginning of one, a PCI address.
   */
  const char *gpu;
  /**
   * A MIG device of that profile, "1g.10gb"; "1g" for the smallest of a GPU, "any" for the smallest that
   * has what is asked for.
   */
  const char *mig_profile;
  /**
   * Only what a process with that CUDA_VISIBLE_DEVICES would see; NULL for all. The environment is
   * not read: who wants its own counted passes getenv("CUDA_VISIBLE_DEVICES").
   */
  const char *visible;
  /**
   * MPS: the share of threads in percent that the tenant is asked to take; 0 asks nothing.
   */
  double thread_percentage;
  /**
   * MPS: the device memory in bytes, whole MiB, that the tenant is asked to take; 0 asks nothing.
   */
  uint64_t pinned_memory_bytes;
  /**
   * Devices with at least that much memory, in bytes.
   */
  uint64_t min_memory_bytes;
  /**
   * Devices with at least that many multiprocessors.
   */
  uint32_t min_sm_count;
  /**
   * Whether a MIG device of `mig_profile` is created where none is free. Needs root; nothing that is
   * there is destroyed for it.
   */
  uint32_t create;
  /**
   * How long to wait for a share, in seconds: 0 does not wait, below 0 is for ever. First come,
   * first served.
   */
  double timeout_s;
  /**
   * Whether what was created is destroyed by gpushare_lease_release(). A holder that is killed gives
   * nothing back: the MIG device stays.
   */
  uint32_t give_back;
  /**
   * The process that the share is held for, where that is another one; else 0.
   */
  int32_t for_pid;
  /**
   * The hazards that are accepted, by name with commas between; NULL for none.
   */
  const char *allow_hazards;
  /**
   * Hears every 100 ms of waiting who is in the way, and may stop it; NULL for nobody.
   */
  gpushare_progress_fn progress;
  /**
   * What `progress` gets as its last argument.
   */
  void *progress_user;
} gpushare_lease_request;

/**
 * One share of a lease. Set `struct_size` before the call.
 */
typedef struct gpushare_lease_share {
  /**
   * sizeof(gpushare_lease_share)
   */
  uint32_t struct_size;
  /**
   * How its GPU is shared: a gpushare_mode.
   */
  uint32_t mode;
  /**
   * Its id.
   */
  char id[GPUSHARE_ID_SIZE];
  /**
   * The uuid of its GPU.
   */
  char gpu[GPUSHARE_ID_SIZE];
  /**
   * The uuid of the MIG device that it is of; empty for a whole GPU.
   */
  char mig_device[GPUSHARE_ID_SIZE];
  /**
   * The profile of that MIG device.
   */
  char profile[GPUSHARE_PROFILE_SIZE];
  /**
   * The model of its GPU.
   */
  char model[GPUSHARE_NAME_SIZE];
  /**
   * NVML's index of its GPU, never a CUDA ordinal; -1 where unknown.
   */
  int32_t index;
  /**
   * The multiprocessors that the tenant can use at most; 0 where unknown.
   */
  uint32_t sm_count;
  /**
   * The device memory in bytes that the tenant can use at most; 0 where unknown.
   */
  uint64_t memory_bytes;
  /**
   * Whether the tenant is to be a client of an MPS daemon: see gpushare_lease_verify().
   */
  uint32_t mps_client;
  /**
   * Whether it holds for this user's processes alone, because gpushare is not set up on this node.
   */
  uint32_t scope_private;
} gpushare_lease_share;

/**
 * A device node that the tenant needs. Set `struct_size` before the call.
 */
typedef struct gpushare_device_node {
  /**
   * sizeof(gpushare_device_node)
   */
  uint32_t struct_size;
  /**
   * Its major number; -1 where unknown.
   */
  int32_t major_number;
  /**
   * Its minor number; -1 where unknown.
   */
  int32_t minor_number;
  /**
   * Whether it is not there.
   */
  uint32_t missing;
  /**
   * Where it is, or would be.
   */
  char path[GPUSHARE_PATH_SIZE];
  /**
   * What makes it, where it is missing.
   */
  char made_by[GPUSHARE_NAME_SIZE];
} gpushare_device_node;

/**
 * Whether a process is a client of an MPS daemon of gpushare's, and what holds it there. Set
 * `struct_size` before the call.
 */
typedef struct gpushare_mps_attachment {
  /**
   * sizeof(gpushare_mps_attachment)
   */
  uint32_t struct_size;
  /**
   * A gpushare_verdict. Only ATTACHED is a yes.
   */
  uint32_t verdict;
  /**
   * The process.
   */
  int32_t pid;
  /**
   * ATTACHED: the process of the MPS server; else 0.
   */
  int32_t server_pid;
  /**
   * When the process started, in clock ticks since boot; 0 where unknown.
   */
  uint64_t start_time;
  /**
   * ATTACHED: the device memory that it uses there in bytes, by NVML; 0 where unknown.
   */
  uint64_t memory_bytes;
  /**
   * The device memory in bytes that the server lets it have at most; 0 where unknown.
   */
  uint64_t at_most_memory_bytes;
  /**
   * The share of threads in percent that the server lets it have at most; 0 where unknown.
   */
  double at_most_thread_percentage;
  /**
   * The multiprocessors that the server lets it have at most; 0 where unknown.
   */
  uint32_t at_most_sm_count;
  /**
   * Whether the node is simulated.
   */
  uint32_t simulated;
  /**
   * ATTACHED: the uuid of the GPU or MIG device whose daemon serves it; else empty.
   */
  char domain[GPUSHARE_ID_SIZE];
  /**
   * Why, in words.
   */
  char reason[GPUSHARE_REASON_SIZE];
} gpushare_mps_attachment;

/**
 * A function that hears what happens. Level is a gpushare_log_level; target, such as
 * `gpushare::audit`, and message are UTF-8 and valid during the call alone.
 *
 * The message is what happened in words, where there are any, and then each field as name=value, with blanks
 * between; of `gpushare::audit` it is fields alone, "uid=0 pid=4711 digest=4ad2... gpu=GPU-1e10...", and a
 * field that is text may stand in quotes. People read it: which fields there are is not promised.
 *
 * It runs on the thread that called the library, and from several at once where several call; before the
 * call that it is of returns. It may call the library: that is not logged, and a change of the GPU that
 * the call is of is LOCKED. It must return: no exception and no longjmp may leave it.
 */
typedef void (*gpushare_log_fn)(uint32_t level, const char *target, const char *message, void *user);

/**
 * How a node is opened. Set everything to zero, then `struct_size`, then what you want otherwise.
 *
 * What is NULL is taken from the environment where that has it (GPUSHARE_SIM, GPUSHARE_STATE_DIR,
 * GPUSHARE_NVML_PATH, GPUSHARE_NVIDIA_SMI, GPUSHARE_MPS_CONTROL), unless the program is set-id or
 * `ignore_environment` is set. A daemon that changes GPUs sets it: its environment may be another's.
 */
typedef struct gpushare_node_options {
  /**
   * sizeof(gpushare_node_options)
   */
  uint32_t struct_size;
  /**
   * The most that is logged: a gpushare_log_level.
   */
  uint32_t log_level;
  /**
   * A simulated node, "8xH100-80GB" or "2xA100-40GB,1xA30-24GB"; NULL for this machine. Without a
   * state directory it is in memory and this handle's own, but for its leases, which are files in a
   * directory of its own below TMPDIR or /tmp, gpushare-PID-..., that goes with the node.
   */
  const char *sim;
  /**
   * Where records, journals, locks and leases are, instead of /var/lib/gpushare and /run/gpushare. A
   * relative path counts from the directory that the process is in now.
   */
  const char *state_dir;
  /**
   * The driver's library instead of the system's libnvidia-ml.so.1: an absolute path.
   */
  const char *nvml_path;
  /**
   * nvidia-smi instead of /usr/bin/nvidia-smi: an absolute path.
   */
  const char *nvidia_smi;
  /**
   * nvidia-cuda-mps-control instead of the one in /usr/bin: an absolute path.
   */
  const char *mps_control;
  /**
   * Hears what happens within the calls of this node and of what came of it; NULL for nobody.
   */
  gpushare_log_fn log;
  /**
   * What `log` gets as its last argument.
   */
  void *log_user;
  /**
   * Whether the GPUSHARE_ variables of the environment count for nothing.
   */
  uint32_t ignore_environment;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} gpushare_node_options;

/**
 * What can be leased, as it was observed. Set `struct_size` before the call.
 */
typedef struct gpushare_share_info {
  /**
   * sizeof(gpushare_share_info)
   */
  uint32_t struct_size;
  /**
   * The position of its GPU, for gpushare_node_gpu_info().
   */
  uint32_t gpu;
  /**
   * Its id, which a lease can ask for.
   */
  char id[GPUSHARE_ID_SIZE];
  /**
   * The uuid of the GPU or MIG device that it is of.
   */
  char device[GPUSHARE_ID_SIZE];
  /**
   * The profile of the MIG device; empty for a whole GPU.
   */
  char profile[GPUSHARE_PROFILE_SIZE];
  /**
   * The memory of that device in bytes, of which an MPS client may get less; 0 where unknown.
   */
  uint64_t memory_bytes;
  /**
   * The streaming multiprocessors of that device; 0 where unknown.
   */
  uint32_t sm_count;
  /**
   * Whether somebody has leased it.
   */
  uint32_t leased;
  /**
   * The process that holds the lease, one of several perhaps; 0 where nobody does.
   */
  int32_t holder_pid;
  /**
   * The process for which it is held, where that is not the holder; else 0.
   */
  int32_t for_pid;
  /**
   * Whether the process that took the lease is gone or has released it, and others hold on:
   * children of it, or who was handed a descriptor. `holder_pid` is one of those, as far as it can be seen.
   */
  uint32_t inherited;
  /**
   * Whether no new leases of its GPU are given.
   */
  uint32_t cordoned;
  /**
   * The uuid of its GPU.
   */
  char gpu_uuid[GPUSHARE_ID_SIZE];
  /**
   * How its GPU is shared: a gpushare_mode.
   */
  uint32_t mode;
  /**
   * NVML's index of its GPU, never a CUDA ordinal; -1 where unknown.
   */
  int32_t index;
} gpushare_share_info;

/**
 * Carries a plan out, if the GPUs are still as it was made for. Needs root.
 *
 * Afterwards a GPU is in the state before or in the state wanted. A plan is from one state to another:
 * once it has changed something, to apply it again is STALE. Plan the spec anew; where it has been
 * reached, that plan is a no-op. A no-op can be applied again and again. `options` may be NULL. `progress`,
 * called with `user`, may be NULL. What was done is in gpushare_plan_report_json().
 *
 * Returns BUSY, RESET_REQUIRED or HAZARD before anything is touched, where that was not allowed; STALE
 * where the GPUs are no longer as they were planned for; LOCKED and TIMEOUT where another changes them;
 * INTERRUPTED where `progress` stopped it; INVALID_ARGUMENT; INVALID_STATE in a forked child; NOT_FOUND,
 * UNSUPPORTED, INSUFFICIENT, PERMISSION_DENIED, DRIVER, MPS, IO, RECOVERY_REQUIRED. Where
 * gpushare_error_outcome() is INDETERMINATE, gpushare_node_recover() is due.
 */
int32_t gpushare_plan_apply(const struct gpushare_plan *plan,
                            const struct gpushare_apply_options *options,
                            gpushare_progress_fn progress,
                            void *user,
                            struct gpushare_error **err);

/**
 * Stops new leases of a GPU, whatever its mode becomes, until gpushare_node_uncordon(). Leases that
 * are there stay. Needs root; survives a reboot.
 *
 * `gpu` is NVML's index, a uuid or the beginning of one, a PCI address, or "all"; `reason` is one line.
 *
 * Returns NOT_FOUND for a GPU that is not there; INVALID_ARGUMENT; PERMISSION_DENIED; IO.
 */
int32_t gpushare_node_cordon(const struct gpushare_node *node,
                             const char *gpu,
                             const char *reason,
                             struct gpushare_error **err);

/**
 * Lets shares of a GPU be leased again. Nothing happens to one that was not stopped. Needs root.
 *
 * `gpu` is as in gpushare_node_cordon().
 *
 * Returns NOT_FOUND for a GPU that is not there; INVALID_ARGUMENT; PERMISSION_DENIED; IO.
 */
int32_t gpushare_node_uncordon(const struct gpushare_node *node,
                               const char *gpu,
                               struct gpushare_error **err);

/**
 * Who has which share now, as a document of schema `gpushare.leases/v1`. As root it also makes it
 * possible for all users to lease what there is.
 *
 * `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns NOT_FOUND without a driver; DRIVER; IO.
 */
int32_t gpushare_node_leases_json(const struct gpushare_node *node,
                                  char **json,
                                  struct gpushare_error **err);

/**
 * What stands in the way of sharing GPUs on this machine, and the command that mends it, as a document
 * of schema `gpushare.doctor/v1`. Changes nothing and needs no privilege: what it could not see, it
 * says. Looks at the machine anew, which takes tens of milliseconds, or as long as the driver takes.
 *
 * That something is wrong is an answer, not an error: `findings` has it, the worst first.
 * `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns INVALID_ARGUMENT; INVALID_STATE in a forked child.
 */
int32_t gpushare_node_doctor_json(const struct gpushare_node *node,
                                  char **json,
                                  struct gpushare_error **err);

/**
 * Every way to run a workload on this node, the recommended one first with the spec that does it, as a
 * document of schema `gpushare.advice/v1`. Changes nothing and needs no privilege.
 *
 * `workload` is an object of JSON: `count`, the processes at the same time, must be there; `memory_bytes`
 * of each, `kernels` (`small`, `large`), `isolation` (`none`, `limits`, `strict`), `style` (`interactive`,
 * `batch`) and `half_precision` (true, false) where they are known.
 * That nothing fits is an answer, not an error: `recommended` is null then.
 * `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns INVALID_ARGUMENT for a workload that cannot be read, with why; NOT_FOUND without a driver;
 * DRIVER; IO.
 */
int32_t gpushare_node_advise_json(const struct gpushare_node *node,
                                  const char *workload,
                                  char **json,
                                  struct gpushare_error **err);

/**
 * Its status: a gpushare_status, the same that the call returned. 0 for NULL.
 */
int32_t gpushare_error_code(const struct gpushare_error *err);

/**
 * What was asked, of which GPU, what stood in the way and what to do: one line for people, UTF-8.
 *
 * The error's own: it is valid until gpushare_error_free(). NULL for NULL.
 */
const char *gpushare_error_message(const struct gpushare_error *err);

/**
 * What it left behind on the hardware: a gpushare_outcome. UNTOUCHED for NULL.
 */
int32_t gpushare_error_outcome(const struct gpushare_error *err);

/**
 * What NVML returned, an nvmlReturn_t, where a call of the driver failed; -1 for every other error
 * and for NULL. Which call that was is in gpushare_error_to_json().
 */
int32_t gpushare_error_nvml_return(const struct gpushare_error *err);

/**
 * The number of the system's error, an errno, where the system gave one: ENOSPC, EACCES; 0 for every
 * other error and for NULL. Which file it is about is in gpushare_error_to_json().
 */
int32_t gpushare_error_os_error(const struct gpushare_error *err);

/**
 * Everything that is known of it: a document of schema `gpushare.error/v1`, with who is in the way
 * (`holders`), what is missing (`needs`), what would fit (`fits`), which values do no harm (`safe`).
 *
 * The caller's, to be freed with gpushare_string_free(). NULL for NULL.
 */
char *gpushare_error_to_json(const struct gpushare_error *err);

/**
 * Frees an error, and with it its message. Does nothing for NULL.
 */
void gpushare_error_free(struct gpushare_error *err);

/**
 * The state of this node in the words of another tool, as a document of schema `gpushare.export/v1`:
 * `text`, and what it `cannot_say`, in sentences. Observes the node anew. Changes nothing and needs no
 * privilege.
 *
 * `kind` is `mig-parted`, `docker-run`, `compose`, `device-plugin`, `gpu-operator`, `resource-claim`,
 * `gres` or `cdi`. `options` may be NULL, or an object of JSON: `config` (mig-parted, gpu-operator), `image`
 * and `cdi` (docker-run, compose), `node` (gpu-operator, gres), `allow_hazards`, a list of names
 * (device-plugin, gpu-operator, resource-claim, gres). To keep specifications of CDI, `cdi` of
 * gpushare_apply_options.
 * `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns INVALID_ARGUMENT for a kind or options that are none, and options of another kind;
 * UNSUPPORTED where the other tool has one setting for what differs here; HAZARD, with safe values,
 * where its daemon would be told what harms; NOT_FOUND without a driver, and where there is nothing to
 * say; DRIVER; IO; INVALID_STATE in a forked child.
 */
int32_t gpushare_node_export_json(const struct gpushare_node *node,
                                  const char *kind,
                                  const char *options,
                                  char **json,
                                  struct gpushare_error **err);

/**
 * How many GPUs the node has, lost ones included that records of gpushare know.
 *
 * Returns NOT_FOUND without a driver; DRIVER; IO.
 */
int32_t gpushare_node_gpu_count(const struct gpushare_node *node,
                                size_t *count,
                                struct gpushare_error **err);

/**
 * Fills in what was observed of the GPU at a position from 0 to gpushare_node_gpu_count() - 1: they go
 * by NVML's index, lost ones come last.
 *
 * Returns INVALID_ARGUMENT for a position past the end; as gpushare_node_gpu_count().
 */
int32_t gpushare_node_gpu_info(const struct gpushare_node *node,
                               size_t index,
                               struct gpushare_gpu_info *info,
                               struct gpushare_error **err);

/**
 * Leases what is asked for, or waits for it as long as the request says. `request` may be NULL: any
 * share. `*lease` is the caller's, to be given back with gpushare_lease_release().
 *
 * Returns BUSY where others have it and no waiting was wanted, with who; TIMEOUT; NOT_FOUND and
 * INSUFFICIENT where there is no such share, with what there is; INVALID_STATE and RECOVERY_REQUIRED
 * for a GPU of which nothing is leased now; UNSUPPORTED for limits without MPS; HAZARD, with values
 * that do no harm; PERMISSION_DENIED; IO; INTERRUPTED where the request's callback stopped it.
 */
int32_t gpushare_lease_acquire(const struct gpushare_node *node,
                               const struct gpushare_lease_request *request,
                               struct gpushare_lease **lease,
                               struct gpushare_error **err);

/**
 * The name of the lease, which `gpushare leases` shows.
 *
 * The lease's own: it is valid until gpushare_lease_release(). NULL for NULL.
 */
const char *gpushare_lease_name(const struct gpushare_lease *lease);

/**
 * How many shares the lease is of. 0 for NULL.
 */
size_t gpushare_lease_share_count(const struct gpushare_lease *lease);

/**
 * Fills in what the lease gives of its share at a position from 0 to gpushare_lease_share_count() - 1.
 *
 * Returns INVALID_ARGUMENT for a position past the end.
 */
int32_t gpushare_lease_info(const struct gpushare_lease *lease,
                            size_t index,
                            struct gpushare_lease_share *info,
                            struct gpushare_error **err);

/**
 * How many variables the tenant's environment needs set or removed. 0 for NULL.
 */
size_t gpushare_lease_env_count(const struct gpushare_lease *lease);

/**
 * One variable of the tenant's environment: set it to `*value`, or remove it where `*value` is NULL.
 * Do all of them: what an outer environment says of MPS would count otherwise.
 *
 * Both are the lease's own, and valid until gpushare_lease_release().
 *
 * Returns INVALID_ARGUMENT for a NULL and for a position past the end, and there is no more to be said.
 */
int32_t gpushare_lease_env(const struct gpushare_lease *lease,
                           size_t index,
                           const char **name,
                           const char **value);

/**
 * How many device nodes the tenant needs. 0 for NULL.
 */
size_t gpushare_lease_device_node_count(const struct gpushare_lease *lease);

/**
 * Fills in a device node that the tenant needs: those of the driver, of its GPUs, and of a MIG device
 * two capabilities. For containers.
 *
 * Returns INVALID_ARGUMENT for a position past the end.
 */
int32_t gpushare_lease_device_node(const struct gpushare_lease *lease,
                                   size_t index,
                                   struct gpushare_device_node *device_node,
                                   struct gpushare_error **err);

/**
 * A copy of the descriptor that holds the share at a position from 0 to gpushare_lease_share_count() - 1,
 * for the one process that is to have the share: by dup2() or F_SETFD in a forked child, an action of
 * posix_spawn(), or SCM_RIGHTS. Whoever has one holds the share, after gpushare_lease_release() too.
 *
 * It is the caller's, to be closed with close(), and close-on-exec: children that are forked meanwhile
 * have it until they exec. Close it as soon as it is handed over. -1 on failure.
 *
 * Returns INVALID_ARGUMENT for a position past the end; INVALID_STATE in a forked child; IO.
 */
int32_t gpushare_lease_dup_fd(const struct gpushare_lease *lease,
                              size_t index,
                              int32_t *fd,
                              struct gpushare_error **err);

/**
 * The descriptor that holds the share at a position from 0 to gpushare_lease_share_count() - 1, and
 * hands the lease on, to no one in particular: the descriptors of all its shares lose close-on-exec, and
 * from now on every child that any thread of this process starts has them, past exec, and so have
 * the children of these. What the lease is of is free when all of them are gone. A process with
 * several leases or other children wants gpushare_lease_dup_fd().
 *
 * It is the lease's own and not to be closed. -1 on failure.
 *
 * Returns INVALID_ARGUMENT for a position past the end; INVALID_STATE in a forked child; IO.
 */
int32_t gpushare_lease_fd(const struct gpushare_lease *lease,
                          size_t index,
                          int32_t *fd,
                          struct gpushare_error **err);

/**
 * Everything that the lease says of itself, as a document of schema `gpushare.lease/v1`: what the
 * tenant is held to (`enforced`) and what it is asked for (`declared`).
 *
 * `*json` is the caller's, to be freed with gpushare_string_free().
 */
int32_t gpushare_lease_to_json(const struct gpushare_lease *lease,
                               char **json,
                               struct gpushare_error **err);

/**
 * Refuses a lease that is void: its GPU was partitioned anew, reset or lost.
 *
 * Returns INVALID_STATE saying why; as gpushare_node_refresh().
 */
int32_t gpushare_lease_check(const struct gpushare_lease *lease, struct gpushare_error **err);

/**
 * Whether a process is inside the lease: on its devices and on no other, and where they are an MPS
 * daemon's, as a client of that daemon. `*verdict` is a gpushare_verdict: only ATTACHED is a yes, and
 * who does not use CUDA yet is UNKNOWN.
 *
 * `*json`, why, is the caller's, to be freed with gpushare_string_free(); `json` may be NULL.
 *
 * Returns NOT_FOUND where there is no such process; as gpushare_node_refresh().
 */
int32_t gpushare_lease_verify(const struct gpushare_lease *lease,
                              int32_t pid,
                              uint32_t *verdict,
                              char **json,
                              struct gpushare_error **err);

/**
 * Gives a lease back and frees it, whatever is returned. Whoever has a descriptor of it keeps the share
 * until they are gone. What was created for it is destroyed where `give_back` said so. In a forked child it
 * only closes. Does nothing for NULL.
 *
 * Returns what destroying it returned. BUSY: it stays, because a child still has a descriptor, or somebody
 * else was quicker to lease it; the error names it and them, and nobody destroys it later. Wait
 * for the children first. Else as gpushare_plan_apply(). Whoever is killed gives nothing back.
 */
int32_t gpushare_lease_release(struct gpushare_lease *lease,
                               struct gpushare_error **err);

/**
 * The word for a mode: "mig", "time_sliced". Never NULL: a number that is no mode is "unknown".
 */
const char *gpushare_mode_name(uint32_t mode);

/**
 * Whether a process is a client of an MPS daemon of gpushare's, by what the daemon and the driver say,
 * never by what the process was told. A process that misses the daemon by a letter of its environment
 * runs with the whole GPU and without an error: ask after it began to use CUDA.
 *
 * Needs no privilege to say UNKNOWN; to see daemons and clients of other users, root.
 *
 * Returns NOT_FOUND where there is no such process; as gpushare_node_refresh().
 */
int32_t gpushare_mps_verify(const struct gpushare_node *node,
                            int32_t pid,
                            struct gpushare_mps_attachment *attachment,
                            struct gpushare_error **err);

/**
 * The same as a document of schema `gpushare.attachment/v1`, with all reasons and what the process's
 * environment asks for, which is declared and not enforced.
 *
 * `*json` is the caller's, to be freed with gpushare_string_free().
 */
int32_t gpushare_mps_verify_json(const struct gpushare_node *node,
                                 int32_t pid,
                                 char **json,
                                 struct gpushare_error **err);

/**
 * Equal parts of a GPU for that many MPS clients, with percentages that corrupt nothing: a document of
 * schema `gpushare.split/v1`. Speaks of the snapshot that gpushare_node_gpu_info() speaks of.
 *
 * `gpu` is NVML's index, a uuid or the beginning of one, or a PCI address; `all` or NULL where
 * all GPUs of the node have one answer. `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns INVALID_ARGUMENT for 0 parts or more than a daemon serves; UNSUPPORTED where no percentage is
 * known to be right; INSUFFICIENT for more than fit, with the most that do; NOT_FOUND.
 */
int32_t gpushare_mps_split(const struct gpushare_node *node,
                           const char *gpu,
                           uint32_t parts,
                           char **json,
                           struct gpushare_error **err);

/**
 * Opens a node: of this machine, or what the options say. `options` may be NULL.
 *
 * The driver is not opened: that is done by what needs it, and where there is none, that answers
 * NOT_FOUND. `*node` is the caller's, to be freed with gpushare_node_free().
 *
 * Returns INVALID_ARGUMENT for a fleet that cannot be read or a path that is not absolute;
 * PERMISSION_DENIED as root for a library or program that others could have written.
 */
int32_t gpushare_node_open(const struct gpushare_node_options *options,
                           struct gpushare_node **node,
                           struct gpushare_error **err);

/**
 * Frees a node. Its plans and leases stay valid. Does nothing for NULL.
 */
void gpushare_node_free(struct gpushare_node *node);

/**
 * 1 for a simulated node, 0 for a real one and for NULL.
 */
int32_t gpushare_node_is_simulated(const struct gpushare_node *node);

/**
 * Looks at the GPUs anew.
 *
 * gpushare_node_gpu_count(), _gpu_info(), _share_count(), _share_info() and _status_json() speak of one
 * snapshot, taken when the first of them is called. After this, and after what changes GPUs through this
 * node, they look anew: gpushare_plan_apply(), gpushare_node_recover(), gpushare_node_discard(),
 * gpushare_node_cordon(), gpushare_node_uncordon(), a gpushare_lease_acquire() with `create`, a
 * gpushare_lease_release() with `give_back`. Leases that create nothing, and what others do, are not seen
 * before. Where another thread refreshes meanwhile, their indices may mean other GPUs: take the uuid.
 *
 * Returns NOT_FOUND without a driver; DRIVER; IO.
 */
int32_t gpushare_node_refresh(const struct gpushare_node *node,
                              struct gpushare_error **err);

/**
 * The node as a document of schema `gpushare.status/v1`: GPUs, how each is shared and why, MIG devices,
 * MPS daemons, shares and who has them, processes. What is unknown is null.
 *
 * `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns NOT_FOUND without a driver; DRIVER; IO.
 */
int32_t gpushare_node_status_json(const struct gpushare_node *node,
                                  char **json,
                                  struct gpushare_error **err);

/**
 * Settles what a process left that was killed while it changed GPUs: rolls it back, or else finishes
 * it. Then ends MPS daemons of gpushare's whose devices are gone. Needs root.
 *
 * `*report_json`, a document of schema `gpushare.report/v1`, is the caller's, to be freed with
 * gpushare_string_free(); `report_json` may be NULL.
 *
 * Returns RECOVERY_REQUIRED where a person has to decide, with the journal; LOCKED where whoever changes a
 * GPU is alive; NOT_FOUND without a driver; PERMISSION_DENIED; BUSY; DRIVER; MPS; IO; INVALID_STATE in a
 * forked child.
 */
int32_t gpushare_node_recover(const struct gpushare_node *node,
                              char **report_json,
                              struct gpushare_error **err);

/**
 * Sets the journal of an unfinished change aside that a person has decided about, after
 * gpushare_node_recover() answered RECOVERY_REQUIRED and named it: the GPUs stay as they are now, and can be
 * changed again. Needs root.
 *
 * `journal` is the name in that error's message. `*place`, the file that has it now, is the caller's,
 * to be freed with gpushare_string_free(); `place` may be NULL.
 *
 * Returns NOT_FOUND for a journal that is not there; LOCKED; PERMISSION_DENIED; IO.
 */
int32_t gpushare_node_discard(const struct gpushare_node *node,
                              const char *journal,
                              char **place,
                              struct gpushare_error **err);

/**
 * Plans the way to a spec: YAML or JSON of `len` bytes at `spec`, at most 1 MiB, which need not end in
 * NUL. Looks at the GPUs anew, changes nothing, and needs no privilege, except where MIG is on.
 *
 * It asks no consent: where only an eviction, a reset or a hazard leads to the spec, the plan lists it
 * (`needs` in gpushare_plan_to_json()), and gpushare_plan_apply() has to be allowed it.
 * `*plan` is the caller's, to be freed with gpushare_plan_free().
 *
 * Returns INVALID_ARGUMENT for a spec that cannot be read, with key and line; NOT_FOUND for a GPU that
 * is not there; UNSUPPORTED for a mode that a GPU lacks; INSUFFICIENT for more than fits, with what
 * would; PERMISSION_DENIED; RECOVERY_REQUIRED.
 */
int32_t gpushare_node_plan(const struct gpushare_node *node,
                           const char *spec,
                           size_t len,
                           struct gpushare_plan **plan,
                           struct gpushare_error **err);

/**
 * Frees a plan. Does nothing for NULL.
 */
void gpushare_plan_free(struct gpushare_plan *plan);

/**
 * 1 where there is nothing to do, else 0. 0 for NULL.
 */
int32_t gpushare_plan_is_noop(const struct gpushare_plan *plan);

/**
 * How many steps there are, over all GPUs. 0 for NULL.
 */
size_t gpushare_plan_step_count(const struct gpushare_plan *plan);

/**
 * The name of this plan on this state of the GPUs: SHA-256 in hexadecimal. Who reviewed it can
 * have it applied and no other: `expect_digest` of gpushare_apply_options.
 *
 * The plan's own: it is valid until gpushare_plan_free(). NULL for NULL.
 */
const char *gpushare_plan_digest(const struct gpushare_plan *plan);

/**
 * The plan as a document of schema `gpushare.plan/v1`: for each GPU what stays, each step, and what
 * would still fit; and what has to be allowed.
 *
 * `*json` is the caller's, to be freed with gpushare_string_free().
 */
int32_t gpushare_plan_to_json(const struct gpushare_plan *plan,
                              char **json,
                              struct gpushare_error **err);

/**
 * What the last gpushare_plan_apply() of this plan that succeeded has done: a document of schema
 * `gpushare.report/v1`. Its `previous` is a spec that leads back; `recreated` names MIG devices that
 * have another uuid now.
 *
 * `*json` is the caller's, to be freed with gpushare_string_free().
 *
 * Returns INVALID_STATE before that.
 */
int32_t gpushare_plan_report_json(const struct gpushare_plan *plan,
                                  char **json,
                                  struct gpushare_error **err);

/**
 * A spec of the GPUs that the plan changes as they were when it was made, as JSON: plan and apply it to
 * undo the change. It names no GPU where the plan is a no-op. It is `previous` of the report, which says in
 * `not_in_previous` what no spec can say.
 *
 * It is there before the plan is applied: who keeps it first has the way back even when they are killed
 * meanwhile. An apply that succeeds started from just that state: any other is STALE.
 *
 * `*spec` is the caller's, to be freed with gpushare_string_free().
 */
int32_t gpushare_plan_previous_json(const struct gpushare_plan *plan,
                                    char **spec,
                                    struct gpushare_error **err);

/**
 * The devices that CUDA shows a process with that value of CUDA_VISIBLE_DEVICES, without CUDA; NULL is
 * the variable unset. Reads no environment. That CUDA shows none is an answer, not an error.
 *
 * `*json`, a document of schema `gpushare.resolve/v1`, is the caller's, to be freed with
 * gpushare_string_free().
 *
 * Returns NOT_FOUND without a driver; DRIVER; IO; INVALID_ARGUMENT for what is not UTF-8.
 */
int32_t gpushare_resolve_visible_devices(const struct gpushare_node *node,
                                         const char *cvd,
                                         char **json,
                                         struct gpushare_error **err);

/**
 * How many shares the node has, over all its GPUs.
 *
 * Returns NOT_FOUND without a driver; DRIVER; IO.
 */
int32_t gpushare_node_share_count(const struct gpushare_node *node,
                                  size_t *count,
                                  struct gpushare_error **err);

/**
 * Fills in what was observed of the share at a position from 0 to gpushare_node_share_count() - 1:
 * they go by GPU, and there by device and number.
 *
 * Returns INVALID_ARGUMENT for a position past the end; as gpushare_node_share_count().
 */
int32_t gpushare_node_share_info(const struct gpushare_node *node,
                                 size_t index,
                                 struct gpushare_share_info *info,
                                 struct gpushare_error **err);

/**
 * The name of a status: "OK", "BUSY". Never NULL: a number that is no status is "UNKNOWN".
 */
const char *gpushare_status_name(int32_t status);

/**
 * Frees a string that the library gave to the caller: every `char *` that a function wrote or
 * returned without `const`. Does nothing for NULL.
 */
void gpushare_string_free(char *string);

/**
 * The version of the library that is loaded, as "0.1.0".
 */
const char *gpushare_version(void);

/**
 * The ABI of the library that is loaded. It works with a header of the same GPUSHARE_ABI_VERSION.
 */
uint32_t gpushare_abi_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GPUSHARE_H */

