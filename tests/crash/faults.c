/* A disk that fails on request: preloaded into the fork server of tests/crash, it stands before every system call
 * that changes a file below one directory, SQLite's own included.
 *
 * At the N-th such call it kills the process, returns an error (once, or from then on), or loses power: every page
 * that was written and not synced gets its last synced bytes back, and then the process is killed. A page whose fsync
 * failed is clean for the kernel, so no later fsync writes it (the "fsyncgate" of PostgreSQL, 2018): it is lost with
 * the power too, unless it was written again. File data and sizes only: names that were made or removed stay so, and
 * so do files that a crash would bring back after an unlink.
 *
 * The state lies in memory that forked children share, so that what one left unsynced is lost in the next.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, FILES = 512, PAGES = 16384, PATH = 512, LOG = 1 << 20 };
enum action { COUNT, KILL, FAIL, FAIL_SHORT, LOSE_POWER };

struct file {
    dev_t dev;
    ino_t ino;
    char path[PATH];
    off_t size; /* as it was synced */
};
struct page {
    int file;
    int is_lost; /* its fsync failed */
    off_t number;
    unsigned char synced[PAGE];
};
static struct state {
    char directory[PATH];
    long calls, at;
    int action, error, is_sticky, is_armed, is_acted;
    int files, pages;
    size_t logged;
    char log[LOG];
    struct file file[FILES];
    struct page page[PAGES];
} *S;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void setup(void) {
    S = mmap(NULL, sizeof *S, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (S == MAP_FAILED) abort();
}

static void give_up(const char *why) {
    syscall(SYS_write, 2, why, strlen(why)); /* stdio would come back here */
    abort();
}

/* Number of the file in the table, made if that is asked for; -1 if there is none, or it is no regular file. */
static int file_of(int fd, int make) {
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) return -1;
    for (int i = 0; i < S->files; i++)
        if (S->file[i].dev == st.st_dev && S->file[i].ino == st.st_ino) return i;
    if (!make) return -1;
    if (S->files == FILES) give_up("too many files");
    struct file *file = &S->file[S->files];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, file->path, PATH - 1);
    if (n < 0) give_up("no path");
    file->path[n] = 0;
    file->dev = st.st_dev, file->ino = st.st_ino, file->size = st.st_size;
    return S->files++;
}

static void forget_pages(int file, int lost_too) {
    int kept = 0;
    for (int i = 0; i < S->pages; i++) {
        struct page *page = &S->page[i];
        if (page->file == file && (lost_too || !page->is_lost)) continue;
        if (kept != i) S->page[kept] = *page;
        kept++;
    }
    S->pages = kept;
}

/* Before bytes [from, to) change: their pages keep what was synced, and are dirty again if they had been lost. */
static void remember(int fd, off_t from, off_t to) {
    int file = file_of(fd, 1);
    if (file < 0 || strstr(S->file[file].path, "-shm")) return; /* SQLite makes that one anew */
    for (off_t number = from / PAGE; number * PAGE < to; number++) {
        int i = 0;
        while (i < S->pages && !(S->page[i].file == file && S->page[i].number == number)) i++;
        if (i == S->pages) {
            if (S->pages == PAGES) give_up("too many pages");
            struct page *page = &S->page[S->pages++];
            page->file = file, page->number = number;
            memset(page->synced, 0, PAGE);
            char path[64]; /* the descriptor may be write-only */
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            int reader = open(path, O_RDONLY | O_CLOEXEC);
            if (reader < 0 || syscall(SYS_pread64, reader, page->synced, PAGE, number * PAGE) < 0) give_up("no page");
            syscall(SYS_close, reader);
        }
        S->page[i].is_lost = 0;
    }
}

static void synced(int fd) {
    int file = file_of(fd, 1);
    if (file < 0) return;
    struct stat st;
    forget_pages(file, 0);
    if (!fstat(fd, &st)) S->file[file].size = st.st_size;
}

