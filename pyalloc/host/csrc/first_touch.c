/* SPDX-License-Identifier: MIT
 *
 * first_touch.c -- what the kernel takes to give a page to the first write to it.
 *
 *     first_touch PAGES      prints: nanoseconds, minor faults
 *
 * Workload: one private anonymous mapping, one byte written in each page, lowest first, huge pages
 * declined.  The loop itself costs about a nanosecond a page.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
    struct rusage before, after;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t count = argc == 2 ? (size_t)strtoul(argv[1], NULL, 10) : 0;
    if (!count)
        return 2;
    char *p = mmap(NULL, count * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 3;
    madvise(p, count * page, MADV_NOHUGEPAGE);
    (void)now();
    getrusage(RUSAGE_SELF, &before);
    uint64_t begin = now();
    for (size_t i = 0; i < count; i++)
        ((volatile char *)p)[i * page] = 1;
    uint64_t end = now();
    getrusage(RUSAGE_SELF, &after);
    printf("%llu %ld\n", (unsigned long long)(end - begin), after.ru_minflt - before.ru_minflt);
    return 0;
}
