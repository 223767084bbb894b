/* A disk that forgets. Preloaded into a program, it keeps beside a folder what a power cut would leave of it:
 * a file's bytes as they were when it was last synced, and a folder's names as they were when that was.
 *
 *   FORGETFUL_FROM      the folder
 *   FORGETFUL_TO        where it is kept, on the same file system; it has these folders:
 *     durable/INODE     synced bytes of a file
 *     live/INODE        a hard link, so that a removed file's number is not used again
 *     names/INODE       synced names in a folder: a line "INODE f|d NAME" for each
 *     graves/INODE      a removed folder, for the same reason
 *   FORGETFUL_SYNC_US   each sync takes up to so many microseconds, in which nothing is durable yet
 *   FORGETFUL_IGNORES   the end of a path: syncs of files and folders that end so do nothing
 *
 * All of it outlives the process, as the page cache does: a file that a killed process left unsynced is copied whole
 * when the next one syncs it. What is written through memory (mmap) or by system calls without libc is not seen and
 * forgotten, unless it is synced later with a write that is seen; sync() and syncfs() make nothing durable here. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The next one's of this name, libc's. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define BUCKETS 1024

/* A file of the folder, and what was written of it since it was last synced. */
struct file {
  ino_t inode;
  off_t from, to;
  pthread_mutex_t syncing;
  struct file *next;
};

static char from[PATH_MAX], to[PATH_MAX];
static const char *ignored;
static dev_t device;
static unsigned sync_us;
static struct file *files[BUCKETS];
/* Of the files above. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Names do not change while they are listed. */
static pthread_mutex_t naming = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what) {
  fprintf(stderr, "forgetful: %s: %s\n", what, strerror(errno));
  abort();
}

static void path_of(char *path, const char *kind, ino_t inode) {
  if (snprintf(path, PATH_MAX, "%s/%s/%ju", to, kind, (uintmax_t)inode) >= PATH_MAX) die("a path too long");
}

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("FORGETFUL_FROM"), *us = getenv("FORGETFUL_SYNC_US");
  struct stat found;
  if (!folder) return;
  if (!realpath(folder, from) || stat(from, &found) || !realpath(getenv("FORGETFUL_TO") ?: "", to)) die("its folders");
  device = found.st_dev;
  sync_us = us ? atoi(us) : 0;
  ignored = getenv("FORGETFUL_IGNORES");
}

/* Whether it is an open file or folder within ours; `found` and `path` are told of it. */
static int is_ours(int fd, struct stat *found, char path[PATH_MAX]) {
  char link[32];
  if (!*from || fstat(fd, found) || found->st_dev != device) return 0;
  if (!S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) die(link);
  path[length] = 0;
  size_t prefix = strlen(from);
  return !strncmp(path, from, prefix) && (path[prefix] == '/' || !path[prefix]);
}

/* Its record; one that was not met before may have been written to by a process that is gone. */
static struct file *file_of(ino_t inode) {
  struct file **place = &files[inode % BUCKETS];
  for (struct file *file = *place; file; file = file->next)
    if (file->inode == inode) return file;
  struct file *file = malloc(sizeof *file);
  if (!file) die("memory");
  *file = (struct file){inode, 0, INT64_MAX, PTHREAD_MUTEX_INITIALIZER, *place};
  return *place = file;
}

/* After a write, with the errno that it left. */
static void written(int fd, off_t first, off_t end) {
  int error = errno;
  char path[PATH_MAX];
  struct stat found;
  if (is_ours(fd, &found, path) && S_ISREG(found.st_mode)) {
    pthread_mutex_lock(&lock);
    struct file *file = file_of(found.st_ino);
    if (first < file->from) file->from = first;
    if (end > file->to) file->to = end;
    pthread_mutex_unlock(&lock);
  }
  errno = error;
}

static void dawdle(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (sync_us) usleep(now.tv_nsec / 64 % sync_us);
}

static void copy(int live, int durable, off_t first, off_t end) {
  static __thread char bytes[1 << 16];
  while (first < end) {
    size_t wanted = end - first < (off_t)sizeof bytes ? end - first : (off_t)sizeof bytes;
    ssize_t got = pread(live, bytes, wanted, first);
    if (got < 0) die("a file that is synced cannot be read");
    if (!got) return; /* cut short meanwhile */
    if (REAL(pwrite)(durable, bytes, got, first) != got) die("no room for what is synced");
    first += got;
  }
}