static void sync_failed(int fd) {
    int file = file_of(fd, 0);
    for (int i = 0; i < S->pages; i++)
        if (S->page[i].file == file) S->page[i].is_lost = 1;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

void faults_lose_power(void) {
    for (int i = 0; i < S->pages; i++) {
        struct page *page = &S->page[i];
        struct stat st;
        int fd = open(S->file[page->file].path, O_WRONLY | O_CLOEXEC);
        if (fd < 0) continue; /* it was removed */
        if (!fstat(fd, &st) && st.st_ino == S->file[page->file].ino)
            syscall(SYS_pwrite64, fd, page->synced, PAGE, page->number * PAGE);
        syscall(SYS_close, fd);
    }
    for (int i = 0; i < S->files; i++) {
        struct file *file = &S->file[i];
        struct stat st;
        int fd = open(file->path, O_WRONLY | O_CLOEXEC);
        if (fd < 0) continue;
        /* Whole pages were put back, so the size is set wherever one was. */
        if (!fstat(fd, &st) && st.st_ino == file->ino) syscall(SYS_ftruncate, fd, file->size);
        syscall(SYS_close, fd);
    }
    die();
}

void faults_arm(const char *directory, long at, int action, int error, int is_sticky) {
    snprintf(S->directory, PATH, "%s", directory);
    S->calls = 0, S->at = at, S->action = action, S->error = error, S->is_sticky = is_sticky;
    S->is_acted = 0, S->logged = 0, S->is_armed = 1;
}
/* The calls go on being watched, for the pages; nothing fails. */
void faults_disarm(void) { S->action = COUNT, S->is_sticky = 0; }
/* A new case: nothing is watched, nothing is unsynced. */
void faults_reset(void) { S->is_armed = S->files = S->pages = 0; }
int faults_acted(void) { return S->is_acted; }
const char *faults_log(void) { S->log[S->logged] = 0; return S->log; }

static int is_below(const char *path) {
    size_t n = strlen(S->directory);
    return !strncmp(path, S->directory, n) && (path[n] == '/' || !path[n]);
}

/* Whether call `name` on `path` fails now: 0 no, 1 yes, 2 a write of its first half does not. May not return. */
static int due(const char *name, const char *path) {
    S->calls++;
    if (S->logged + PATH < LOG)
        S->logged += snprintf(S->log + S->logged, PATH, "%s %s\n", name, path[strlen(S->directory)] ? path + strlen(S->directory) : "/");
    if (S->action == COUNT || S->calls < S->at || (S->calls > S->at && !S->is_sticky)) return 0;
    S->is_acted = 1;
    if (S->action == KILL) die();
    if (S->action == LOSE_POWER) faults_lose_power();
    errno = S->error;
    return S->action == FAIL_SHORT ? 2 : 1;
}

static int due_fd(const char *name, int fd) {
    char link[64], path[PATH];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(path) ? due(name, path) : -1;
}

static int due_at(const char *name, int dir, const char *path) {
    char whole[2 * PATH] = "";
    if (path[0] != '/' && dir != AT_FDCWD) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, whole, PATH - 1);
        if (n < 0) return -1;
        whole[n] = '/', whole[n + 1] = 0;
    }
    strncat(whole, path, PATH - 1);
    return is_below(whole) ? due(name, whole) : -1;
}

#define UNWATCHED(call) if (!S || !S->is_armed) return call
#define LOCKED(result, expression) \
    pthread_mutex_lock(&lock);     \
    result = expression;           \
    pthread_mutex_unlock(&lock)

static ssize_t do_write(const char *name, int fd, const void *data, size_t n, off_t at) {
    pthread_mutex_lock(&lock);
    int fails = due_fd(name, fd), error = errno;
    off_t from = at >= 0 ? at : lseek(fd, 0, SEEK_CUR);
    if (fails == 2) n /= 2;
    if (fails == 0 || fails == 2) remember(fd, from, from + (off_t)n);
    ssize_t written = -1;
    if (fails != 1) written = at >= 0 ? syscall(SYS_pwrite64, fd, data, n, at) : syscall(SYS_write, fd, data, n);
    /* The half that fitted is reported as such; what follows finds the disk full. */
    if (fails == 2) S->at = S->calls + 1, S->action = FAIL;
    pthread_mutex_unlock(&lock);
    if (fails == 1) errno = error;
    return written;
}

