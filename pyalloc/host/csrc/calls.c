/* SPDX-License-Identifier: MIT
 *
 * calls.c -- make the calls of a trace on this machine's own C library, and watch.
 *
 *     calls IN OUT       two open file descriptors, both read and written by pyalloc.host.glibc
 *
 * The library must not notice: all memory of this program comes from mmap and is faulted in before
 * call 0, nothing here uses stdio before the last call, and the address space is not randomised.  What is measured
 * between call 0 and the last is therefore the library's doing, to the page.
 *
 * Calls of several threads are made in the order of the rows: a thread makes its rows up to the next
 * of another, then hands the turn over; see turns.h.
 *
 *     entry of the block table:  address of the block, bit 0 set once it is not allocated any more
 */
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

enum { MAGIC = 0x70610001, PAGE = 4096, AHEAD = 16, TEXT_CHUNK = 1 << 14, MAPS_ROOM = 1 << 16 };

static const uint32_t NO_BLOCK = UINT32_MAX;
static const uintptr_t DEAD = 1;

/* Numbered as pyalloc.Op. */
enum {
    MALLOC,
    CALLOC,
    REALLOC,
    FREE,
    MEMALIGN,
    POSIX_MEMALIGN,
    ALIGNED_ALLOC,
    VALLOC,
    PVALLOC,
    MALLOC_TRIM,
    MALLOPT,
    SBRK,
    MMAP,
    MUNMAP,
    TOUCH,
    THREAD_EXIT
};

enum touch { TOUCH_NONE, TOUCH_WRITE, TOUCH_RECORDED };

/* Offsets are bytes from the start of a file; 0: not there. */
struct in_header {
    uint64_t magic, count, count_blocks, touch;
    uint64_t op, block, size, arg;
    uint64_t statistics; /* 1: say at the end what the library says of itself */
    uint64_t thread, count_threads, bytes;
};

struct out_header {
    /* written by pyalloc */
    uint64_t columns, columns_bytes, address, brk, usable;
    uint64_t maps_before, maps_after, status_before, status_after, text_room;
    /* written here */
    uint64_t magic, failed_at, error; /* failed_at: a line of this file */
    uint64_t row, randomized, brk_start;
    uint64_t nanoseconds, minor_faults, major_faults;
    char glibc[16];
    int64_t mallinfo[10];
    uint64_t mallinfo2[10]; /* zeros where there is none */
};

struct run {
    size_t count, count_blocks;
    const uint8_t *op;
    const uint32_t *block;
    const uint64_t *size, *arg;
    const uint32_t *thread; /* NULL: one thread makes all calls */
    uint64_t *address, *brk, *usable;
    uintptr_t *table;
    uint64_t *sizes; /* of each block, for TOUCH rows only */
    struct out_header *out;
};

void *__libc_calloc(size_t count, size_t size);
void __libc_free(void *p);

/* ---- the calls -------------------------------------------------------------------------------- */

static void *aligned(int op, size_t alignment, size_t size)
{
    void *p = NULL;
    if (op == MEMALIGN)
        return memalign(alignment, size);
    if (op == ALIGNED_ALLOC)
        return aligned_alloc(alignment, size);
    return posix_memalign(&p, alignment, size) == 0 ? p : NULL;
}

static void *allocate(int op, size_t size, size_t arg)
{
    switch (op) {
    case MALLOC:
        return malloc(size);
    case CALLOC:
        return __libc_calloc(1, size);
    case VALLOC:
        return valloc(size);
    case PVALLOC:
        return pvalloc(size);
    default:
        return aligned(op, arg, size);
    }
}

static void *reallocate(uintptr_t *entry, size_t size)
{
    bool live = *entry && !(*entry & DEAD);
    void *p = realloc(live ? (void *)*entry : NULL, size);
    if (p)
        *entry = (uintptr_t)p;
    else if (live && !size)
        *entry |= DEAD;
    return p;
}