static void sync_bytes(int fd, ino_t inode) {
  char link[32], path[PATH_MAX];
  struct stat found;
  pthread_mutex_lock(&lock);
  struct file *file = file_of(inode);
  pthread_mutex_unlock(&lock);
  /* Another sync of it has to be over before this one can say that it is. */
  pthread_mutex_lock(&file->syncing);
  pthread_mutex_lock(&lock);
  off_t first = file->from, end = file->to;
  file->from = INT64_MAX, file->to = 0;
  pthread_mutex_unlock(&lock);
  dawdle();
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  path_of(path, "live", inode);
  /* One without a name that never had a durable one is nobody's. */
  if (!linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW) || errno == EEXIST) {
    path_of(path, "durable", inode);
    int live = REAL(open)(link, O_RDONLY | O_CLOEXEC), durable = REAL(open)(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (live < 0 || durable < 0 || fstat(live, &found)) die(path);
    if (REAL(ftruncate)(durable, found.st_size)) die(path);
    copy(live, durable, first, end < found.st_size ? end : found.st_size);
    close(live), close(durable);
  } else if (errno != ENOENT) {
    die(path);
  }
  pthread_mutex_unlock(&file->syncing);
}

static void list(int fd, FILE *names) {
  char path[PATH_MAX];
  struct stat found;
  int again = REAL(openat)(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *folder = again < 0 ? NULL : fdopendir(again);
  if (!folder) die("a folder that is synced");
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (fstatat(fd, entry->d_name, &found, AT_SYMLINK_NOFOLLOW)) continue; /* gone meanwhile */
    path_of(path, "live", found.st_ino);
    if (!S_ISDIR(found.st_mode) && linkat(fd, entry->d_name, AT_FDCWD, path, 0) && errno != EEXIST) continue;
    fprintf(names, "%ju %c %s\n", (uintmax_t)found.st_ino, S_ISDIR(found.st_mode) ? 'd' : 'f', entry->d_name);
  }
  closedir(folder);
}

static void sync_names(int fd, ino_t inode) {
  char path[PATH_MAX], fresh[PATH_MAX + 32];
  dawdle();
  pthread_mutex_lock(&naming);
  path_of(path, "names", inode);
  snprintf(fresh, sizeof fresh, "%s.new", path);
  FILE *names = fopen(fresh, "we");
  if (!names) die(fresh);
  list(fd, names);
  if (fclose(names) || REAL(rename)(fresh, path)) die(path);
  pthread_mutex_unlock(&naming);
}

static int is_ignored(const char *path) {
  size_t length = strlen(path), end = ignored ? strlen(ignored) : 0;
  return end && length >= end && !strcmp(path + length - end, ignored);
}

static int sync_ours(int fd) {
  char path[PATH_MAX];
  struct stat found;
  if (!is_ours(fd, &found, path)) return 0;
  if (!is_ignored(path)) (S_ISDIR(found.st_mode) ? sync_names : sync_bytes)(fd, found.st_ino);
  return 1;
}

/* The disk beneath is not troubled. */
int fsync(int fd) { return sync_ours(fd) ? 0 : REAL(fsync)(fd); }
int fdatasync(int fd) { return sync_ours(fd) ? 0 : REAL(fdatasync)(fd); }

/* ---- what is written ---- */

/* Calls libc's and notes that anything in the file may be new. */
#define NOTING(type, name, fd, parameters, arguments) \
  type name parameters {                              \
    type result = REAL(name) arguments;               \
    written(fd, 0, INT64_MAX);                        \
    return result;                                    \
  }
#define NOTING_PWRITE(name)                                                   \
  ssize_t name(int fd, const void *bytes, size_t count, off_t at) {           \
    ssize_t result = REAL(name)(fd, bytes, count, at);                        \
    written(fd, at, at + count);                                              \
    return result;                                                            \
  }

