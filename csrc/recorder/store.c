/* SPDX-License-Identifier: MIT
 *
 * store.c -- the recorder's files and its own memory.
 *
 * Everything sits at one place, far below the area in which the kernel puts mappings and far above
 * heaps (of 32 bits: below the lowest program), so that no mapping of the program moves:
 *
 *     BASE             control page, private, emptied by fork (see recorder.h)
 *     BASE + RING_AT   NAME.ring: header and records, shared with the file
 *
 * Files are opened by name, used and closed at once: the program never sees a number taken.  Room
 * for the ring is reserved before it is mapped, so a full disk is an error here, not a SIGBUS.
 * Nothing in this file uses stdio or the heap.
 */
#include <errno.h>
#include <gnu/libc-version.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "recorder.h"
#include "sys.h"
#include "text.h"

#if UINTPTR_MAX == UINT32_MAX
#define BASE ((char *)0x2000000)
#else
#define BASE ((char *)0x3f0000000000)
#endif
#define RING_AT 0x10000 /* a multiple of every page size */
#define RING_SIZE (PA_RING_HEADER + PA_RING_RECORDS * sizeof(pa_record))
#define SPACE (RING_AT + RING_SIZE)
#define PATH_SIZE 4096
#define NAME_SIZE 64
#define MAX_IMAGES 100000 /* programs one process may turn into */

static struct {
    char directory[PATH_SIZE];
    char library[PATH_SIZE];
    char name[NAME_SIZE];
    char *base;
    uint32_t serial;
    bool children;
} store;

pa_raw_header *store_header;

/* The first and last byte of this library in memory, from the linker. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));

const char *store_name(void)
{
    return store.name;
}

const char *store_library(void)
{
    return store.library;
}

const char *store_directory(void)
{
    return store.directory;
}

bool store_follows_children(void)
{
    return store.children;
}

bool store_is_own_code(const void *function)
{
    uintptr_t at = (uintptr_t)function;
    return at >= (uintptr_t)__ehdr_start && at < (uintptr_t)_end;
}

bool store_is_there(void)
{
    int saved = errno;
    bool there = syscall(SYS_faccessat, AT_FDCWD, store.directory, F_OK) == 0;
    errno = saved;
    return there;
}

/* --- settings */

/* A name that does not fit is none. */
static void copy_text(char *to, size_t room, const char *from, size_t size)
{
    if (size < room) {
        text_cut(to, room, from, size);
    }
}

bool store_settings(char **environment)
{
    for (char **entry = environment; *entry != NULL; entry++) {
        const char *value;
        if ((value = text_value(*entry, "PYALLOC_SPOOL")) != NULL) {
            store.children = *value == '+';
            copy_text(store.directory, PATH_SIZE, value + 1, text_length(value + 1));
        } else if ((value = text_value(*entry, "LD_PRELOAD")) != NULL) {
            copy_text(store.library, PATH_SIZE, value, text_first_of_list(value));
        }
    }
    return store.directory[0] != '\0' && store.library[0] != '\0';
}

/* --- names */

static char *put_number(char *to, uint64_t n)
{
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + n % 10);
    } while ((n /= 10) != 0);
    while (count > 0) {
        *to++ = digits[--count];
    }
    return to;
}

static void name_image(uint64_t image)
{
    char *end = put_number(store.name, (uint64_t)getpid());
    *end++ = '.';
    *put_number(end, image) = '\0';
}

static int open_part(const char *suffix, int flags)
{
    static char path[PATH_SIZE + NAME_SIZE + 8]; /* not on a stack, which is the program's */
    char *end = text_copy(text_copy(path, store.directory), "/");
    (void)text_copy(text_copy(end, store.name), suffix);
    int file = sys_open(path, flags);
    if (file >= 0 && (flags & O_CREAT) != 0) {
        (void)syscall(SYS_fchmod, file, 0666); /* whatever user this process becomes */
    }
    return file;
}