/* Rows that are about no block of the heap. */
static void other(const struct run *r, size_t row, uintptr_t *entry)
{
    size_t size = (size_t)r->size[row];
    if (r->op[row] == MALLOC_TRIM)
        malloc_trim(size);
    else if (r->op[row] == MALLOPT)
        mallopt((int)(r->arg ? r->arg[row] : 0), (int)size);
    else if (r->op[row] == SBRK)
        sbrk((intptr_t)size);
    else if (r->op[row] == MUNMAP)
        munmap((void *)(*entry & ~DEAD), size);
    else if (r->op[row] == MMAP) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *entry = (p == MAP_FAILED ? 0 : (uintptr_t)p) | DEAD;
    }
}

/* A TOUCH row: arg bytes into its block, size bytes long. */
static void touch_inside(const struct run *r, size_t row, uintptr_t entry)
{
    uint32_t block = r->block[row];
    uint64_t at = r->arg ? r->arg[row] : 0, size = r->size[row];
    if (block == NO_BLOCK || !entry || (entry & DEAD) || at >= r->sizes[block])
        return;
    uint64_t left = r->sizes[block] - at;
    memset((char *)entry + at, 0xa5, (size_t)(size < left ? size : left));
}

/* Everything but malloc and free. */
static __attribute__((noinline)) void *rare(const struct run *r, size_t row, uintptr_t *entry)
{
    int op = r->op[row];
    if (op == REALLOC)
        return reallocate(entry, (size_t)r->size[row]);
    if (op > PVALLOC) {
        if (op == TOUCH && r->sizes)
            touch_inside(r, row, *entry);
        else
            other(r, row, entry);
        return NULL;
    }
    void *p = allocate(op, (size_t)r->size[row], (size_t)(r->arg ? r->arg[row] : 0));
    *entry = p ? (uintptr_t)p : DEAD;
    return p;
}

static void write_down(const struct run *r, size_t row, void *p)
{
    if (r->address)
        r->address[row] = (uintptr_t)p;
    if (r->usable)
        r->usable[row] = p ? malloc_usable_size(p) : 0;
    if (r->brk)
        r->brk[row] = (uintptr_t)sbrk(0);
}

static inline __attribute__((always_inline)) void loop(const struct run *r, bool record,
                                                       enum touch touch, size_t row, size_t end)
{
    uintptr_t nobody = 0;
    for (; row < end; row++) {
        uint32_t block = r->block[row];
        /* so that the wait for this table is not charged to the library */
        if (row + AHEAD < r->count && r->block[row + AHEAD] != NO_BLOCK)
            __builtin_prefetch(&r->table[r->block[row + AHEAD]], 1);
        uintptr_t *entry = block == NO_BLOCK ? &nobody : &r->table[block];
        void *p = NULL;
        *(volatile uint64_t *)&r->out->row = row;
        if (r->op[row] == FREE) {
            __libc_free((void *)(*entry & ~DEAD));
            *entry |= DEAD;
        } else if (r->op[row] == MALLOC) {
            p = malloc((size_t)r->size[row]);
            *entry = p ? (uintptr_t)p : DEAD;
        } else {
            p = rare(r, row, entry);
        }
        if (touch == TOUCH_WRITE && p)
            memset(p, 0xa5, (size_t)r->size[row]);
        if (touch == TOUCH_RECORDED && p && block != NO_BLOCK)
            r->sizes[block] = r->size[row];
        if (record)
            write_down(r, row, p);
        nobody = 0;
    }
    *(volatile uint64_t *)&r->out->row = end;
}

/* Make the rows from the first to before the end. */
static __attribute__((noinline)) void run_calls(const struct run *r, enum touch touch, size_t first,
                                                size_t end)
{
    bool record = r->address || r->brk || r->usable;
    if (touch == TOUCH_RECORDED)
        loop(r, record, TOUCH_RECORDED, first, end);
    else if (touch == TOUCH_WRITE && record)
        loop(r, true, TOUCH_WRITE, first, end);
    else if (touch == TOUCH_WRITE)
        loop(r, false, TOUCH_WRITE, first, end);
    else if (record)
        loop(r, true, TOUCH_NONE, first, end);
    else
        loop(r, false, TOUCH_NONE, first, end);
}

