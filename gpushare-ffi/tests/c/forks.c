/* Threads lease again and again while their process forks: no child has a lease of its parent's, and
 * each can take one of its own.
 *
 *     forks CHILDREN
 *
 * The simulated node is the one that the environment names.
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4 };

static gpushare_node *node;
static volatile sig_atomic_t ended;

/* Takes a share and gives it back; returns whether it got one. */
static int lease_once(gpushare_node *of, double timeout) {
    gpushare_lease_request request;
    gpushare_lease *lease = NULL;

    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.timeout_s = timeout;
    if (gpushare_lease_acquire(of, &request, &lease, NULL) != 0) return 0;
    return gpushare_lease_release(lease, NULL) == 0;
}

static void *work(void *unused) {
    (void)unused;
    while (!ended) lease_once(node, 1.0);
    return NULL;
}

static int slots(void) {
    char path[300], target[1000];
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    int found = 0;

    while (folder && (entry = readdir(folder)) != NULL) {
        ssize_t length;
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        length = readlink(path, target, sizeof target - 1);
        if (length < 5) continue;
        target[length] = '\0';
        if (!strcmp(target + length - 5, ".slot")) found++;
    }
    if (folder) closedir(folder);
    return found;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    int i, children = argc > 1 ? atoi(argv[1]) : 100;

    WORKS(gpushare_node_open(NULL, &node, &err));
    CHECK(lease_once(node, 1.0));
    for (i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, work, NULL));
    for (i = 0; i < children; i++) {
        int status = 0;
        pid_t child = fork();

        if (child == 0) {
            gpushare_node *own = NULL;
            alarm(20); /* who waits for a thread that is not here waits for ever */
            if (slots()) _exit(1);
            if (gpushare_node_open(NULL, &own, NULL) != 0 || !lease_once(own, 10.0)) _exit(2);
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (status) fprintf(stderr, "child %d ended with status %x\n", i, (unsigned)status);
        CHECK(status == 0);
    }
    ended = 1;
    for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(slots() == 0);
    gpushare_node_free(node);
    return failures ? 1 : 0;
}
