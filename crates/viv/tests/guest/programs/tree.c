// Files and names in the directory that is given, tried out: what comes back is said, and is the same everywhere.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 10000

static void need(int holds, const char *what) {
    if (!holds) {
        printf("%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static int count(const char *directory) {
    DIR *listed = opendir(directory);
    int entries = 0;
    need(listed != NULL, "opendir");
    while (readdir(listed))
        entries++;
    closedir(listed);
    return entries - 2;
}

static void names(void) {
    char name[64], other[64];
    need(mkdir("many", 0755) == 0 && mkdir("moved", 0755) == 0, "mkdir");
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "many/%05d", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600 + i % 8);
        need(fd >= 0 && write(fd, name, strlen(name)) == (ssize_t)strlen(name) && close(fd) == 0, name);
    }
    printf("%d made\n", count("many"));
    for (int i = 0; i < FILES; i += 5) {
        snprintf(name, sizeof name, "many/%05d", i);
        snprintf(other, sizeof other, "moved/%05d", i);
        need(rename(name, other) == 0, "rename");
        need(link(other, name) == 0, "link");
        snprintf(name, sizeof name, "many/%05d", i + 1);
        need(unlink(name) == 0, "unlink");
        snprintf(other, sizeof other, "moved/link%05d", i + 1);
        need(symlink(name, other) == 0, "symlink");
    }
    printf("%d left, %d moved or linked\n", count("many"), count("moved"));
    struct stat stat;
    need(lstat("many/00005", &stat) == 0, "lstat");
    printf("%d names of one file\n", (int)stat.st_nlink);
    need(renameat2(AT_FDCWD, "many/00002", AT_FDCWD, "many/00003", RENAME_NOREPLACE) < 0 && errno == EEXIST,
         "a rename that replaces nothing");
    need(renameat2(AT_FDCWD, "many/00002", AT_FDCWD, "many/00003", RENAME_EXCHANGE) == 0, "an exchange");
    need(rmdir("many") < 0 && errno == ENOTEMPTY, "rmdir");
}

static void content(void) {
    const off_t far = 200 << 20;
    int fd = open("sparse", O_CREAT | O_RDWR, 0644);
    need(fd >= 0 && pwrite(fd, "near", 4, 0) == 4 && pwrite(fd, "far", 3, far) == 3, "sparse");
    need(fsync(fd) == 0, "fsync");
    off_t hole = lseek(fd, 0, SEEK_HOLE), data = lseek(fd, hole, SEEK_DATA);
    printf("sparse: %lld bytes, a hole before %d, data again: %d\n", (long long)lseek(fd, 0, SEEK_END), hole < far,
           data <= far && data > hole);
    close(fd);

    const size_t size = 4 << 20;
    fd = open("mapped", O_CREAT | O_RDWR, 0644);
    need(fd >= 0 && ftruncate(fd, size) == 0, "mapped");
    unsigned *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(words != MAP_FAILED, "mmap");
    for (size_t i = 0; i < size / sizeof *words; i++)
        words[i] = i * 2654435761u;
    need(msync(words, size, MS_SYNC) == 0, "msync");
    unsigned there;
    need(pread(fd, &there, sizeof there, 4000) == sizeof there, "pread");
    printf("mapped: %d\n", there == 1000 * 2654435761u);
    munmap(words, size);
    close(fd);

    fd = open("gone", O_CREAT | O_RDWR, 0600);
    need(fd >= 0 && unlink("gone") == 0 && write(fd, "x", 1) == 1 && pread(fd, &there, 1, 0) == 1, "gone");
    struct stat stat;
    need(fstat(fd, &stat) == 0, "fstat");
    printf("gone: %d names, %d byte\n", (int)stat.st_nlink, (int)stat.st_size);
    close(fd);

    fd = open("appended", O_CREAT | O_WRONLY | O_APPEND, 0644);
    for (int i = 0; i < 1000; i++)
        need(write(fd, "0123456789\n", 11) == 11, "append");
    need(close(fd) == 0, "close");
}

int main(int argc, char **argv) {
    need(argc == 2 && chdir(argv[1]) == 0, "the directory");
    names();
    content();
    return 0;
}
