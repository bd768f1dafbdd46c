/*
 * Loaded before the C library of a process (LD_PRELOAD), this lets the disk fail under one SQLite database, and the wall clock step,
 * when a test says so.
 *
 *   FAULT_DATABASE   the database, by its path without links; its WAL, its index and its rollback journal are meant too
 *   FAULT_CONTROL    a file that holds a `struct control`, which the test writes
 *   FAULT_GATE       a FIFO: a call that is to wait opens it for reading, which lasts until the test opens it for writing
 *
 * A file is known by what its descriptor leads to, so that nothing need be remembered of it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* As in faults.rs. */
enum fault { NONE = 0, NO_SPACE, READ_ONLY, FAILING_WRITES, FAILING_SYNCS, WAITING_SYNCS, WAITING_READS };

struct control {
    _Atomic int32_t fault;
    _Atomic int32_t writes_left; /* FAILING_WRITES: so many succeed first */
    _Atomic int32_t waiting;     /* calls that wait at the gate */
    _Atomic int32_t failed;      /* calls that were made to fail */
    _Atomic int64_t clock_step;  /* added to the wall clock, in seconds */
};

static const char *const suffixes[] = { "", "-wal", "-shm", "-journal" };
static const char *database, *gate;
static struct control *control;

static int (*real_open)(const char *, int, ...);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULT_CONTROL");
    int fd;
    /* off_t has 64 bits where this is built, so that each pair of names, with 64 and without, is one function. */
    _Static_assert(sizeof(off_t) == 8, "built for 64 bits");
    real_open = dlsym(RTLD_NEXT, "open");
    real_pread = dlsym(RTLD_NEXT, "pread");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_write = dlsym(RTLD_NEXT, "write");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    database = getenv("FAULT_DATABASE");
    gate = getenv("FAULT_GATE");
    if (!path || !database || !gate)
        return;
    fd = real_open(path, O_RDWR | O_CLOEXEC);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || control == MAP_FAILED) {
        perror("FAULT_CONTROL");
        abort();
    }
    close(fd);
}

static int is_path_ours(const char *path) {
    size_t len = strlen(database);
    if (strncmp(path, database, len) != 0)
        return 0;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (strcmp(path + len, suffixes[i]) == 0)
            return 1;
    return 0;
}

static enum fault fault(void) {
    return control ? (enum fault)atomic_load(&control->fault) : NONE;
}

static int is_ours(int fd) {
    char link[32], path[PATH_MAX];
    ssize_t len;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof path - 1);
    if (len < 0)
        return 0;
    path[len] = 0;
    return is_path_ours(path);
}

static int fails_with(int error) {
    atomic_fetch_add(&control->failed, 1);
    errno = error;
    return 1;
}

static void wait_at_the_gate(void) {
    int fd;
    atomic_fetch_add(&control->waiting, 1);
    fd = real_open(gate, O_RDONLY | O_CLOEXEC);
    atomic_fetch_sub(&control->waiting, 1);
    close(fd);
}

/* Whether a change of a file's bytes or length is to fail; errno says how. */
static int fails_to_change(int fd) {
    enum fault now = fault();
    if (now == NONE || !is_ours(fd))
        return 0;
    if (now == NO_SPACE)
        return fails_with(ENOSPC);
    if (now == READ_ONLY)
        return fails_with(EROFS);
    if (now == FAILING_WRITES && atomic_fetch_sub(&control->writes_left, 1) <= 0)
        return fails_with(EIO);
    return 0;
}

static int sync_or_fail(int (*real)(int), int fd) {
    enum fault now = fault();
    if (now == FAILING_SYNCS && is_ours(fd)) {
        fails_with(EIO);
        return -1;
    }
    if (now == WAITING_SYNCS && is_ours(fd))
        wait_at_the_gate();
    return real(fd);
}

#define MODE_ARGUMENT(mode, flags)                                             \
    mode_t mode = 0;                                                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                     \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode = va_arg(rest, mode_t);                                           \
        va_end(rest);                                                          \
    }

static int open_or_fail(const char *path, int flags, mode_t mode) {
    if (fault() == READ_ONLY && (flags & O_ACCMODE) != O_RDONLY && is_path_ours(path)) {
        fails_with(EROFS);
        return -1;
    }
    return real_open(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    MODE_ARGUMENT(mode, flags)
    return open_or_fail(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_ARGUMENT(mode, flags)
    return open_or_fail(path, flags | O_LARGEFILE, mode);
}

ssize_t pread(int fd, void *bytes, size_t len, off_t place) {
    if (fault() == WAITING_READS && is_ours(fd))
        wait_at_the_gate();
    return real_pread(fd, bytes, len, place);
}

ssize_t pread64(int fd, void *bytes, size_t len, off_t place) {
    return pread(fd, bytes, len, place);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t place) {
    return fails_to_change(fd) ? -1 : real_pwrite(fd, bytes, len, place);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t place) {
    return pwrite(fd, bytes, len, place);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    return fails_to_change(fd) ? -1 : real_write(fd, bytes, len);
}

int ftruncate(int fd, off_t len) {
    return fails_to_change(fd) ? -1 : real_ftruncate(fd, len);
}

int ftruncate64(int fd, off_t len) {
    return ftruncate(fd, len);
}

int fsync(int fd) {
    return sync_or_fail(real_fsync, fd);
}

int fdatasync(int fd) {
    return sync_or_fail(real_fdatasync, fd);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real_clock_gettime(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && control)
        time->tv_sec += atomic_load(&control->clock_step);
    return result;
}
