/* gpushare: share NVIDIA GPUs by time-slicing, MPS and MIG.
 *
 * Link with -lgpushare. Strings are UTF-8 and end in NUL. A `const char *` that is returned and
 * not said to be the caller's belongs to the library.
 *
 * Written by cbindgen from gpushare-ffi; do not edit. */

#ifndef GPUSHARE_H
#define GPUSHARE_H

#include <stddef.h>
#include <stdint.h>

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
 * The ABI of this header, which is the number in `libgpushare.so.N`.
 */
#define GPUSHARE_ABI_VERSION 0

/**
 * What became of a call. Numbers are never changed and never reused.
 *
 * Functions return it as `int32_t`, so that a newer library can return what an older header
 * does not know.
 */
enum gpushare_status
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
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gpushare_status gpushare_status;
#else
typedef int32_t gpushare_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The name of a status: "OK", "BUSY". Never NULL: a number that is no status is "UNKNOWN".
 */
const char *gpushare_status_name(int32_t status);

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

