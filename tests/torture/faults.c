/* Injects one fault into the calls of a process that change a folder. Loaded with LD_PRELOAD.

   Calls whose path, or whose descriptor's path, lies in or below `faults_below` are counted from 1.
   Call number `faults_at` (with `faults_lasting` also each later one) gets the fault `faults_kind`:
   'k' kill -9 before the call, 't' half of a write and then kill -9, 's' half of a write,
   'e' the error `faults_errno`. Each counted call is recorded on the descriptor `faults_log`:
   call \0 path \0 second path \0 size \0 content. Other calls pass through unchanged. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char faults_below[PATH_MAX];
int faults_at, faults_kind, faults_errno, faults_lasting, faults_count, faults_log = -1;

#define REAL(name, ...) \
    static int (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, #name)
static ssize_t (*real_write)(int, const void *, size_t);

static int below(const char *path) {
    size_t n = strlen(faults_below);
    return n && !strncmp(path, faults_below, n) && (path[n] == '/' || !path[n]);
}

/* Writes to `full` the path of a descriptor, or of `path` below it. */
static int locate(int at, const char *path, char *full) {
    char link[64];
    ssize_t n = 0;
    full[0] = 0;
    if (path && (path[0] == '/' || at == AT_FDCWD)) return snprintf(full, PATH_MAX, "%s", path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    if ((n = readlink(link, full, PATH_MAX - 1)) < 0) n = 0;
    full[n] = 0;
    return path ? snprintf(full + n, PATH_MAX - n, "/%s", path) : 0;
}

static void record(const char *call, const char *path, const char *second, const void *content,
                   size_t size) {
    char line[2 * PATH_MAX + 64];
    int n = 0;
    if (faults_log < 0) return;
    n = snprintf(line, sizeof line, "%s%c%s%c%s%c%zu%c", call, 0, path, 0, second, 0, size, 0);
    real_write(faults_log, line, n);
    if (size) real_write(faults_log, content, size);
}

enum { GO, FAIL, SHORT };

/* Counts a call; kills the process, or says what is to become of the call. */
static int fate(const char *call, const char *path, const char *second, const void *content,
                size_t size) {
    if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
    if (!faults_below[0] || !(below(path) || below(second))) return GO;
    faults_count++;
    record(call, path, second, content, size);
    if (!faults_at || faults_count < faults_at || (faults_count > faults_at && !faults_lasting))
        return GO;
    if (faults_kind == 'k') kill(getpid(), SIGKILL);
    if (faults_kind == 't' || faults_kind == 's') return SHORT;
    errno = faults_errno;
    return FAIL;
}

static int on_path(const char *call, int at, const char *path) {
    char full[PATH_MAX];
    if (!faults_below[0]) return GO;
    locate(at, path, full);
    return fate(call, full, "", NULL, 0);
}

static int opened(int at, const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    return on_path(!writes ? "open" : flags & O_TRUNC ? "truncate" : "create", at, path);
}

#define MODE \
    mode_t mode = 0; \
    va_list more; \
    va_start(more, flags); \
    if (flags & O_CREAT) mode = va_arg(more, mode_t); \
    va_end(more)

int open(const char *path, int flags, ...) {
    REAL(open, const char *, int, ...); MODE;
    return opened(AT_FDCWD, path, flags) == FAIL ? -1 : real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    REAL(open64, const char *, int, ...); MODE;
    return opened(AT_FDCWD, path, flags) == FAIL ? -1 : real(path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    REAL(openat, int, const char *, int, ...); MODE;
    return opened(at, path, flags) == FAIL ? -1 : real(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    REAL(openat64, int, const char *, int, ...); MODE;
    return opened(at, path, flags) == FAIL ? -1 : real(at, path, flags, mode);
}
ssize_t write(int file, const void *content, size_t size) {
    char full[PATH_MAX];
    int what = GO;
    if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
    if (faults_below[0] && file != faults_log) {
        locate(file, NULL, full);
        what = fate("write", full, "", content, size);
    }
    if (what == FAIL) return -1;
    if (what == GO) return real_write(file, content, size);
    ssize_t done = real_write(file, content, (size + 1) / 2);
    if (faults_kind == 't') kill(getpid(), SIGKILL);
    return done;
}
int fsync(int file) {
    REAL(fsync, int);
    return on_path("fsync", file, NULL) == FAIL ? -1 : real(file);
}
int fdatasync(int file) {
    REAL(fdatasync, int);
    return on_path("fsync", file, NULL) == FAIL ? -1 : real(file);
}
int close(int file) { /* Linux closes the descriptor even if it reports an error. */
    REAL(close, int);
    int what = on_path("close", file, NULL), reason = errno, done = real(file);
    if (what == FAIL) errno = reason;
    return what == FAIL ? -1 : done;
}
static int renamed(int from, const char *path, int to, const char *second) {
    char full[PATH_MAX], other[PATH_MAX];
    if (!faults_below[0]) return GO;
    locate(from, path, full);
    locate(to, second, other);
    return fate("rename", full, other, NULL, 0);
}
int rename(const char *path, const char *second) {
    REAL(rename, const char *, const char *);
    return renamed(AT_FDCWD, path, AT_FDCWD, second) == FAIL ? -1 : real(path, second);
}
int renameat(int from, const char *path, int to, const char *second) {
    REAL(renameat, int, const char *, int, const char *);
    return renamed(from, path, to, second) == FAIL ? -1 : real(from, path, to, second);
}
int unlink(const char *path) {
    REAL(unlink, const char *);
    return on_path("unlink", AT_FDCWD, path) == FAIL ? -1 : real(path);
}
int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat, int, const char *, int);
    const char *call = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    return on_path(call, at, path) == FAIL ? -1 : real(at, path, flags);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir, const char *, mode_t);
    return on_path("mkdir", AT_FDCWD, path) == FAIL ? -1 : real(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
    REAL(mkdirat, int, const char *, mode_t);
    return on_path("mkdir", at, path) == FAIL ? -1 : real(at, path, mode);
}
int rmdir(const char *path) {
    REAL(rmdir, const char *);
    return on_path("rmdir", AT_FDCWD, path) == FAIL ? -1 : real(path);
}
