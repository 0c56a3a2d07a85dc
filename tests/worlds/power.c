/* Preloaded, it writes down what its process does to the files under a directory, in order, so that `power.py` can tell
   what a power cut at any moment leaves of them.

   $POWER_ROOT is the directory, an absolute path without links; $POWER_JOURNAL a file outside of it.  Only a process
   with the word `control` in its command line is followed.  Each call and its record happen under one lock: what the
   record before it says had happened, and nothing else.  A sync is a record and nothing more: the journal is the disk.

   $POWER_END, `<kind> <n> <when>`, kills a process `before` its n-th call, or `half` through it where that is a write,
   or has the disk `refuse` to sync that file or directory three times from there on.  The kind is `call` for any of
   them, `commit` for the sync of a segment's WAL, `named` for that of a directory in which something was renamed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum op { LIFE, OPEN, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, MKDIR, SEND };
enum when { NOT, BEFORE, HALF, REFUSE };

struct record {
    uint8_t op, directory;
    uint16_t path_size;
    uint32_t size;
    uint64_t inode, offset;
} __attribute__((packed));

/* A file of which some is mapped, and what of it is written down. */
struct mapping {
    void *address;
    size_t size;
    uint64_t inode, offset;
    char path[512];
    char *known;
};

static const char *root;
static int journal = -1;
static pid_t life;
static char ends_kind[16];
static enum when ends_when;
static long ends_n, calls;
static char refused[4096];
static int refusals, renamed;
static struct mapping mappings[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    char line[8192] = {0};
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, line, sizeof line - 1);
    if (file >= 0) close(file);
    for (char *at = line; at < line + size; at += strlen(at) + 1) {
        if (strcmp(at, "control") || !getenv("POWER_ROOT") || !getenv("POWER_JOURNAL")) continue;
        file = open(getenv("POWER_JOURNAL"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        journal = fcntl(file, F_DUPFD_CLOEXEC, 300);
        close(file);
        root = strdup(getenv("POWER_ROOT"));
        return;
    }
}

static void note(enum op op, const struct record *more, const char *path, const void *data) {
    struct record record = more ? *more : (struct record){0};
    record.op = op;
    record.path_size = strlen(path);
    struct iovec parts[] = {{&record, sizeof record}, {(void *)path, record.path_size}, {(void *)data, record.size}};
    ssize_t size = sizeof record + record.path_size + record.size;
    if (writev(journal, parts, 3) != size) abort();
}

/* --- which files ------------------------------------------------------------------------------- */

static int below(const char *path) {
    size_t size = strlen(root);
    return !strncmp(path, root, size) && (path[size] == '/' || !path[size]);
}

/* The path below the directory, absolute. */
static int named(const char *path, char *found, size_t size) {
    char here[4096] = "";
    if (journal < 0 || !path || (*path != '/' && !getcwd(here, sizeof here))) return 0;
    snprintf(found, size, "%s%s%s", here, *path == '/' ? "" : "/", path);
    return below(found);
}

static int opened(int fd, char *path, size_t size) {
    char link[64];
    if (journal < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t found = readlink(link, path, size - 1);
    if (found < 0) return 0;
    path[found] = 0;
    return below(path);
}

static int ends_with(const char *path, const char *end) {
    size_t size = strlen(path), tail = strlen(end);
    return size >= tail && !strcmp(path + size - tail, end);
}

static struct stat status_of(int fd) {
    struct stat status = {0};
    fstat(fd, &status);
    return status;
}

/* --- the lock, and the end that is planned ------------------------------------------------------- */

/* Take the lock, and die where that is planned; what is not BEFORE is for the caller to do. */
static enum when enter(const char *kind) {
    pthread_mutex_lock(&lock);
    if (life != getpid()) {
        const char *plan = getenv("POWER_END");
        char when[16] = "";
        life = getpid();
        calls = ends_n = 0;
        if (plan && sscanf(plan, "%15s %ld %15s", ends_kind, &ends_n, when) == 3)
            ends_when = !strcmp(when, "half") ? HALF : !strcmp(when, "refuse") ? REFUSE : BEFORE;
        note(LIFE, &(struct record){.inode = life}, "", "");
    }
    if (ends_n && (!strcmp(ends_kind, "call") || !strcmp(ends_kind, kind)) && ++calls == ends_n) {
        if (ends_when == REFUSE || (ends_when == HALF && !strcmp(kind, "write"))) return ends_when;
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    return NOT;
}

static void leave(void) { pthread_mutex_unlock(&lock); }

static void after(enum when at) {
    if (at == HALF) kill(getpid(), SIGKILL);
    leave();
}

/* --- opening, and names -------------------------------------------------------------------------- */

static int open_any(int (*how)(int, const char *, int, ...), int at, const char *path, int flags, int mode) {
    char found[4096];
    if (journal < 0) return how(at, path, flags, mode);
    enum when when = NOT;
    int known = named(path, found, sizeof found);
    if (known) when = enter("open");
    int fd = how(at, path, flags, mode);
    if (known && fd >= 0 && opened(fd, found, sizeof found)) {
        struct stat status = status_of(fd);
        struct record record = {.inode = status.st_ino, .offset = status.st_size, .directory = S_ISDIR(status.st_mode)};
        note(OPEN, &record, found, "");
        if (flags & O_TRUNC) note(TRUNCATE, &(struct record){.inode = status.st_ino}, found, "");
    }
    if (known) after(when);
    return fd;
}

#define MODE(flags)                                                    \
    int mode = 0;                                                      \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {   \
        va_list list;                                                  \
        va_start(list, flags);                                         \
        mode = va_arg(list, int);                                      \
        va_end(list);                                                  \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_any(REAL(openat), AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_any(REAL(openat64), AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...) {
    MODE(flags)
    return open_any(REAL(openat), at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    return open_any(REAL(openat64), at, path, flags, mode);
}

int unlink(const char *path) {
    char found[4096];
    if (!named(path, found, sizeof found)) return REAL(unlink)(path);
    enum when when = enter("unlink");
    int result = REAL(unlink)(path);
    if (!result) note(UNLINK, NULL, found, "");
    after(when);
    return result;
}

int rename(const char *from, const char *to) {
    char found[4096], target[4096];
    if (!named(from, found, sizeof found) || !named(to, target, sizeof target)) return REAL(rename)(from, to);
    enum when when = enter("rename");
    int result = REAL(rename)(from, to);
    if (!result) note(RENAME, &(struct record){.size = strlen(target)}, found, target);
    if (!result) renamed = 1;
    after(when);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    char found[4096];
    struct stat status = {0};
    if (!named(path, found, sizeof found)) return REAL(mkdir)(path, mode);
    enum when when = enter("mkdir");
    int result = REAL(mkdir)(path, mode);
    if (!result && !stat(path, &status)) note(MKDIR, &(struct record){.inode = status.st_ino}, found, "");
    after(when);
    return result;
}

/* --- contents ------------------------------------------------------------------------------------ */

static ssize_t write_at(int fd, const void *data, size_t size, off64_t offset, int moves, const char *path) {
    enum when when = enter("write");
    if (when == HALF) size /= 2;
    if (moves) offset = fcntl(fd, F_GETFL) & O_APPEND ? status_of(fd).st_size : lseek64(fd, 0, SEEK_CUR);
    ssize_t result = moves ? REAL(write)(fd, data, size) : REAL(pwrite64)(fd, data, size, offset);
    if (result > 0) {
        struct record record = {.inode = status_of(fd).st_ino, .offset = offset, .size = result};
        note(WRITE, &record, path, data);
    }
    after(when);
    return result;
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[4096];
    return opened(fd, path, sizeof path) ? write_at(fd, data, size, 0, 1, path) : REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    char path[4096];
    if (!opened(fd, path, sizeof path)) return REAL(pwrite64)(fd, data, size, offset);
    return write_at(fd, data, size, offset, 0, path);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

int ftruncate64(int fd, off64_t size) {
    char path[4096];
    if (!opened(fd, path, sizeof path)) return REAL(ftruncate64)(fd, size);
    enum when when = enter("truncate");
    int result = REAL(ftruncate64)(fd, size);
    if (!result) note(TRUNCATE, &(struct record){.inode = status_of(fd).st_ino, .offset = size}, path, "");
    after(when);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

/* What goes into a mapped file is not seen; it is looked at whenever something is synced. */
static void note_mapped(void) {
    for (struct mapping *one = mappings; one < mappings + 64; one++) {
        for (size_t at = 0; one->known && at < one->size; at += 512) {
            size_t size = one->size - at < 512 ? one->size - at : 512;
            if (!memcmp(one->known + at, (char *)one->address + at, size)) continue;
            memcpy(one->known + at, (char *)one->address + at, size);
            struct record record = {.inode = one->inode, .offset = one->offset + at, .size = size};
            note(WRITE, &record, one->path, one->known + at);
        }
    }
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
    char path[4096];
    void *found = REAL(mmap64)(address, size, protection, flags, fd, offset);
    if (found == MAP_FAILED || fd < 0 || !(flags & MAP_SHARED) || !(protection & PROT_WRITE)) return found;
    if (!opened(fd, path, sizeof path)) return found;
    pthread_mutex_lock(&lock);
    struct mapping *one = mappings;
    while (one->known && one < mappings + 63) one++;
    if (one->known || strlen(path) >= sizeof one->path) abort();
    *one = (struct mapping){found, size, status_of(fd).st_ino, offset, "", calloc(1, size)};
    strcpy(one->path, path);
    leave();
    return found;
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    return mmap64(address, size, protection, flags, fd, offset);
}

int munmap(void *address, size_t size) {
    if (journal >= 0) {
        pthread_mutex_lock(&lock);
        for (struct mapping *one = mappings; one < mappings + 64; one++) {
            if (!one->known || one->address != address) continue;
            free(one->known);
            one->known = NULL;
        }
        leave();
    }
    return REAL(munmap)(address, size);
}

static int sync_any(int (*how)(int), int fd) {
    char path[4096];
    if (!opened(fd, path, sizeof path)) return how(fd);
    struct stat status = status_of(fd);
    int named = renamed && S_ISDIR(status.st_mode);
    enum when when = enter(ends_with(path, ".segment-wal") ? "commit" : named ? "named" : "sync");
    if (named) renamed = 0;
    if (when == REFUSE) refusals = 3, strcpy(refused, path);
    int result = refusals && !strcmp(path, refused) ? -1 : 0;
    note_mapped();
    if (result) refusals--;
    else note(SYNC, &(struct record){.inode = status.st_ino}, path, "");
    after(when);
    if (result) errno = EIO;
    return result;
}

int fsync(int fd) { return sync_any(REAL(fsync), fd); }
int fdatasync(int fd) { return sync_any(REAL(fdatasync), fd); }

/* --- what leaves the process --------------------------------------------------------------------- */

static int has_name(const struct sockaddr_un *address, socklen_t size) {
    return address->sun_family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path) && address->sun_path[0];
}

/* The feed is the only Unix socket with a name; leashes and what wakes a loop have none. */
static int is_feed(int fd) {
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    if (journal < 0) return 0;
    if (!getsockname(fd, (struct sockaddr *)&address, &size) && has_name(&address, size)) return 1;
    size = sizeof address;
    return !getpeername(fd, (struct sockaddr *)&address, &size) && has_name(&address, size);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    if (!is_feed(fd)) return REAL(send)(fd, data, size, flags);
    enum when when = enter("send");
    ssize_t result = REAL(send)(fd, data, size, flags);
    if (result > 0) note(SEND, &(struct record){.inode = status_of(fd).st_ino, .size = result}, "", data);
    after(when);
    return result;
}
