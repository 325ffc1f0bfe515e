/* CDI specifications: kept in a directory, true after each change, and removed. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <dirent.h>
#include <stddef.h>
#include <sys/stat.h>

#define OF(mode) "{\"version\": \"gpushare/v1\", \"gpus\": [{\"select\": 0, " mode "}]}"
static const char MIG[] = OF("\"mode\": \"mig\", \"mig\": {\"instances\": {\"1g.10gb\": 2}}");
static const char TURNS[] = OF("\"mode\": \"time_sliced\", \"time_sliced\": {\"replicas\": 3}");
static const char EXCLUSIVE[] = OF("\"mode\": \"exclusive\"");

static char directory[512];
/* What the only specification says, as it was read last. */
static char text[65536];

static gpushare_node *opened(const char *state_dir) {
    gpushare_node_options options;
    gpushare_node *node = NULL;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.sim = "1xH100-80GB";
    options.state_dir = state_dir;
    WORKS(gpushare_node_open(&options, &node, &err));
    return node;
}

static gpushare_plan *planned(gpushare_node *node, const char *spec) {
    gpushare_plan *plan = NULL;

    WORKS(gpushare_node_plan(node, spec, strlen(spec), &plan, &err));
    return plan;
}

static void applies(gpushare_node *node, const char *spec, const gpushare_apply_options *options) {
    gpushare_plan *plan = planned(node, spec);

    WORKS(gpushare_plan_apply(plan, options, NULL, NULL, &err));
    gpushare_plan_free(plan);
}

/* How many files there are that a container runtime reads. */
static int specifications(void) {
    DIR *entries = opendir(directory);
    struct dirent *entry;
    char path[1024];
    FILE *file;
    int count = 0;

    CHECK(entries);
    while (entries && (entry = readdir(entries))) {
        if (entry->d_name[0] == '.') continue;
        CHECK(strstr(entry->d_name, ".yaml"));
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        file = fopen(path, "r");
        CHECK(file);
        text[file ? fread(text, 1, sizeof text - 1, file) : 0] = 0;
        if (file) fclose(file);
        count++;
    }
    if (entries) closedir(entries);
    return count;
}

/* Refused, whatever becomes of the GPU, and nothing is touched. */
static void refused(gpushare_node *node, const gpushare_apply_options *options, int32_t code) {
    const char *specs[] = {MIG, TURNS, EXCLUSIVE};
    gpushare_plan *plan;
    size_t i;

    for (i = 0; i < sizeof specs / sizeof *specs; i++) {
        plan = planned(node, specs[i]);
        FAILS(gpushare_plan_apply(plan, options, NULL, NULL, &err), code);
        gpushare_plan_free(plan);
    }
    CHECK(specifications() == 0);
    /* It is still as it was in the beginning, and nobody noted that it has a specification. */
    plan = planned(node, EXCLUSIVE);
    CHECK(gpushare_plan_is_noop(plan) == 1);
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    CHECK(specifications() == 0);
}

static gpushare_apply_options with(const char *cdi, const char *cdi_program, uint32_t no_cdi) {
    gpushare_apply_options options;

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.cdi = cdi;
    options.cdi_program = cdi_program;
    options.no_cdi = no_cdi;
    return options;
}

static void refusals(gpushare_node *node) {
    struct {
        const char *cdi, *cdi_program;
        uint32_t no_cdi;
    } wrong[] = {
        {directory, NULL, 1},       {directory, "/gpushare", 1}, {NULL, "/gpushare", 0},
        {NULL, "/gpushare", 1},     {directory, "/a\nb", 0},     {directory, "", 0},
        {"cdi", NULL, 0},           {"./cdi", NULL, 0},          {"../cdi", "/gpushare", 0},
        {directory, "gpushare", 0}, {directory, "./bin/g", 0},   {"", NULL, 0},
        {"/var/run/cdi", NULL, 0}, /* of a simulated node */
        {NULL, NULL, 0},           /* no text: below */
        {directory, "/a\xff", 0},
    };
    gpushare_apply_options options;
    char no_text[600];
    size_t i;

    /* A directory that is there, and whose name cannot be noted. */
    snprintf(no_text, sizeof no_text, "%s-\xff", directory);
    CHECK(mkdir(no_text, 0755) == 0);
    wrong[sizeof wrong / sizeof *wrong - 2].cdi = no_text;
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options = with(wrong[i].cdi, wrong[i].cdi_program, wrong[i].no_cdi);
        refused(node, &options, INVALID);
    }
    options = with(directory, NULL, 0);
    options.reserved_2 = 1;
    refused(node, &options, INVALID);
}

