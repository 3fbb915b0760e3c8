/* A file that lies in persistent memory, as the place of transfers that go past the guest's cache: `dax in FILE DISK` has the
   disk read into the file and compares, `dax out FILE DISK` has the file written to the disk and compares. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LENGTH = 1 << 20 };

static char read_back[LENGTH];

static void must(int is_so, const char *what)
{
	if (!is_so) {
		perror(what);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	must(argc == 4, "arguments");
	int in = !strcmp(argv[1], "in");
	int file = open(argv[2], in ? O_RDWR | O_CREAT : O_RDONLY, 0644);
	must(file >= 0, "open the file");
	must(!in || !ftruncate(file, LENGTH), "ftruncate");
	char *memory = mmap(NULL, LENGTH, in ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
	must(memory != MAP_FAILED, "mmap");
	int direct = open(argv[3], O_RDWR | O_DIRECT);
	must(direct >= 0, "open the disk");
	if (in)
		must(pread(direct, memory, LENGTH, 0) == LENGTH, "read from the disk");
	else
		must(pwrite(direct, memory, LENGTH, 0) == LENGTH, "write to the disk");
	int disk = open(argv[3], O_RDONLY);
	must(pread(disk, read_back, LENGTH, 0) == LENGTH, "read again");
	must(!memcmp(memory, read_back, LENGTH), "compare");
	if (in)
		must(!msync(memory, LENGTH, MS_SYNC), "msync");
	puts("the same");
	return 0;
}
