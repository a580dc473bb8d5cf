/* SPDX-License-Identifier: MIT
 *
 * address_space.c -- what the kernel takes for a mapping call among many areas, and for a fork.
 *
 *     address_space calls AREAS COUNT    prints: nanoseconds of COUNT pairs, for each of PAIRS
 *     address_space fork PAGES COUNT     prints: nanoseconds of each of COUNT forks
 *
 * Workload: AREAS areas of two pages, alternately without access and with; the pairs undo what they
 * do, so that each finds the same areas.  The forked memory is written first, huge pages declined;
 * each child ends at once, and is waited for outside the time that counts.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS };

static char *middle; /* of the areas: one of those with access */

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void make_areas(size_t count)
{
    char *base = mmap(NULL, 2 * count * PAGE, PROT_NONE, ANON, -1, 0);
    if (base == MAP_FAILED)
        exit(3);
    for (size_t i = 0; i < count / 2; i++) {
        if (mmap(base + 4 * i * PAGE, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0) == MAP_FAILED)
            exit(3);
    }
    middle = base + 4 * (count / 4) * PAGE;
}

static void map_and_unmap(void)
{
    munmap(mmap(NULL, 2 * PAGE, RW, ANON, -1, 0), 2 * PAGE);
}

static void replace_and_back(void)
{
    (void)!mmap(middle, PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0);
    (void)!mmap(middle, PAGE, RW, ANON | MAP_FIXED, -1, 0);
}

static void protect_and_back(void)
{
    mprotect(middle, PAGE, PROT_READ);
    mprotect(middle, PAGE, RW);
}

static void grow_and_shrink(void)
{
    static char *brk;
    if (!brk)
        brk = (char *)syscall(SYS_brk, 0);
    syscall(SYS_brk, brk + PAGE);
    syscall(SYS_brk, brk);
}

static void time_pairs(void (*pair)(void), size_t count)
{
    pair();
    uint64_t begin = now();
    for (size_t i = 0; i < count; i++)
        pair();
    printf("%llu\n", (unsigned long long)(now() - begin));
}

static void time_forks(size_t pages, size_t count)
{
    char *p = mmap(NULL, pages * PAGE, RW, ANON, -1, 0);
    if (p == MAP_FAILED)
        exit(3);
    madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < pages; i++)
        p[i * PAGE] = 1;
    for (size_t i = 0; i < count; i++) {
        uint64_t begin = now();
        pid_t child = fork();
        if (!child)
            _exit(0);
        uint64_t end = now();
        if (child < 0)
            exit(3);
        waitpid(child, NULL, 0);
        printf("%llu\n", (unsigned long long)(end - begin));
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    size_t size = (size_t)strtoul(argv[2], NULL, 10), count = (size_t)strtoul(argv[3], NULL, 10);
    if (!strcmp(argv[1], "fork")) {
        time_forks(size, count);
        return 0;
    }
    make_areas(size);
    time_pairs(map_and_unmap, count);
    time_pairs(replace_and_back, count);
    time_pairs(protect_and_back, count);
    time_pairs(grow_and_shrink, count);
    return 0;
}
