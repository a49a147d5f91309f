/* Loaded before libc: fails, cuts short or ends the process at the n-th call that changes files below a folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2 };

static char folder[4096];
static long seen, failing;
static int fault, lasting;

/* Counts from now on; the n-th call (0: none) gets an error number, SHORT or KILL, and all later ones if it lasts. */
void fault_arm(const char *path, long nth, int what, int lasts) {
    strncpy(folder, path, sizeof folder - 1);
    seen = 0, failing = nth, fault = what, lasting = lasts;
}

long fault_seen(void) { return seen; }

static int is_ours(int directory, const char *path) {
    char whole[8192], start[4096] = "";
    if (!folder[0]) return 0;
    if (path && path[0] == '/') return !strncmp(path, folder, strlen(folder));
    if (directory == AT_FDCWD) {
        if (!getcwd(start, sizeof start)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, start, sizeof start - 1);
        if (length < 0) return 0;
        start[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", start, path ? path : "");
    return !strncmp(whole, folder, strlen(folder));
}

/* Returns what is to happen to this call: 0 nothing, or a fault. */
static int next(int directory, const char *path) {
    if (!is_ours(directory, path)) return 0;
    seen++;
    if (!failing || seen < failing || (seen > failing && !lasting)) return 0;
    if (fault == KILL) kill(getpid(), SIGKILL);
    return fault;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(directory, path)                          \
    do {                                               \
        int found = next(directory, path);             \
        if (found > 0) { errno = found; return -1; }   \
    } while (0)

static int changes(int flags) { return flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC); }
static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = mode_of(flags, rest);                          \
        va_end(rest);                                                \
        if (changes(flags)) FAIL(AT_FDCWD, path);                    \
        return REAL(name)(path, flags, mode);                        \
    }
#define OPENAT(name)                                                 \
    int name(int directory, const char *path, int flags, ...) {      \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = mode_of(flags, rest);                          \
        va_end(rest);                                                \
        if (changes(flags)) FAIL(directory, path);                   \
        return REAL(name)(directory, path, flags, mode);             \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

static int write_fault(int file, size_t *count) {
    int found = next(file, NULL);
    if (found == SHORT && *count > 1) *count /= 2;
    return found > 0 ? found : 0;
}

ssize_t write(int file, const void *data, size_t count) {
    if ((errno = write_fault(file, &count))) return -1;
    return REAL(write)(file, data, count);
}
ssize_t pwrite(int file, const void *data, size_t count, off_t at) {
    if ((errno = write_fault(file, &count))) return -1;
    return REAL(pwrite)(file, data, count, at);
}
ssize_t pwrite64(int file, const void *data, size_t count, off64_t at) {
    if ((errno = write_fault(file, &count))) return -1;
    return REAL(pwrite64)(file, data, count, at);
}
int fsync(int file) { FAIL(file, NULL); return REAL(fsync)(file); }
int fdatasync(int file) { FAIL(file, NULL); return REAL(fdatasync)(file); }
int ftruncate(int file, off_t size) { FAIL(file, NULL); return REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) { FAIL(file, NULL); return REAL(ftruncate64)(file, size); }
int mkdir(const char *path, mode_t mode) { FAIL(AT_FDCWD, path); return REAL(mkdir)(path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { FAIL(at, path); return REAL(mkdirat)(at, path, mode); }
int rename(const char *from, const char *to) { FAIL(AT_FDCWD, to); return REAL(rename)(from, to); }
int renameat(int at, const char *from, int there, const char *to) { FAIL(there, to); return REAL(renameat)(at, from, there, to); }
int link(const char *from, const char *to) { FAIL(AT_FDCWD, to); return REAL(link)(from, to); }
int linkat(int at, const char *from, int there, const char *to, int flags) { FAIL(there, to); return REAL(linkat)(at, from, there, to, flags); }
