/* SPDX-License-Identifier: MIT
 *
 * article.c -- the programs of "When Linux Runs Out of Memory" (M. Santosa, 2006), for real.
 *
 *     article WHAT STOP PROCS GIB
 *
 * WHAT is a (malloc a megabyte at a time until NULL), b (the same, filled), c (calloc) or s (single
 * calls).  Before the first block, after STOP blocks (0: never) and at the end it shows
 * /proc/self/status and maps.  PROCS is the cgroup.procs file of the cgroup to join, or "-".
 *
 * The process has GIB, 3 or 4, GB of address space, addresses that are not randomised, a stack of
 * 8 MB and no other limit.  Exit codes: 0 done, 3 the cgroup cannot be joined, 4 the personality is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MEGABYTE = 1024 * 1024, CANNOT_JOIN = 3, CANNOT_CHANGE = 4 };

#define DECIDED (ADDR_NO_RANDOMIZE | ADDR_LIMIT_3GB)

static void put(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t done = write(STDOUT_FILENO, text, length);
        if (done <= 0)
            _exit(1);
        text += done;
        length -= (size_t)done;
    }
}

/* A file of /proc between two lines, without a malloc on the way. */
static void show(const char *name)
{
    static char buffer[65536];
    int fd = open(name, O_RDONLY);
    ssize_t length;
    fflush(stdout);
    put("<", 1);
    put(name, strlen(name));
    put("\n", 1);
    while ((length = read(fd, buffer, sizeof buffer)) > 0)
        put(buffer, (size_t)length);
    close(fd);
    put(">\n", 2);
}

static void show_all(void)
{
    show("/proc/self/status");
    show("/proc/self/maps");
}

static void *one(char what)
{
    void *block = what == 'c' ? calloc(1, MEGABYTE) : malloc(MEGABYTE);
    if (block && what == 'b')
        memset(block, 1, MEGABYTE);
    return block;
}

static void loop(char what, int stop)
{
    int count = 0;
    show_all();
    while (one(what)) {
        printf("%d\n", ++count);
        fflush(stdout);
        if (count == stop)
            show_all();
    }
    int error = errno;
    printf("null %d\n", error);
    show_all();
}

static long maps_in_use(void)
{
    return (long)mallinfo2().hblks;
}

static void single_calls(void)
{
    void *block = malloc(4097);
    printf("usable %zu\n", malloc_usable_size(block));
    void *filler = malloc(64 * 1024); /* now the top is too small for what follows */
    long before = maps_in_use();
    void *above = malloc(128 * 1024);
    long between = maps_in_use();
    void *below = malloc(128 * 1024 - 32);
    printf("mapped %ld %ld\n", between - before, maps_in_use() - between);
    free(above);
    free(below);
    free(filler);
    free(block);
}

static void join(const char *procs)
{
    if (strcmp(procs, "-") == 0)
        return;
    int fd = open(procs, O_WRONLY);
    if (fd < 0 || write(fd, "0", 1) != 1)
        _exit(CANNOT_JOIN);
    close(fd);
}

/* Start again with the personality, which exec puts into effect. */
static void become(char **argv)
{
    int now = personality(0xffffffff);
    int wanted = ADDR_NO_RANDOMIZE | (argv[4][0] == '3' ? ADDR_LIMIT_3GB : 0);
    if ((now & DECIDED) == wanted)
        return;
    struct rlimit stack = {8 << 20, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    join(argv[3]);
    setrlimit(RLIMIT_STACK, &stack);
    setrlimit(RLIMIT_AS, &none);
    if (personality((unsigned long)((now & ~DECIDED) | wanted)) < 0)
        _exit(CANNOT_CHANGE);
    execv("/proc/self/exe", argv);
    _exit(CANNOT_CHANGE);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    become(argv);
    if (argv[1][0] == 's')
        single_calls();
    else
        loop(argv[1][0], atoi(argv[2]));
    return 0;
}
