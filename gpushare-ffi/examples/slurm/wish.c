#include "wish.h"

#include <string.h>

/* The words of the option up to a delimiter: its begin and its end. */
typedef struct word {
    const char *begin, *end;
} word;

static word up_to(const char *text, const char *delimiters) {
    word found;

    found.begin = text;
    found.end = text + strcspn(text, delimiters);
    return found;
}

static int is(word found, const char *text) {
    size_t length = (size_t)(found.end - found.begin);

    return strlen(text) == length && !memcmp(found.begin, text, length);
}

static int is_digit(char c) { return c >= '0' && c <= '9'; }

/* Digits, and nothing that does not fit: moves `at` behind them. */
static int whole(const char **at, const char *end, uint64_t most, uint64_t *number) {
    const char *begin = *at;

    for (*number = 0; *at < end && is_digit(**at); (*at)++) {
        uint64_t digit = (uint64_t)(**at - '0');

        if (*number > (most - digit) / 10) return 0;
        *number = *number * 10 + digit;
    }
    return *at > begin;
}

/* Above 0 and at most 100, "12.5" for one. No locale is asked, and there is no "nan". */
static int percentage(word text, double *value) {
    const char *at = text.begin;
    uint64_t number, scale = 1;

    if (!whole(&at, text.end, 100, &number)) return 0;
    if (at < text.end && *at == '.') {
        if (++at == text.end) return 0;
        for (; at < text.end && is_digit(*at) && scale < 1000000; at++, scale *= 10)
            number = number * 10 + (uint64_t)(*at - '0');
    }
    *value = (double)number / (double)scale;
    return at == text.end && *value > 0 && *value <= 100;
}

/* A whole number and K, M, G or T, optional i, optional B: powers of 1024, as everywhere in gpushare. */
static int size(word text, uint64_t *bytes) {
    static const char units[] = "KMGT";
    const char *at = text.begin, *unit;
    unsigned shift;

    if (!whole(&at, text.end, UINT64_MAX, bytes) || at == text.end) return 0;
    unit = strchr(units, *at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at);
    if (!unit || !*unit) return 0;
    shift = 10 * (unsigned)(unit - units + 1);
    at++;
    if (at < text.end && *at == 'i') at++;
    if (at < text.end && *at == 'B') at++;
    if (at != text.end || *bytes > UINT64_MAX >> shift) return 0;
    *bytes <<= shift;
    return *bytes > 0 && *bytes % (1 << 20) == 0;
}

/* Only what a name of a profile can be; which there are, the node knows. */
static int profile(word text, char *name) {
    size_t length = (size_t)(text.end - text.begin), i;

    if (length == 0 || length >= GPUSHARE_PROFILE_SIZE || !is_digit(*text.begin)) return 0;
    for (i = 0; i < length; i++)
        if (!is_digit(text.begin[i]) && !(text.begin[i] >= 'a' && text.begin[i] <= 'z') &&
            !strchr(".+-", text.begin[i]))
            return 0;
    memcpy(name, text.begin, length);
    name[length] = '\0';
    return strchr(name, 'g') != NULL;
}

static const char *parse_mode(word text, wish *wish) {
    word name = up_to(text.begin, ":,"), value;

    value.begin = name.end + (*name.end == ':');
    value.end = text.end;
    if (is(name, "mps")) wish->mode = WISH_MPS;
    else if (is(name, "mig")) wish->mode = WISH_MIG;
    else if (is(name, "time_sliced")) wish->mode = WISH_TIME_SLICED;
    else if (is(name, "exclusive")) wish->mode = WISH_EXCLUSIVE;
    else if (is(name, "any")) wish->mode = WISH_ANY;
    else if (is(name, "none")) wish->mode = WISH_NONE;
    else return "there is no such mode";
    if (*name.end != ':') return NULL;
    if (wish->mode == WISH_MPS)
        return percentage(value, &wish->thread_percentage)
                   ? NULL
                   : "behind mps: stands the share of threads in percent, above 0 and at most 100";
    if (wish->mode == WISH_MIG)
        return profile(value, wish->profile) ? NULL
                                             : "behind mig: stands the name of a profile, 1g.10gb";
    return "this mode takes nothing behind a colon";
}

static const char *parse_key(word text, wish *wish) {
    word key = up_to(text.begin, "=,"), value;
    const char *at;
    uint64_t number;

    value.begin = at = key.end + (*key.end == '=');
    value.end = text.end;
    if (is(key, "mem")) {
        if (wish->memory_bytes) return "mem= is there twice";
        return size(value, &wish->memory_bytes)
                   ? NULL
                   : "mem= takes whole MiB with a unit: 512M, 2G, 2GiB";
    }
    if (is(key, "count")) {
        if (wish->count) return "count= is there twice";
        if (!whole(&at, value.end, 1024, &number) || at != value.end || !number)
            return "count= takes a number of shares from 1 to 1024";
        wish->count = (uint32_t)number;
        return NULL;
    }
    return "there is no such key";
}

const char *wish_parse(const char *text, wish *wish) {
    word found = up_to(text, ",");
    const char *why;

    memset(wish, 0, sizeof *wish);
    why = parse_mode(found, wish);
    while (!why && *found.end == ',') {
        if (wish->mode == WISH_NONE) return "none is no share, and nothing stands behind it";
        found = up_to(found.end + 1, ",");
        why = parse_key(found, wish);
    }
    if (!wish->count) wish->count = 1;
    return why;
}

uint32_t wish_gpu_mode(const wish *wish) {
    switch (wish->mode) {
        case WISH_MPS: return GPUSHARE_MODE_MPS;
        case WISH_MIG: return GPUSHARE_MODE_MIG;
        case WISH_TIME_SLICED: return GPUSHARE_MODE_TIME_SLICED;
        case WISH_EXCLUSIVE: return GPUSHARE_MODE_EXCLUSIVE;
        default: return 0;
    }
}
