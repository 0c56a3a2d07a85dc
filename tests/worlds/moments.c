/* Preloaded, it kills its own process at a planned moment: before, in the middle of or after the n-th call of a kind.

   $MOMENTS is a directory.  Each life of a control or picker process takes a number there by making `<role>.<number>`.
   `plan` has a line for each life that is to end: role, number, kind of call, when, n.  Nothing is counted before it is
   there; a life without a line goes on.  Of each death `deaths` has the line, with monotonic seconds at its end.

   A "told" is the first send to the feed after a commit was synced, a "reply" the first to the gateway after one to the
   feed: what stands between them is what a death at the second leaves undone. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum when { NOT, BEFORE, HALF, AFTER };
enum state { UNREAD, ARMED, IDLE };

static const char *const words[] = {"", "before", "half", "after"};
static const char *directory;
static char role[16], planned_kind[32];
static int life;
static enum when planned_when;
static long planned_n;
static atomic_int state = IDLE;
static atomic_long calls;
static atomic_int first_done; /* of the two steps of "told" and "reply" */
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    char line[4096] = {0}, *at = line, path[4096];
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, line, sizeof line - 1);
    if (file >= 0) close(file);
    directory = getenv("MOMENTS");
    /* python -P -m pointsman.cli <role> */
    for (int word = 0; word < 4 && at < line + size; word++) at += strlen(at) + 1;
    if (!directory || at >= line + size || (strcmp(at, "control") && strcmp(at, "picker"))) return;
    strcpy(role, at);
    do {
        snprintf(path, sizeof path, "%s/%s.%d", directory, role, ++life);
        file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    } while (file < 0 && life < 100000);
    if (file >= 0) close(file);
    state = UNREAD;
}

static void read_plan(void) {
    char path[4096], whose[16], kind[32], when[16];
    int number;
    long n;
    snprintf(path, sizeof path, "%s/plan", directory);
    FILE *plan = fopen(path, "re");
    if (!plan) return;
    enum state found = IDLE;
    while (fscanf(plan, "%15s %d %31s %15s %ld", whose, &number, kind, when, &n) == 5) {
        if (number != life || strcmp(whose, role)) continue;
        strcpy(planned_kind, kind);
        for (int i = BEFORE; i <= AFTER; i++)
            if (!strcmp(when, words[i])) planned_when = i;
        planned_n = n;
        found = ARMED;
    }
    fclose(plan);
    state = found;
}

/* Whether this life is to end at a call of this kind. */
static int wanted(const char *kind) {
    if (state == IDLE) return 0;
    if (state == UNREAD) {
        pthread_mutex_lock(&reading);
        if (state == UNREAD) read_plan();
        pthread_mutex_unlock(&reading);
    }
    return state == ARMED && !strcmp(planned_kind, kind);
}

static enum when counted(void) { return atomic_fetch_add(&calls, 1) + 1 == planned_n ? planned_when : NOT; }

static void die(void) {
    char path[4096], line[128];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(path, sizeof path, "%s/deaths", directory);
    int size = snprintf(line, sizeof line, "%s %d %s %s %ld %ld.%06ld\n", role, life, planned_kind, words[planned_when],
                        planned_n, (long)now.tv_sec, now.tv_nsec / 1000);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0 || write(file, line, size) != size) abort();
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* --- what a descriptor is ---------------------------------------------------------------------- */

static int named(const struct sockaddr_un *address, socklen_t size) {
    return address->sun_family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path) && address->sun_path[0];
}

/* The feed is the only Unix socket with a name; leashes and what wakes a loop have none. */
static int is_feed(int fd) {
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    if (!getsockname(fd, (struct sockaddr *)&address, &size) && named(&address, size)) return 1;
    size = sizeof address;
    return !getpeername(fd, (struct sockaddr *)&address, &size) && named(&address, size);
}

static int is_network(int fd) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    return !getsockname(fd, (struct sockaddr *)&address, &size) && address.ss_family != AF_UNIX;
}

/* A segment of the log, or its WAL: the read model beside it ends otherwise. */
static int is_file(int fd, const char *end) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < (ssize_t)strlen(end)) return 0;
    path[size] = 0;
    return !strcmp(path + size - strlen(end), end);
}

/* --- the calls --------------------------------------------------------------------------------- */

static enum when at_write(int fd) {
    if (wanted("commit-write")) return is_file(fd, ".segment-wal") ? counted() : NOT;
    if (wanted("checkpoint-write")) return is_file(fd, ".segment") ? counted() : NOT;
    return NOT;
}

static enum when at_send(int fd) {
    if (wanted("feed-send")) return is_feed(fd) ? counted() : NOT;
    if (wanted("told")) return is_feed(fd) && atomic_exchange(&first_done, 0) ? counted() : NOT;
    if (wanted("reply")) {
        if (is_feed(fd)) first_done = 1;
        return is_network(fd) && atomic_exchange(&first_done, 0) ? counted() : NOT;
    }
    return NOT;
}

/* How many of the bytes go out: half of them at a death in the middle. */
static size_t part(enum when at, size_t size) {
    if (at == BEFORE) die();
    return at == HALF ? size / 2 : size;
}

static void after(enum when at) {
    if (at != NOT) die();
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    enum when at = at_write(fd);
    ssize_t result = REAL(pwrite64)(fd, data, part(at, size), offset);
    after(at);
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t send(int fd, const void *data, size_t size, int flags) {
    enum when at = at_send(fd);
    ssize_t result = REAL(send)(fd, data, part(at, size), flags);
    after(at);
    return result;
}

static enum when at_sync(int fd) {
    if (wanted("commit-sync")) return is_file(fd, ".segment-wal") ? counted() : NOT;
    if (wanted("told") && is_file(fd, ".segment-wal")) first_done = 1;
    return NOT;
}

int fdatasync(int fd) {
    enum when at = at_sync(fd);
    part(at, 0);
    int result = REAL(fdatasync)(fd);
    after(at);
    return result;
}

int fsync(int fd) {
    enum when at = at_sync(fd);
    part(at, 0);
    int result = REAL(fsync)(fd);
    after(at);
    return result;
}

/* What was read is gone from the socket, and nothing has been done with it. */
ssize_t recv(int fd, void *data, size_t size, int flags) {
    ssize_t result = REAL(recv)(fd, data, size, flags);
    if (result > 0 && wanted("feed-recv") && is_feed(fd)) after(counted());
    return result;
}
