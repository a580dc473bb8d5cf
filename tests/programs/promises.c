/* SPDX-License-Identifier: MIT
 *
 * promises.c -- random calls that want memory promised, and what the kernel says to each.
 *
 *     promises SEED COUNT      as root, and where nothing else runs: it sets vm.overcommit_memory
 *
 * Each sequence is a process of its own, so that its map begins anew.  It prints its settings, its
 * map, its break and Committed_AS; then a line for each call: name, arguments, errno, Committed_AS
 * after it; and under which number the program keeps what it was given.  Nothing is touched but by
 * read(2) into it, which answers EFAULT where a write would be a signal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, STEPS = 30, SLOTS = 12, CHILDREN = 6 };

static struct {
    char *at;
    long pages;
} kept[SLOTS];
static pid_t child[CHILDREN];
static int children, file;
static long limit; /* CommitLimit in pages */
static unsigned long long state;

static unsigned chance(unsigned n)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(state >> 33) % n;
}

/* stdio would move the break */
#define SAY(...)                                                                                   \
    do {                                                                                           \
        char line[512];                                                                            \
        if (write(1, line, (size_t)snprintf(line, sizeof line, __VA_ARGS__)) < 0)                  \
            _exit(1);                                                                              \
    } while (0)

static long meminfo(const char *name)
{
    static char text[4096];
    int fd = open("/proc/meminfo", O_RDONLY);
    long n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *at = strstr(text, name);
    return at ? atol(at + strlen(name) + 1) : -1;
}

static void set(const char *name, long value)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/sys/vm/%s", name);
    int fd = open(path, O_WRONLY);
    dprintf(fd, "%ld", value);
    close(fd);
}

static long get(const char *name)
{
    char path[64], text[32] = "";
    snprintf(path, sizeof path, "/proc/sys/vm/%s", name);
    int fd = open(path, O_RDONLY);
    if (read(fd, text, sizeof text - 1) < 0)
        _exit(1);
    close(fd);
    return atol(text);
}

static void note(const char *name, long a, long b, long c, long result)
{
    int error = result == -1 ? errno : 0;
    SAY("op %s %ld %ld %ld = %d %ld\n", name, a, b, c, error, meminfo("Committed_AS:"));
}

static int find(int used)
{
    int k = used ? (int)chance(SLOTS) : 0;
    for (int i = 0; i < SLOTS; i++, k = (k + 1) % SLOTS) {
        if (!kept[k].at == !used)
            return k;
    }
    return -1;
}

static void keep(int k, char *at, long pages)
{
    if (at == MAP_FAILED)
        return;
    kept[k].at = at;
    kept[k].pages = pages;
    SAY("slot %d\n", k);
}

static void map(unsigned kind, long pages)
{
    static const int prot[] = {3, 1, 3, 3, 0}, flags[] = {0x22, 0x22, 0x4022, 0x21, 0x22};
    int k = find(0);
    if (k < 0)
        return;
    char *at = mmap(0, (size_t)pages * PAGE, prot[kind], flags[kind], -1, 0);
    note("mmap", prot[kind], flags[kind], pages, (long)at);
    keep(k, at, pages);
}

static void map_file(void)
{
    int k = find(0);
    if (k < 0)
        return;
    int shared = chance(3) == 0;
    long pages = 1 + chance((unsigned)limit / 4);
    char *at = mmap(0, (size_t)pages * PAGE, shared ? 1 : 3, shared ? 1 : 2, file, 0);
    note("file", shared, pages, 0, (long)at);
    keep(k, at, pages);
}

static void protect(int k)
{
    int half = (int)chance(2), prot = chance(3) ? 3 : 1;
    long pages = half && kept[k].pages > 1 ? kept[k].pages / 2 : kept[k].pages;
    long result = mprotect(kept[k].at, (size_t)pages * PAGE, prot);
    note(prot == 3 ? "prot3" : "prot1", k, pages, 0, result);
}

static void unmap(int k)
{
    long pages = chance(2) && kept[k].pages > 1 ? kept[k].pages / 2 : kept[k].pages;
    note("unmap", k, pages, 0, munmap(kept[k].at, (size_t)pages * PAGE));
    kept[k].at += pages * PAGE;
    kept[k].pages -= pages;
    if (!kept[k].pages)
        kept[k].at = NULL;
}

static void resize(int k, long pages)
{
    char *at = mremap(kept[k].at, (size_t)kept[k].pages * PAGE, (size_t)pages * PAGE, 1);
    note("remap", k, pages, 0, (long)at);
    if (at == MAP_FAILED)
        return;
    kept[k].at = at;
    kept[k].pages = pages;
}

