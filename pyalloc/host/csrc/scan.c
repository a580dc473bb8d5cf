/* SPDX-License-Identifier: MIT
 *
 * scan.c -- accesses pages in a given order, in a memory cgroup that it joins first.
 *
 *     scan MODE PAGES FILE ORDER PROCS
 *
 * MODE is anon, anon0 (nothing but zeros is written), shm, fread (pages of FILE are read), fmap (FILE
 * is mapped) or fmapr (the same with MADV_RANDOM).  The descriptor ORDER holds page numbers of 32
 * bits; each pair of such numbers on stdin, a count and whether to write, is one pass over the first
 * `count` of them.  One byte says that it is ready, and one that a pass is done.
 *
 * What it needs for itself it has before it joins, so that the cgroup pays for the scan alone.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAGE = 4096, WRONG_USE = 2, CANNOT_JOIN = 3, CANNOT_MAP = 4, CANNOT_READ = 5 };

static char buffer[PAGE];

static struct scan {
    int file;
    char *at;
    int zeros;
    int reads;
} scan;

static int join(const char *procs)
{
    int fd = open(procs, O_WRONLY);
    return fd >= 0 && write(fd, "0", 1) == 1 && close(fd) == 0;
}

static uint32_t *map_order(int fd, size_t length)
{
    return mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
}

static char *map_file(const char *mode, size_t length)
{
    char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, scan.file, 0);
    if (at != MAP_FAILED && !strcmp(mode, "fmapr"))
        madvise(at, length, MADV_RANDOM);
    return at;
}

static char *map(const char *mode, size_t length, const char *name)
{
    int both = PROT_READ | PROT_WRITE;
    if (!strcmp(mode, "shm"))
        return mmap(NULL, length, both, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (*mode != 'f')
        return mmap(NULL, length, both, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    scan.file = open(name, O_RDWR);
    if (scan.file < 0)
        return MAP_FAILED;
    return scan.reads ? NULL : map_file(mode, length);
}

static void access_page(uint32_t number, uint32_t written, int write)
{
    size_t at = (size_t)number * PAGE;
    if (scan.reads) {
        if (pread(scan.file, buffer, PAGE, (off_t)at) != PAGE)
            exit(CANNOT_READ);
        return;
    }
    volatile uint32_t *page = (volatile uint32_t *)(scan.at + at);
    if (write)
        *page = scan.zeros ? 0 : written;
    else
        (void)*page;
}

static void make_passes(const uint32_t *order)
{
    for (uint32_t pass[2]; write(1, "", 1) == 1 && read(0, pass, sizeof pass) == sizeof pass;) {
        for (uint32_t i = 0; i < pass[0]; i++)
            access_page(order[i], i + 1, pass[1] != 0);
    }
}

int main(int argc, char **argv)
{
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    memset(buffer, 1, PAGE);
    if (argc != 6)
        return WRONG_USE;
    size_t length = strtoul(argv[2], NULL, 10) * PAGE;
    uint32_t *order = map_order(atoi(argv[4]), length / PAGE * sizeof *order);
    if (!join(argv[5]))
        return CANNOT_JOIN;
    scan.zeros = !strcmp(argv[1], "anon0");
    scan.reads = !strcmp(argv[1], "fread");
    scan.at = map(argv[1], length, argv[3]);
    if (scan.at == MAP_FAILED || order == MAP_FAILED)
        return CANNOT_MAP;
    make_passes(order);
    return 0;
}