ssize_t write(int fd, const void *data, size_t n) {
    UNWATCHED(syscall(SYS_write, fd, data, n));
    return do_write("write", fd, data, n, -1);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    UNWATCHED(syscall(SYS_pwrite64, fd, data, n, at));
    return do_write("pwrite", fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    UNWATCHED(syscall(SYS_pwrite64, fd, data, n, at));
    return do_write("pwrite", fd, data, n, at);
}

static int do_sync(const char *name, int fd, long number) {
    pthread_mutex_lock(&lock);
    int fails = due_fd(name, fd), error = errno, result = -1;
    if (fails > 0) sync_failed(fd);
    else if (!(result = (int)syscall(number, fd)) && fails == 0) synced(fd);
    pthread_mutex_unlock(&lock);
    if (fails > 0) errno = error;
    return result;
}
int fsync(int fd) {
    UNWATCHED((int)syscall(SYS_fsync, fd));
    return do_sync("fsync", fd, SYS_fsync);
}
int fdatasync(int fd) {
    UNWATCHED((int)syscall(SYS_fdatasync, fd));
    return do_sync("fdatasync", fd, SYS_fdatasync);
}

static int do_truncate(int fd, off_t size) {
    struct stat st;
    pthread_mutex_lock(&lock);
    int fails = due_fd("ftruncate", fd), error = errno, result = -1;
    if (fails <= 0) {
        if (fails == 0 && !fstat(fd, &st)) {
            file_of(fd, 1); /* and its size as it is now */
            if (size < st.st_size) remember(fd, size, st.st_size);
        }
        result = (int)syscall(SYS_ftruncate, fd, size);
    }
    pthread_mutex_unlock(&lock);
    if (fails > 0) errno = error;
    return result;
}
int ftruncate(int fd, off_t size) {
    UNWATCHED((int)syscall(SYS_ftruncate, fd, size));
    return do_truncate(fd, size);
}
int ftruncate64(int fd, off_t size) {
    UNWATCHED((int)syscall(SYS_ftruncate, fd, size));
    return do_truncate(fd, size);
}

static void renamed(const char *from, const char *to) {
    for (int i = 0; i < S->files; i++) {
        if (!strcmp(S->file[i].path, to)) forget_pages(i, 1), S->file[i].path[0] = 0, S->file[i].ino = 0;
        if (!strcmp(S->file[i].path, from)) snprintf(S->file[i].path, PATH, "%s", to);
    }
}
/* Files that are gone: their inode number may be another file's next. */
static int removed(int result) {
    struct stat st;
    if (!result)
        for (int i = 0; i < S->files; i++)
            if (S->file[i].ino && (stat(S->file[i].path, &st) || st.st_ino != S->file[i].ino))
                forget_pages(i, 1), S->file[i].path[0] = 0, S->file[i].ino = 0;
    return result;
}
int rename(const char *from, const char *to) {
    int fails = 0;
    UNWATCHED((int)syscall(SYS_rename, from, to));
    LOCKED(fails, due_at("rename", AT_FDCWD, from));
    if (fails > 0) return -1;
    int result = (int)syscall(SYS_rename, from, to);
    if (!result && fails == 0) renamed(from, to);
    return result;
}
int unlink(const char *path) {
    int fails = 0;
    UNWATCHED((int)syscall(SYS_unlink, path));
    LOCKED(fails, due_at("unlink", AT_FDCWD, path));
    return fails > 0 ? -1 : removed((int)syscall(SYS_unlink, path));
}
int unlinkat(int dir, const char *path, int flags) {
    int fails = 0;
    UNWATCHED((int)syscall(SYS_unlinkat, dir, path, flags));
    LOCKED(fails, due_at("unlink", dir, path));
    return fails > 0 ? -1 : removed((int)syscall(SYS_unlinkat, dir, path, flags));
}
int rmdir(const char *path) {
    int fails = 0;
    UNWATCHED((int)syscall(SYS_rmdir, path));
    LOCKED(fails, due_at("rmdir", AT_FDCWD, path));
    return fails > 0 ? -1 : (int)syscall(SYS_rmdir, path);
}
int mkdir(const char *path, mode_t mode) {
    int fails = 0;
    UNWATCHED((int)syscall(SYS_mkdir, path, mode));
    LOCKED(fails, due_at("mkdir", AT_FDCWD, path));
    return fails > 0 ? -1 : (int)syscall(SYS_mkdir, path, mode);
}
