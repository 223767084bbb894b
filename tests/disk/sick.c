// Between a process and libc: fdatasync of a journal file hangs or fails as the file that SICK_DISK names says.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char state(void) {
  const char *path = getenv("SICK_DISK");
  char said = 'w';
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file >= 0) {
    if (read(file, &said, 1) != 1) said = 'w';
    close(file);
  }
  return said;
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
    while (state() == 'h') usleep(20000);
    if (state() == 'f') {
      errno = EIO;
      return -1;
    }
  }
  return real(file);
}
