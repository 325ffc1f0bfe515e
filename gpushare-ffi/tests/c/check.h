/* What the tests in C have in common. */
#ifndef CHECK_H
#define CHECK_H

#include <gpushare.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

#define CHECK(holds)                                                            \
    do {                                                                        \
        if (!(holds)) {                                                         \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #holds); \
            failures++;                                                         \
        }                                                                       \
    } while (0)

/* The call failed in that way and said so: its error is freed. */
#define FAILS(call, expected)                                                                    \
    do {                                                                                         \
        gpushare_error *err = (gpushare_error *)&failures;                                       \
        int32_t status = (call);                                                                 \
        if (status != (expected) || gpushare_error_code(err) != (expected) ||                    \
            !gpushare_error_message(err)[0]) {                                                   \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call,                    \
                    gpushare_status_name(status), err ? gpushare_error_message(err) : "no error"); \
            failures++;                                                                          \
        }                                                                                        \
        gpushare_error_free(err);                                                                \
    } while (0)

#define WORKS(call)                                                                              \
    do {                                                                                         \
        gpushare_error *err = (gpushare_error *)&failures;                                       \
        int32_t status = (call);                                                                 \
        if (status || err) {                                                                     \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call,                    \
                    gpushare_status_name(status), err ? gpushare_error_message(err) : "no error"); \
            failures++;                                                                          \
            gpushare_error_free(err);                                                            \
        }                                                                                        \
    } while (0)

#define INVALID GPUSHARE_STATUS_INVALID_ARGUMENT

#endif
