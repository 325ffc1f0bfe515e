/* Runs a command with a share of a GPU of its own.
 *
 *     lease_child gpu=SELECTOR|mig=PROFILE|share=ID|any COMMAND [ARGUMENT]...
 *
 * The command gets copies of the lease's descriptors: it keeps the share when this process is killed, and
 * so do its own children, until the last of them is gone. SIGTERM, SIGINT and SIGHUP are passed on to it.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <gpushare.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what, gpushare_error *err) {
    fprintf(stderr, "lease_child: %s: %s: %s\n", what,
            gpushare_status_name(gpushare_error_code(err)),
            err ? gpushare_error_message(err) : "out of memory");
    gpushare_error_free(err);
    return 125;
}

/* What the first argument asks for; 0 where it is none of the words. */
static int ask(const char *word, gpushare_lease_request *request) {
    if (!strncmp(word, "gpu=", 4)) request->gpu = word + 4;
    else if (!strncmp(word, "mig=", 4)) request->mig_profile = word + 4;
    else if (!strncmp(word, "share=", 6)) request->share = word + 6;
    else return !strcmp(word, "any");
    return 1;
}

/* In the child: reading from a lease works there. Only this process's environment is changed, and only
 * its own copy of the descriptor outlives exec. */
static int become_tenant(const gpushare_lease *lease, int fd) {
    const char *name, *value;
    size_t i;

    for (i = 0; i < gpushare_lease_env_count(lease); i++) {
        if (gpushare_lease_env(lease, i, &name, &value)) return -1;
        /* What an outer environment says of MPS must go, or it would count. */
        if (value ? setenv(name, value, 1) : unsetenv(name)) return -1;
    }
    return fcntl(fd, F_SETFD, 0);
}

static volatile sig_atomic_t child = 0;

static void pass_on(int number) {
    int kept = errno;

    kill((pid_t)child, number);
    errno = kept;
}

/* Starts the command, passes signals on to it until it ends, and returns how it ended. */
static int supervise(const gpushare_lease *lease, int fd, char **command) {
    static const int passed[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction action;
    sigset_t some, before;
    siginfo_t info;
    pid_t pid, ended;
    int status;
    size_t i;

    memset(&action, 0, sizeof action);
    action.sa_handler = pass_on;
    sigemptyset(&action.sa_mask);
    sigemptyset(&some);
    for (i = 0; i < sizeof passed / sizeof *passed; i++) sigaddset(&some, passed[i]);
    /* They wait until it is known to whom. */
    sigprocmask(SIG_BLOCK, &some, &before);
    pid = fork();
    if (pid == 0) {
        int why;

        sigprocmask(SIG_SETMASK, &before, NULL);
        if (become_tenant(lease, fd) == 0) execvp(command[0], command);
        why = errno;
        fprintf(stderr, "lease_child: cannot run %s: %s\n", command[0], strerror(why));
        _exit(why == ENOENT ? 127 : 126);
    }
    if (pid < 0) perror("lease_child: fork");
    close(fd);
    if (pid < 0) return 125;
    child = (sig_atomic_t)pid;
    for (i = 0; i < sizeof passed / sizeof *passed; i++) {
        struct sigaction was;

        /* What was ignored, as under nohup, stays so. */
        if (!sigaction(passed[i], NULL, &was) && was.sa_handler != SIG_IGN)
            sigaction(passed[i], &action, NULL);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    do ended = (pid_t)waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    while (ended < 0 && errno == EINTR);
    /* As soon as it is waited for, its pid may be another's. */
    for (i = 0; i < sizeof passed / sizeof *passed; i++) signal(passed[i], SIG_IGN);
    ended = waitpid(pid, &status, 0);
    if (ended < 0) {
        perror("lease_child: waitpid");
        return 125;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv) {
    /* Static: a child that cannot exec ends in supervise(), and leaks nothing. */
    static gpushare_node *node = NULL;
    static gpushare_lease *lease = NULL;
    gpushare_error *err = NULL;
    gpushare_lease_request request;
    gpushare_lease_share share;
    int32_t fd;
    int result;

    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    if (argc < 3 || !ask(argv[1], &request)) {
        fprintf(stderr, "usage: lease_child gpu=SELECTOR|mig=PROFILE|share=ID|any COMMAND...\n");
        return 125;
    }
    request.timeout_s = 5;
    /* The library reads no CUDA_VISIBLE_DEVICES. What hides GPUs from us hides them from the command. */
    request.visible = getenv("CUDA_VISIBLE_DEVICES");

    if (gpushare_node_open(NULL, &node, &err)) return fail("open", err);
    if (gpushare_lease_acquire(node, &request, &lease, &err)) {
        gpushare_node_free(node);
        return fail(argv[1], err);
    }
    memset(&share, 0, sizeof share);
    share.struct_size = sizeof share;
    if (gpushare_lease_info(lease, 0, &share, &err)) result = fail("info", err);
    /* One share, one copy: for this child, and for no other of this process. */
    else if (gpushare_lease_dup_fd(lease, 0, &fd, &err)) result = fail("dup_fd", err);
    else {
        fprintf(stderr, "lease_child: %s: %s, %s\n", gpushare_lease_name(lease), share.id,
                gpushare_mode_name(share.mode));
        result = supervise(lease, fd, argv + 2);
    }
    if (gpushare_lease_release(lease, &err)) result = fail("release", err);
    gpushare_node_free(node);
    return result;
}
