/* What --gpushare asks for. */
#ifndef GPUSHARE_SPANK_WISH_H
#define GPUSHARE_SPANK_WISH_H

#include <gpushare.h>
#include <stdint.h>

#define WISH_ALLOWED \
    "mps[:PERCENT], mig[:PROFILE], time_sliced, exclusive, any or none, and behind it " \
    ",mem=SIZE and ,count=N: mps:25,mem=2G  mig:1g.10gb,count=2  time_sliced"

enum wish_mode { WISH_MPS, WISH_MIG, WISH_TIME_SLICED, WISH_EXCLUSIVE, WISH_ANY, WISH_NONE };

typedef struct wish {
    enum wish_mode mode;
    /* mig: empty for the smallest device that will do. */
    char profile[GPUSHARE_PROFILE_SIZE];
    /* mps: 0 where none was given. */
    double thread_percentage;
    /* 0 where none was given; a whole number of MiB. */
    uint64_t memory_bytes;
    /* How many shares, from 1. */
    uint32_t count;
} wish;

/* Reads an option. NULL, or what is wrong with it. */
const char *wish_parse(const char *text, wish *wish);

/* The gpushare_mode that a GPU must have, or 0 where any will do. */
uint32_t wish_gpu_mode(const wish *wish);

#endif
