/* SPDX-License-Identifier: MIT
 *
 * scan.c -- accesses pages in a given order, in a memory cgroup it joins first.
 *
 *     scan MODE PAGES FILE ORDER PROCS
 *
 * MODE is anon, anon0 (nothing but zeros is written), shm or fmapr (FILE mapped, MADV_RANDOM).  The
 * descriptor ORDER holds page numbers of 32 bits; each pair of such numbers on stdin, a count and
 * whether to write, is one pass over the first `count` of them, and is answered by one byte.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, CANNOT_JOIN = 3, CANNOT_MAP = 4 };

static int join(const char *procs)
{
    int fd = open(procs, O_WRONLY);
    return fd >= 0 && write(fd, "0", 1) == 1 && close(fd) == 0;
}

static char *map(const char *mode, size_t length, const char *name)
{
    int both = PROT_READ | PROT_WRITE;
    if (strcmp(mode, "shm") == 0)
        return mmap(NULL, length, both, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (strncmp(mode, "anon", 4) == 0)
        return mmap(NULL, length, both, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open(name, O_RDWR);
    char *at = fd < 0 ? MAP_FAILED : mmap(NULL, length, both, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        madvise(at, length, MADV_RANDOM);
    return at;
}

int main(int argc, char **argv)
{
    if (argc != 6 || !join(argv[5]))
        return CANNOT_JOIN;
    size_t length = strtoul(argv[2], NULL, 10) * PAGE;
    int zeros = strcmp(argv[1], "anon0") == 0;
    char *at = map(argv[1], length, argv[3]);
    uint32_t *order = mmap(NULL, length / PAGE * 4, PROT_READ, MAP_SHARED, atoi(argv[4]), 0);
    if (at == MAP_FAILED || order == MAP_FAILED)
        return CANNOT_MAP;
    for (uint32_t pass[2]; write(1, "", 1) == 1 && read(0, pass, 8) == 8;) {
        for (uint32_t i = 0; i < pass[0]; i++) {
            volatile uint32_t *page = (volatile uint32_t *)(at + (size_t)order[i] * PAGE);
            if (pass[1])
                *page = zeros ? 0 : i + 1;
            else
                (void)*page;
        }
    }
    return 0;
}
