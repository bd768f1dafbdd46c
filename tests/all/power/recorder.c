/*
 * Loaded before the C library of a process (LD_PRELOAD), this writes down what the process asks of the disk for one SQLite database:
 * its file, its WAL and its rollback journal, and the directory they are in. Nothing else is looked at; the -shm is mapped
 * memory that SQLite makes anew.
 *
 *   RECORD_DATABASE   the database, by the path that the process opens it by
 *   RECORD_LOG        where records are appended, by one process after another
 *
 * A record is four numbers of 64 bits - kind, file (its inode number), place, length - and so many bytes. A call and its record
 * are one step under a mutex, so that the order of records is the order of calls. The record comes first: a process that is killed
 * has done no more than is recorded. Of a sync the begin and the end are recorded, as it makes safe what was written before it
 * began, once it has returned. Calls are not expected to fail; one that does ends the process.
 *
 * Calls that neither SQLite nor the Rust library make on these files are left alone: writev, copy_file_range, dup, a shared map.
 * The test compares the files with what the records make, so that one that comes to be made does not go unnoticed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { DIRECTORY = 1, CREATE, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, UNLINK, RENAME };

#define FDS_MAX 65536

static const char *const suffixes[] = { "", "-wal", "-journal" };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char database[PATH_MAX];
static char directory[PATH_MAX];
static int log_fd = -1;
/* The inode number of the file that a descriptor is open on, if it is one of ours; else 0. */
static _Atomic uint64_t inode_of[FDS_MAX];
static _Atomic uint64_t syncs;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

static void fail(const char *what) {
    perror(what);
    abort();
}

static void find_real(void) {
    /* off_t has 64 bits where this is built, so that each pair of names, with 64 and without, is one function. */
    _Static_assert(sizeof(off_t) == 8, "built for 64 bits");
    real_open = dlsym(RTLD_NEXT, "open");
    real_openat = dlsym(RTLD_NEXT, "openat");
    real_close = dlsym(RTLD_NEXT, "close");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
}

/* With one call, as the log may be cut after each record, and only there. */
static void record(enum kind kind, uint64_t file, uint64_t place, const void *bytes, size_t len) {
    uint64_t head[4] = { kind, file, place, len };
    struct iovec parts[2] = { { head, sizeof head }, { (void *)bytes, len } };
    if (real_writev(log_fd, parts, 2) != (ssize_t)(sizeof head + len))
        fail("the recorder cannot write");
}

__attribute__((constructor)) static void start(void) {
    struct stat found;
    const char *path = getenv("RECORD_DATABASE"), *log = getenv("RECORD_LOG");
    find_real();
    if (!path || !log)
        return;
    if (path[0] != '/' || strlen(path) + sizeof "-journal" > sizeof database) {
        errno = EINVAL;
        fail("RECORD_DATABASE");
    }
    strcpy(database, path);
    strcpy(directory, path);
    *strrchr(directory, '/') = 0;
    log_fd = real_open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log_fd < 0 || stat(directory, &found) != 0)
        fail("RECORD_LOG");
    record(DIRECTORY, found.st_ino, 0, "", 0);
}

/* The name of one of our files, else NULL. */
static const char *our_name(const char *path) {
    size_t len = strlen(database);
    if (log_fd < 0 || strncmp(path, database, len) != 0)
        return NULL;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (strcmp(path + len, suffixes[i]) == 0)
            return path + strlen(directory) + 1;
    return NULL;
}

static uint64_t inode(int fd) {
    return fd >= 0 && fd < FDS_MAX ? atomic_load(&inode_of[fd]) : 0;
}

