/* Reads the library's version and names its statuses, as C99 and as C++11. */
#include <gpushare.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;

static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "failed: %s\n", what);
        failures++;
    }
}

int main(void) {
    char version[64];
    int32_t status;

    sprintf(version, "%d.%d.%d", GPUSHARE_VERSION_MAJOR, GPUSHARE_VERSION_MINOR,
            GPUSHARE_VERSION_PATCH);
    check(strcmp(gpushare_version(), version) == 0, "library and header have one version");
    check(gpushare_abi_version() == GPUSHARE_ABI_VERSION, "library and header have one ABI");

    check(sizeof(gpushare_status) == 4, "a status is four bytes");
    {
        /* In C++, too, it is a number that a call returns. */
        gpushare_status returned = gpushare_node_refresh(NULL, NULL);
        gpushare_outcome outcome = gpushare_error_outcome(NULL);
        check(returned == GPUSHARE_STATUS_INVALID_ARGUMENT, "no node is an invalid argument");
        check(outcome == GPUSHARE_OUTCOME_UNTOUCHED, "no error has touched nothing");
    }
    status = GPUSHARE_STATUS_BUSY;
    check(status == 5, "BUSY is 5");
    check(strcmp(gpushare_status_name(GPUSHARE_STATUS_OK), "OK") == 0, "OK has its name");
    check(strcmp(gpushare_status_name(status), "BUSY") == 0, "BUSY has its name");
    for (status = 0; status <= GPUSHARE_STATUS_RECOVERY_REQUIRED; status++) {
        check(strcmp(gpushare_status_name(status), "UNKNOWN") != 0, "every status has a name");
    }
    check(strcmp(gpushare_status_name(-1), "UNKNOWN") == 0, "-1 is no status");
    check(gpushare_status_name(3) == gpushare_status_name(3), "names are static");
    return failures == 0 ? 0 : 1;
}