/* ---- before and after ------------------------------------------------------------------------- */

static void fail(struct out_header *out, int line)
{
    out->failed_at = (uint64_t)line;
    out->error = (uint64_t)errno;
    _exit(3);
}

/* Copy a text of /proc to `offset` of the file `to`. */
static void keep_text(int to, const char *path, uint64_t offset, uint64_t room)
{
    char buffer[TEXT_CHUNK];
    ssize_t got;
    int from = open(path, O_RDONLY | O_CLOEXEC);
    while (from >= 0 && (got = read(from, buffer, sizeof buffer)) > 0 && (uint64_t)got <= room) {
        if (pwrite(to, buffer, (size_t)got, (off_t)offset) != got)
            break;
        offset += (uint64_t)got;
        room -= (uint64_t)got;
    }
    if (from >= 0)
        close(from);
}

/* Fault in [start, end); before Linux 5.14 by hand.  A store of what is there breaks a
 * copy-on-write and changes nothing. */
static void fault_in(char *start, char *end, bool writable)
{
    int advice = writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    if (madvise(start, (size_t)(end - start), advice) == 0 || errno != EINVAL)
        return;
    for (volatile char *p = start; p < end; p += PAGE) {
        char there = *p;
        if (writable)
            *p = there;
    }
}

static const char *read_hex(const char *s, uintptr_t *value)
{
    for (*value = 0;; s++) {
        unsigned digit = (unsigned)(*s - '0');
        if (digit > 9 && (digit = (unsigned)(*s - 'a') + 10) > 15)
            return s;
        *value = *value << 4 | digit;
    }
}

