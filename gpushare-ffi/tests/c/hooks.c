/* Hooks around a change: a function, and a directory of programs. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIG                                                                       \
    "{\"version\": \"gpushare/v1\", \"gpus\": [{\"select\": 0, \"mode\": \"mig\", " \
    "\"mig\": {\"instances\": {\"1g.10gb\": 2}}}]}"
#define EXCLUSIVE "{\"version\": \"gpushare/v1\", \"gpus\": [{\"select\": 0, \"mode\": \"exclusive\"}]}"

struct heard {
    uint32_t moments[8];
    int count;
    uint32_t refused;
    int32_t status, outcome;
    int forks, is_child;
};

/* The child comes back from the hook as its parent does, which waits for it in the middle of the change. */
static void forks(struct heard *heard) {
    int status = 1;
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) heard->is_child = 1;
    if (pid > 0) CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static int32_t hook(const gpushare_hook *hook, void *user) {
    struct heard *heard = user;

    CHECK(hook->struct_size >= sizeof *hook);
    CHECK(strstr(hook->plan_json, "\"gpushare.plan/v1\""));
    CHECK((hook->gpu != NULL) == (hook->moment == GPUSHARE_MOMENT_PRE_MODE));
    CHECK((hook->error != NULL) == (hook->moment == GPUSHARE_MOMENT_FAILURE));
    if (heard->count < 8) heard->moments[heard->count++] = hook->moment;
    if (hook->moment == GPUSHARE_MOMENT_FAILURE) {
        heard->status = hook->status;
        heard->outcome = hook->outcome;
        CHECK(strstr(hook->error, "it said no"));
    }
    if (heard->forks && hook->moment == GPUSHARE_MOMENT_PRE_MODE) forks(heard);
    return hook->moment == heard->refused ? 7 : 0;
}

static void plan(gpushare_node *node, const char *spec, gpushare_plan **plan) {
    WORKS(gpushare_node_plan(node, spec, strlen(spec), plan, &err));
}

int main(int argc, char **argv) {
    gpushare_node_options opened;
    gpushare_apply_options options;
    gpushare_node *node = NULL;
    gpushare_plan *to_mig = NULL, *back = NULL, *again = NULL;
    struct heard heard;
    char path[512];
    FILE *program;

    (void)argc;
    memset(&opened, 0, sizeof opened);
    opened.struct_size = sizeof opened;
    opened.sim = "1xH100-80GB";
    WORKS(gpushare_node_open(&opened, &node, &err));
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.hook = hook;
    options.hook_user = &heard;

    /* It says no at the beginning: nothing is touched. */
    plan(node, MIG, &to_mig);
    memset(&heard, 0, sizeof heard);
    heard.refused = GPUSHARE_MOMENT_PRE_APPLY;
    FAILS(gpushare_plan_apply(to_mig, &options, NULL, NULL, &err), GPUSHARE_STATUS_INTERRUPTED);
    CHECK(heard.count == 2 && heard.moments[1] == GPUSHARE_MOMENT_FAILURE);
    CHECK(heard.status == GPUSHARE_STATUS_INTERRUPTED && heard.outcome == GPUSHARE_OUTCOME_UNTOUCHED);

    /* And it says yes; in a child that is forked in it there is no call any more. */
    memset(&heard, 0, sizeof heard);
    heard.forks = 1;
    {
        gpushare_error *error = NULL;
        int32_t status = gpushare_plan_apply(to_mig, &options, NULL, NULL, &error);

        CHECK(status == (heard.is_child ? GPUSHARE_STATUS_INVALID_STATE : GPUSHARE_STATUS_OK));
        gpushare_error_free(error);
        if (heard.is_child) {
            CHECK(heard.count == 2);
            FAILS(gpushare_plan_apply(to_mig, &options, NULL, NULL, &err), GPUSHARE_STATUS_INVALID_STATE);
            gpushare_plan_free(to_mig);
            gpushare_node_free(node);
            /* What the parent has open it leaves open: that is no leak. */
            if (!failures) execl("/bin/true", "true", (char *)NULL);
            _exit(1);
        }
    }
    CHECK(heard.count == 3 && heard.moments[0] == GPUSHARE_MOMENT_PRE_APPLY);
    CHECK(heard.moments[1] == GPUSHARE_MOMENT_PRE_MODE && heard.moments[2] == GPUSHARE_MOMENT_POST_APPLY);

    /* A directory of programs; one of the two. */
    snprintf(path, sizeof path, "%s/hooks.d", argv[1]);
    CHECK(mkdir(path, 0755) == 0);
    plan(node, EXCLUSIVE, &back);
    options.hooks = path;
    FAILS(gpushare_plan_apply(back, &options, NULL, NULL, &err), INVALID);
    options.hook = NULL;
    FAILS(gpushare_plan_apply(back, &options, NULL, NULL, &err), INVALID);
    snprintf(path, sizeof path, "%s/hooks.d/pre-apply", argv[1]);
    program = fopen(path, "w");
    CHECK(program && fputs("#!/bin/sh\ngrep -q gpushare.plan/v1 && exit 5\n", program) >= 0 &&
          fclose(program) == 0 && chmod(path, 0755) == 0);
    snprintf(path, sizeof path, "%s/hooks.d", argv[1]);
    options.hook_timeout_s = -1;
    FAILS(gpushare_plan_apply(back, &options, NULL, NULL, &err), INVALID);
    options.hook_timeout_s = 30;
    FAILS(gpushare_plan_apply(back, &options, NULL, NULL, &err), GPUSHARE_STATUS_IO);

    /* An older program's options end before them. */
    options.struct_size = 56;
    WORKS(gpushare_plan_apply(back, &options, NULL, NULL, &err));
    plan(node, EXCLUSIVE, &again);
    CHECK(gpushare_plan_is_noop(again) == 1);

    gpushare_plan_free(to_mig);
    gpushare_plan_free(back);
    gpushare_plan_free(again);
    gpushare_node_free(node);
    return failures != 0;
}