NOTING_PWRITE(pwrite)
NOTING_PWRITE(pwrite64)
NOTING(ssize_t, write, fd, (int fd, const void *bytes, size_t count), (fd, bytes, count))
NOTING(ssize_t, writev, fd, (int fd, const struct iovec *v, int count), (fd, v, count))
NOTING(ssize_t, pwritev, fd, (int fd, const struct iovec *v, int count, off_t at), (fd, v, count, at))
NOTING(ssize_t, pwritev64, fd, (int fd, const struct iovec *v, int count, off_t at), (fd, v, count, at))
NOTING(ssize_t, pwritev2, fd, (int fd, const struct iovec *v, int n, off_t at, int how), (fd, v, n, at, how))
NOTING(ssize_t, pwritev64v2, fd, (int fd, const struct iovec *v, int n, off_t at, int how), (fd, v, n, at, how))
NOTING(int, ftruncate, fd, (int fd, off_t bytes), (fd, bytes))
NOTING(int, ftruncate64, fd, (int fd, off_t bytes), (fd, bytes))
NOTING(int, fallocate, fd, (int fd, int how, off_t at, off_t bytes), (fd, how, at, bytes))
NOTING(int, fallocate64, fd, (int fd, int how, off_t at, off_t bytes), (fd, how, at, bytes))
NOTING(int, posix_fallocate, fd, (int fd, off_t at, off_t bytes), (fd, at, bytes))
NOTING(int, posix_fallocate64, fd, (int fd, off_t at, off_t bytes), (fd, at, bytes))
NOTING(ssize_t, sendfile, fd, (int fd, int in, off_t *at, size_t count), (fd, in, at, count))
NOTING(ssize_t, sendfile64, fd, (int fd, int in, off_t *at, size_t count), (fd, in, at, count))
NOTING(ssize_t, copy_file_range, fd, (int in, off_t *at, int fd, off_t *to_at, size_t count, unsigned how),
       (in, at, fd, to_at, count, how))

/* Opening can cut. */
#define NOTING_OPEN(name, parameters, ...)                                                    \
  int name parameters {                                                                       \
    mode_t mode = 0;                                                                          \
    if (how & O_CREAT || (how & O_TMPFILE) == O_TMPFILE) {                                    \
      va_list rest;                                                                           \
      va_start(rest, how);                                                                    \
      mode = va_arg(rest, mode_t);                                                            \
      va_end(rest);                                                                           \
    }                                                                                         \
    int fd = REAL(name)(__VA_ARGS__, how, mode);                                              \
    if (fd >= 0 && how & O_TRUNC) written(fd, 0, INT64_MAX);                                  \
    return fd;                                                                                \
  }

NOTING_OPEN(open, (const char *path, int how, ...), path)
NOTING_OPEN(open64, (const char *path, int how, ...), path)
NOTING_OPEN(openat, (int at, const char *path, int how, ...), at, path)
NOTING_OPEN(openat64, (int at, const char *path, int how, ...), at, path)

/* ---- names ---- */

#define NAMING(name, parameters, arguments) \
  int name parameters {                     \
    pthread_mutex_lock(&naming);            \
    int result = REAL(name) arguments;      \
    pthread_mutex_unlock(&naming);          \
    return result;                          \
  }

NAMING(rename, (const char *a, const char *b), (a, b))
NAMING(renameat, (int x, const char *a, int y, const char *b), (x, a, y, b))
NAMING(renameat2, (int x, const char *a, int y, const char *b, unsigned how), (x, a, y, b, how))
NAMING(unlink, (const char *path), (path))

static int is_empty(int fd) {
  int count = 0, again = REAL(openat)(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *folder = again < 0 ? NULL : fdopendir(again);
  if (!folder) die("a folder to remove");
  while (readdir(folder)) count++;
  closedir(folder);
  return count <= 2;
}

/* An empty folder of ours goes to a grave; anything else is libc's to judge. */
static int bury(int at, const char *path) {
  char grave[PATH_MAX], was[PATH_MAX];
  struct stat found;
  int buried = 0, fd = REAL(openat)(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return 0;
  if (is_ours(fd, &found, was) && is_empty(fd)) {
    path_of(grave, "graves", found.st_ino);
    buried = !REAL(renameat)(at, path, AT_FDCWD, grave);
  }
  close(fd);
  return buried;
}

int rmdir(const char *path) { return bury(AT_FDCWD, path) ? 0 : REAL(rmdir)(path); }
int unlinkat(int at, const char *path, int how) {
  if (how & AT_REMOVEDIR && bury(at, path)) return 0;
  pthread_mutex_lock(&naming);
  int result = REAL(unlinkat)(at, path, how);
  pthread_mutex_unlock(&naming);
  return result;
}