static int open_recorded(int at, const char *path, int flags, mode_t mode) {
    const char *name = our_name(path);
    struct stat found;
    int fd, is_there;
    if (!name && (log_fd < 0 || strcmp(path, directory) != 0))
        return real_openat(at, path, flags, mode);
    pthread_mutex_lock(&mutex);
    is_there = stat(path, &found) == 0;
    fd = real_openat(at, path, flags, mode);
    if (fd >= FDS_MAX || (fd >= 0 && fstat(fd, &found) != 0))
        fail("the recorder cannot follow a file");
    if (fd >= 0) {
        atomic_store(&inode_of[fd], found.st_ino);
        if (name && !is_there)
            record(CREATE, found.st_ino, 0, name, strlen(name));
        if (name && (flags & O_TRUNC))
            record(TRUNCATE, found.st_ino, 0, "", 0);
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

#define MODE_ARGUMENT(mode, flags)                                             \
    mode_t mode = 0;                                                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                     \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode = va_arg(rest, mode_t);                                           \
        va_end(rest);                                                          \
    }

int open(const char *path, int flags, ...) {
    MODE_ARGUMENT(mode, flags)
    return open_recorded(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_ARGUMENT(mode, flags)
    return open_recorded(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int at, const char *path, int flags, ...) {
    MODE_ARGUMENT(mode, flags)
    return open_recorded(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    MODE_ARGUMENT(mode, flags)
    return open_recorded(at, path, flags | O_LARGEFILE, mode);
}

int close(int fd) {
    if (inode(fd))
        atomic_store(&inode_of[fd], 0);
    return real_close(fd);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t place) {
    uint64_t file = inode(fd);
    if (!file)
        return real_pwrite(fd, bytes, len, place);
    pthread_mutex_lock(&mutex);
    record(WRITE, file, place, bytes, len);
    if (real_pwrite(fd, bytes, len, place) != (ssize_t)len)
        fail("a write that is recorded");
    pthread_mutex_unlock(&mutex);
    return len;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t place) {
    return pwrite(fd, bytes, len, place);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    uint64_t file = inode(fd);
    if (!file)
        return real_write(fd, bytes, len);
    pthread_mutex_lock(&mutex);
    record(WRITE, file, lseek(fd, 0, SEEK_CUR), bytes, len);
    if (real_write(fd, bytes, len) != (ssize_t)len)
        fail("a write that is recorded");
    pthread_mutex_unlock(&mutex);
    return len;
}

int ftruncate(int fd, off_t len) {
    uint64_t file = inode(fd);
    if (!file)
        return real_ftruncate(fd, len);
    pthread_mutex_lock(&mutex);
    record(TRUNCATE, file, len, "", 0);
    if (real_ftruncate(fd, len) != 0)
        fail("a new length that is recorded");
    pthread_mutex_unlock(&mutex);
    return 0;
}

int ftruncate64(int fd, off_t len) {
    return ftruncate(fd, len);
}

/*
 * Not done, but for the time that it takes: the process ends by no loss of power, so that the test need not wait for a real disk.
 * Without the mutex, as others write meanwhile; that they can is what the time is for, and nothing depends on its length.
 */
static int sync_recorded(int (*real)(int), int fd) {
    const struct timespec as_long_as_a_disk = { 0, 1000 * 1000 };
    uint64_t file = inode(fd), number;
    if (!file)
        return real(fd);
    number = (uint64_t)getpid() << 32 | atomic_fetch_add(&syncs, 1);
    pthread_mutex_lock(&mutex);
    record(SYNC_BEGIN, file, number, "", 0);
    pthread_mutex_unlock(&mutex);
    nanosleep(&as_long_as_a_disk, NULL);
    pthread_mutex_lock(&mutex);
    record(SYNC_END, file, number, "", 0);
    pthread_mutex_unlock(&mutex);
    return 0;
}

int fsync(int fd) {
    return sync_recorded(real_fsync, fd);
}

int fdatasync(int fd) {
    return sync_recorded(real_fdatasync, fd);
}

int unlink(const char *path) {
    const char *name = our_name(path);
    struct stat found;
    int result;
    if (!name)
        return real_unlink(path);
    pthread_mutex_lock(&mutex);
    if (stat(path, &found) == 0)
        record(UNLINK, 0, 0, name, strlen(name));
    result = real_unlink(path);
    if (result != 0 && errno != ENOENT)
        fail("a removal that is recorded");
    pthread_mutex_unlock(&mutex);
    return result;
}

/* What comes from elsewhere, or goes there, would have a content that is not recorded. */
int rename(const char *from, const char *to) {
    const char *old_name = our_name(from), *new_name = our_name(to);
    char names[2 * PATH_MAX];
    if (!old_name && !new_name)
        return real_rename(from, to);
    if (!old_name || !new_name) {
        errno = ENOTSUP;
        fail("the recorder cannot follow a file that is renamed");
    }
    pthread_mutex_lock(&mutex);
    record(RENAME, 0, 0, names, snprintf(names, sizeof names, "%s/%s", old_name, new_name));
    if (real_rename(from, to) != 0)
        fail("a renaming that is recorded");
    pthread_mutex_unlock(&mutex);
    return 0;
}