/* Ends it before the MIG mode changes. */
static int32_t no(const gpushare_hook *hook, void *user) {
    (void)user;
    return hook->moment == GPUSHARE_MOMENT_PRE_MODE;
}

int main(int argc, char **argv) {
    gpushare_apply_options options;
    gpushare_node *node, *alone;
    gpushare_plan *plan;
    char state_dir[512], variable[600], before[sizeof text];
    char *json = NULL;

    (void)argc;
    snprintf(directory, sizeof directory, "%s/specifications", argv[1]);
    snprintf(state_dir, sizeof state_dir, "%s/state", argv[1]);
    CHECK(mkdir(directory, 0755) == 0);
    node = opened(state_dir);
    applies(node, EXCLUSIVE, NULL);
    refusals(node);

    /* A node in memory is nobody else's: no container could take a lease of it. */
    alone = opened(NULL);
    applies(alone, EXCLUSIVE, NULL);
    options = with(directory, "/gpushare", 0);
    refused(alone, &options, GPUSHARE_STATUS_UNSUPPORTED);
    gpushare_node_free(alone);

    /* Kept from now on, though nothing else was to do. */
    options = with(directory, NULL, 0);
    plan = planned(node, EXCLUSIVE);
    CHECK(gpushare_plan_is_noop(plan) == 1);
    WORKS(gpushare_plan_apply(plan, &options, NULL, NULL, &err));
    WORKS(gpushare_plan_report_json(plan, &json, &err));
    CHECK(json && strstr(json, "\"cdi_specifications\":[\"") && strstr(json, directory));
    gpushare_string_free(json);
    gpushare_plan_free(plan);
    CHECK(specifications() == 1);
    CHECK(strstr(text, "\nkind: gpushare.dev/share\n") && strstr(text, "\n  - name: gpu0\n"));
    CHECK(!strstr(text, "createRuntime"));

    /* It follows a change that does not ask for it, by an older program too, whose options end before. */
    applies(node, TURNS, NULL);
    CHECK(specifications() == 1);
    CHECK(strstr(text, "name: gpu0-2\n") && !strstr(text, "name: gpu0\n"));
    options = with((const char *)&failures, (const char *)&failures, 1);
    options.struct_size = offsetof(gpushare_apply_options, cdi);
    applies(node, MIG, &options);
    CHECK(specifications() == 1);
    CHECK(strstr(text, "name: gpu0-mig1\n") && !strstr(text, "name: gpu0-2\n"));

    /* With the program that takes a lease for each container, and what it needs to find this node. */
    options = with(directory, "/opt/gpu share/gpushare", 0);
    applies(node, MIG, &options);
    CHECK(specifications() == 1);
    CHECK(strstr(text, "hookName: createRuntime") && strstr(text, "\"/opt/gpu share/gpushare\""));
    CHECK(strstr(text, "--oci-hook") && strstr(text, "GPUSHARE_SIM=1xH100-80GB"));
    snprintf(variable, sizeof variable, "GPUSHARE_STATE_DIR=%s", state_dir);
    CHECK(strstr(text, variable));

    /* So it stays, and a change that fails leaves all of it as it was. */
    applies(node, TURNS, NULL);
    CHECK(specifications() == 1 && strstr(text, "--oci-hook") && strstr(text, "name: gpu0-2\n"));
    memcpy(before, text, sizeof text);
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.hook = no;
    plan = planned(node, MIG);
    FAILS(gpushare_plan_apply(plan, &options, NULL, NULL, &err), GPUSHARE_STATUS_INTERRUPTED);
    CHECK(specifications() == 1 && !strcmp(text, before));
    WORKS(gpushare_plan_apply(plan, NULL, NULL, NULL, &err));
    gpushare_plan_free(plan);
    CHECK(specifications() == 1 && strstr(text, "--oci-hook") && strstr(text, "name: gpu0-mig1\n"));

    /* No more, now and later. */
    options = with(NULL, NULL, 1);
    applies(node, TURNS, &options);
    CHECK(specifications() == 0);
    applies(node, EXCLUSIVE, NULL);
    CHECK(specifications() == 0);

    gpushare_node_free(node);
    return failures != 0;
}