static void touch(int k)
{
    int zero = open("/dev/zero", O_RDONLY);
    long at = chance(kept[k].pages < 50 ? (unsigned)kept[k].pages : 50);
    long got = read(zero, kept[k].at + at * PAGE, 1);
    close(zero);
    note("touch", k, at, 0, got == 1 ? 0 : -1);
}

static void move_break(long pages)
{
    long now = syscall(SYS_brk, 0), wanted = now + (chance(3) ? pages : -(long)chance(20)) * PAGE;
    if (wanted < now && chance(2))
        wanted = now;
    long got = syscall(SYS_brk, wanted);
    errno = ENOMEM;
    note("brk", wanted - now, 0, 0, got == wanted ? 0 : -1);
}

static void multiply(void)
{
    if (children == CHILDREN)
        return;
    pid_t pid = fork();
    while (!pid)
        pause();
    note("fork", 0, 0, 0, pid);
    if (pid > 0)
        child[children++] = pid;
}

static void reap(void)
{
    kill(child[--children], SIGKILL);
    waitpid(child[children], NULL, 0);
}

static void step(void)
{
    unsigned kind = chance(14);
    int used = find(1);
    long pages = 1 + (chance(4) ? chance((unsigned)limit / 4) : chance((unsigned)limit));
    if (get("overcommit_memory") == 0 && !chance(3))
        pages = 1 + chance(60000);
    if (kind <= 4)
        map(kind, pages);
    else if (kind == 8)
        move_break(pages);
    else if (kind == 10)
        multiply();
    else if (kind == 11 && children) {
        reap();
        note("reap", 0, 0, 0, 0);
    } else if (kind == 12)
        map_file();
    else if (used < 0)
        return;
    else if (kind == 5 || kind == 13)
        protect(used);
    else if (kind == 6)
        unmap(used);
    else if (kind == 7)
        resize(used, pages);
    else if (kind == 9)
        touch(used);
}

static void show_start(void)
{
    static char text[8192];
    int fd = open("/proc/self/maps", O_RDONLY);
    long n, size = 0;
    while ((n = read(fd, text + size, sizeof text - (size_t)size)) > 0)
        size += n;
    close(fd);
    SAY("<maps\n");
    if (write(1, text, (size_t)size) < 0)
        _exit(1);
    SAY(">\nbrk %ld base %ld\n", syscall(SYS_brk, 0), meminfo("Committed_AS:"));
}

static int run(const char *seed)
{
    state = strtoull(seed, NULL, 10) * 7919 + 13;
    for (int i = 0; i < 5; i++)
        chance(2);
    unsigned mode = chance(4);
    set("admin_reserve_kbytes", chance(3) ? 3000 : 8192);
    set("user_reserve_kbytes", chance(3) ? 2000 : 131072);
    if (chance(2))
        set("overcommit_ratio", 20 + chance(200));
    else
        set("overcommit_kbytes", 40000 + chance(200000));
    set("overcommit_memory", mode == 3 ? 2 : mode);
    unsigned uid = chance(2) ? 1000 : 0;
    file = open("/bin/hog", O_RDONLY); /* any file */
    SAY("seq %s mode %ld ratio %ld kbytes %ld admin %ld user %ld uid %u total %ld swap %ld limit "
        "%ld\n",
        seed, get("overcommit_memory"), get("overcommit_ratio"), get("overcommit_kbytes"),
        get("admin_reserve_kbytes"), get("user_reserve_kbytes"), uid, meminfo("MemTotal:"),
        meminfo("SwapTotal:"), meminfo("CommitLimit:"));
    limit = meminfo("CommitLimit:") / 4;
    if (setuid(uid))
        return 1;
    show_start();
    for (int i = 0; i < STEPS; i++)
        step();
    while (children)
        reap();
    return 0;
}

int main(int count, char **args)
{
    if (count == 2)
        return run(args[1]);
    if (count != 3)
        return 2;
    for (long i = 0, first = atol(args[1]); i < atol(args[2]); i++) {
        char seed[32];
        int status;
        snprintf(seed, sizeof seed, "%ld", first + i);
        pid_t pid = fork();
        if (!pid)
            execl("/proc/self/exe", args[0], seed, (char *)NULL);
        waitpid(pid, &status, 0);
        SAY("end %d\n", status);
    }
    set("overcommit_memory", 0);
    return 0;
}