/* Fault in every mapping there is: code, data, stack, and the files of this program. */
static void fault_in_all(void)
{
    char text[MAPS_ROOM];
    size_t length = 0;
    ssize_t got;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while ((got = read(fd, text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)got;
    close(fd);
    text[length] = 0;
    for (const char *s = text; *s;) {
        uintptr_t start, end;
        s = read_hex(read_hex(s, &start) + 1, &end) + 1;
        const char *line = strchr(s, '\n');
        bool special = memmem(s, (size_t)(line - s), "[v", 2) != NULL;
        if (s[0] == 'r' && !special)
            fault_in((char *)start, (char *)end, s[1] == 'w');
        s = line + 1;
    }
}

static void *map(struct out_header *out, int fd, uint64_t at, uint64_t bytes, int protection)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    size_t length = bytes > SIZE_MAX / 2 ? SIZE_MAX - PAGE : (size_t)bytes; /* fails, as it must */
    void *p = mmap(NULL, length ? length : 1, protection, flags, fd, (off_t)at);
    if (p == MAP_FAILED)
        fail(out, __LINE__);
    return p;
}

#include "turns.h"

/* Private memory first: the files then lie between it and what the library maps. */
static void set_up(struct run *r, const struct in_header *in, int in_fd, int out_fd)
{
    struct out_header *out = r->out;
    r->count = (size_t)in->count;
    r->count_blocks = (size_t)in->count_blocks;
    r->table = map(out, -1, 0, in->count_blocks * sizeof *r->table, PROT_READ | PROT_WRITE);
    if (in->touch == TOUCH_RECORDED)
        r->sizes = map(out, -1, 0, in->count_blocks * sizeof *r->sizes, PROT_READ | PROT_WRITE);
    uint64_t in_bytes = in->bytes;
    if (in->thread)
        set_up_turns(out, in->count_threads);
    const char *columns = map(out, in_fd, 0, in_bytes, PROT_READ);
    r->op = (const uint8_t *)(columns + in->op);
    r->block = (const uint32_t *)(const void *)(columns + in->block);
    r->size = (const uint64_t *)(const void *)(columns + in->size);
    r->arg = in->arg ? (const uint64_t *)(const void *)(columns + in->arg) : NULL;
    r->thread = in->thread ? (const uint32_t *)(const void *)(columns + in->thread) : NULL;
    if (!out->columns_bytes)
        return;
    char *results = map(out, out_fd, out->columns, out->columns_bytes, PROT_READ | PROT_WRITE);
    uint64_t **wanted[] = {&r->address, &r->brk, &r->usable};
    const uint64_t offset[] = {out->address, out->brk, out->usable};
    for (size_t i = 0; i < 3; i++)
        *wanted[i] = offset[i] ? (uint64_t *)(void *)(results + (offset[i] - out->columns)) : NULL;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void measure(const struct run *r, enum touch touch)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    uint64_t begin = now();
    if (r->thread)
        take_turns(r, touch);
    else
        run_calls(r, touch, 0, r->count);
    uint64_t end = now();
    getrusage(RUSAGE_SELF, &after);
    r->out->nanoseconds = end - begin;
    r->out->minor_faults = (uint64_t)(after.ru_minflt - before.ru_minflt);
    r->out->major_faults = (uint64_t)(after.ru_majflt - before.ru_majflt);
}

/* malloc_stats and malloc_info on stderr, which has no buffer that would have to be allocated; a form
 * feed stands before each. */
static void tell_statistics(struct out_header *out)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* its narrow fields are the point */
    const struct mallinfo m = mallinfo();
#pragma GCC diagnostic pop
    const int fields[] = {m.arena,   m.ordblks, m.smblks,   m.hblks,    m.hblkhd,
                          m.usmblks, m.fsmblks, m.uordblks, m.fordblks, m.keepcost};
    for (size_t i = 0; i < 10; i++)
        out->mallinfo[i] = fields[i];
#if __GLIBC_PREREQ(2, 33)
    const struct mallinfo2 n = mallinfo2();
    const size_t wide[] = {n.arena,   n.ordblks, n.smblks,   n.hblks,    n.hblkhd,
                           n.usmblks, n.fsmblks, n.uordblks, n.fordblks, n.keepcost};
    for (size_t i = 0; i < 10; i++)
        out->mallinfo2[i] = wide[i];
#endif
    if (write(STDERR_FILENO, "\f", 1) == 1)
        malloc_stats();
    if (write(STDERR_FILENO, "\f", 1) == 1)
        malloc_info(0, stderr);
}

static bool fix_addresses(char **argv)
{
    int now_is = personality(0xffffffff);
    if (now_is & ADDR_NO_RANDOMIZE)
        return true;
    if (now_is >= 0 && personality((unsigned long)now_is | ADDR_NO_RANDOMIZE) >= 0)
        execv("/proc/self/exe", argv);
    return false; /* not allowed here: addresses differ from run to run, nothing else does */
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    bool fixed = fix_addresses(argv);
    int in_fd = atoi(argv[1]), out_fd = atoi(argv[2]);
    struct in_header *in = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, in_fd, 0);
    struct out_header *out = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, out_fd, 0);
    if (in == MAP_FAILED || out == MAP_FAILED || in->magic != MAGIC)
        return 2;
    struct run r = {.out = out};
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    set_up(&r, in, in_fd, out_fd);
    out->randomized = !fixed;
    strncpy(out->glibc, gnu_get_libc_version(), sizeof out->glibc - 1);
    fault_in_all();
    out->brk_start = (uintptr_t)sbrk(0); /* it writes where the library keeps the break */
    (void)now(); /* the clock's own page */
    keep_text(out_fd, "/proc/self/smaps_rollup", out->status_before, out->text_room);
    keep_text(out_fd, "/proc/self/maps", out->maps_before, out->text_room);
    out->magic = MAGIC;
    measure(&r, (enum touch)in->touch);
    keep_text(out_fd, "/proc/self/smaps_rollup", out->status_after, out->text_room);
    keep_text(out_fd, "/proc/self/maps", out->maps_after, out->text_room);
    if (in->statistics)
        tell_statistics(out);
    _exit(0);
}
