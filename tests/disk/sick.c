// Between a process and libc: fdatasync of a journal file hangs or fails as the file that SICK_DISK names says, or a byte of it
// cannot be read.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Its first letter; behind an "e" stands the byte.
static char state(long *byte) {
  const char *path = getenv("SICK_DISK");
  char said[32] = "w";
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file >= 0) {
    ssize_t length = read(file, said, sizeof said - 1);
    said[length > 0 ? length : 0] = 0;
    close(file);
  }
  if (byte) *byte = atol(said + 1);
  return said[0];
}

static int is_journal(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, ".journal") != NULL;
}

int fdatasync(int file) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  if (is_journal(file)) {
    while (state(NULL) == 'h') usleep(20000);
    if (state(NULL) == 'f') {
      errno = EIO;
      return -1;
    }
  }
  return real(file);
}

ssize_t pread64(int file, void *to, size_t count, off_t from) {
  static ssize_t (*real)(int, void *, size_t, off_t);
  if (!real) real = (ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
  long byte;
  if (is_journal(file) && state(&byte) == 'e' && from <= byte && byte < from + (long)count) {
    errno = EIO;
    return -1;
  }
  return real(file, to, count, from);
}