static int create(void)
{
    int file = -1;
    errno = EEXIST;
    for (uint64_t image = 0; file < 0 && errno == EEXIST && image < MAX_IMAGES; image++) {
        name_image(image);
        file = open_part(".ring", O_RDWR | O_CREAT | O_EXCL);
    }
    return file;
}

/* --- memory */

static void stop(int why)
{
    store_header->flags |= PA_RAW_TRUNCATED;
    store_header->error = (uint32_t)why;
}

/* Growing a file beyond its limit would kill the program with SIGXFSZ. */
static bool may_grow_to(uint64_t size)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) != 0 || size <= limit.rlim_cur;
}

static bool reserve(int file, uint64_t size)
{
    static const char zeros[STORE_TEXT];
    if (!may_grow_to(size)) {
        return false;
    }
    if (sys_fallocate(file, 0, size) == 0) {
        return true;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) {
        return false;
    }
    for (uint64_t done = 0; done < size; done += sizeof zeros) {
        if (sys_pwrite(file, zeros, sizeof zeros, done) != sizeof zeros) {
            return false;
        }
    }
    return true;
}

pa_record *store_ring(void)
{
    return (pa_record *)(void *)(store.base + RING_AT + PA_RING_HEADER);
}

bool store_flush(const pa_record *ring, uint64_t first, uint64_t next)
{
    uint64_t at = first * sizeof *ring, end = next * sizeof *ring;
    const char *from = (const char *)ring;
    int file = open_part(".raw", O_WRONLY | O_CREAT);
    int why = file < 0 ? errno : may_grow_to(end) ? 0 : EFBIG;
    while (why == 0 && at < end) {
        ssize_t n = sys_pwrite(file, from, (size_t)(end - at), at);
        why = n > 0 ? 0 : errno;
        from += why == 0 ? n : 0;
        at += why == 0 ? (uint64_t)n : 0;
    }
    store_header->flushed = at / sizeof *ring;
    if (file >= 0) {
        sys_close(file);
    }
    if (why != 0) {
        stop(why);
    }
    return why == 0;
}

/* Reserve addresses once; children inherit them. */
static bool take_place(void)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *got = mmap(BASE, SPACE, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED) {
        got = mmap(NULL, SPACE, PROT_NONE, flags, -1, 0);
    }
    if (got == MAP_FAILED) {
        return false;
    }
    store.base = got;
    if (mprotect(got, (size_t)getpagesize(), PROT_READ | PROT_WRITE) != 0 ||
        madvise(got, (size_t)getpagesize(), MADV_WIPEONFORK) != 0) {
        return false;
    }
    rec_control = (pa_control *)(void *)got;
    return true;
}

static void fill_header(pa_raw_header *h, const char *parent)
{
    h->version = PA_RAW_VERSION;
    h->record_size = sizeof(pa_record);
    h->pid = (uint32_t)getpid();
    h->parent_pid = (uint32_t)getppid();
    h->flags = store.base == BASE ? 0 : PA_RAW_DISTURBED;
    h->cpus = sys_processors();
    h->page_size = (uint32_t)getpagesize();
    h->word = sizeof(void *);
    h->start_ns = store_clock();
    h->brk_start = (uintptr_t)syscall(SYS_brk, 0);
    text_cut(h->glibc, sizeof h->glibc, gnu_get_libc_version(), SIZE_MAX);
    if (parent[0] != '\0') {
        h->flags |= PA_RAW_FORKED;
        text_cut(h->parent, sizeof h->parent, parent, SIZE_MAX);
    }
    text_bytes(h->magic, PA_RAW_MAGIC, sizeof h->magic); /* last: the header is whole now */
}

bool store_open(void)
{
    char parent[NAME_SIZE];
    (void)text_copy(parent, store.name);
    if (store.base == NULL && !take_place()) {
        return false;
    }
    int file = create();
    if (file < 0) {
        return false;
    }
    store_header = NULL;
    void *ring = MAP_FAILED;
    if (reserve(file, RING_SIZE)) {
        ring = mmap(store.base + RING_AT, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                    file, 0);
    }
    sys_close(file);
    if (ring == MAP_FAILED) {
        return false;
    }
    store_header = ring;
    store.serial = 0;
    fill_header(store_header, parent);
    return true;
}

/* --- texts */

static void write_all(int file, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size > 0) {
        ssize_t n = sys_write(file, at, size);
        if (n <= 0) {
            return; /* the reader sees a short piece and takes what is there */
        }
        at += n;
        size -= (size_t)n;
    }
}

static void write_piece(int file, const char *tag, const void *bytes, size_t size)
{
    pa_blob blob = {.serial = store.serial, .row = rec_count(), .size = size};
    text_bytes(blob.tag, tag, sizeof blob.tag);
    write_all(file, &blob, sizeof blob);
    write_all(file, bytes, size);
}

static int open_aux(void)
{
    store.serial++;
    return open_part(".aux", O_WRONLY | O_CREAT | O_APPEND);
}

void store_bytes(const char *tag, const void *bytes, size_t size)
{
    int out = open_aux();
    if (out >= 0) {
        write_piece(out, tag, bytes, size);
        sys_close(out);
    }
}

void store_text(const char *tag, const char *path, store_reader also)
{
    static char piece[STORE_TEXT]; /* under the lock, or with one thread */
    int in = sys_open(path, O_RDONLY);
    int out = open_aux();
    ssize_t n;
    while (in >= 0 && (n = sys_read(in, piece, sizeof piece)) > 0) {
        if (also != NULL) {
            also(piece, (size_t)n);
        }
        if (out >= 0) {
            write_piece(out, tag, piece, (size_t)n);
        }
    }
    if (in >= 0) {
        sys_close(in);
    }
    if (out >= 0) {
        sys_close(out);
    }
}

void store_tunables(char **environment)
{
    for (char **entry = environment; *entry != NULL; entry++) {
        if (text_value(*entry, "GLIBC_TUNABLES") || text_begins(*entry, "MALLOC_")) {
            store_bytes("TUNE", *entry, text_length(*entry));
        }
    }
}

/* --- figures */

static const char *read_number(const char *text, uint64_t *value)
{
    for (*value = 0; *text >= '0' && *text <= '9'; text++) {
        *value = *value * 10 + (uint64_t)(*text - '0');
    }
    return *text == ' ' ? text + 1 : text;
}

void store_sample(pa_record *record)
{
    char text[128] = "";
    struct rusage usage;
    int file = sys_open("/proc/self/statm", O_RDONLY);
    if (file >= 0) {
        (void)!sys_read(file, text, sizeof text - 1);
        sys_close(file);
    }
    (void)read_number(read_number(text, &record->site), &record->ret);
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        record->size = (uint64_t)usage.ru_minflt;
        record->arg = (uint64_t)usage.ru_majflt;
    }
}

/* Count the present pages of a range, and those of them that are of no file (bit 61). */
static void count_present(int pagemap, const char *from, const char *to, pa_raw_header *header)
{
    const uint64_t page = (uint64_t)getpagesize();
    uint64_t first = (uint64_t)(uintptr_t)from / page, entry;
    for (uint64_t p = first; p * page < (uint64_t)(uintptr_t)to; p++) {
        if (sys_pread(pagemap, &entry, sizeof entry, p * sizeof entry) != sizeof entry) {
            break;
        }
        header->own_pages += entry >> 63;
        header->own_anon += (entry >> 63) & ~(entry >> 61) & 1;
    }
}

void store_own_pages(pa_raw_header *header)
{
    header->own_pages = header->own_anon = 0;
    int pagemap = sys_open("/proc/self/pagemap", O_RDONLY);
    if (pagemap >= 0) {
        count_present(pagemap, store.base, store.base + SPACE, header);
        count_present(pagemap, __ehdr_start, _end, header);
        sys_close(pagemap);
    }
}
