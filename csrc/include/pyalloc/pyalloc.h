/* SPDX-License-Identifier: MIT
 *
 * pyalloc.h -- the engine's whole public contract, and the only source of the Python binding.
 *
 * Glossary
 *   address   simulated virtual address, bytes        vpn   virtual page number, address >> 12
 *   frame     simulated page of physical memory       slot  page-sized place in swap
 *   ram       physical memory of one machine: frames, reclaim lists, swap
 *   mm        pages of one process: page table, fault and resident counters
 *   heap      one process's allocator: ptmalloc of some generation, or another
 *   replay    a whole trace of calls being run on one heap
 *
 * Every quantity says its unit: bytes_, pages_, count_.  Functions that can fail return a
 * pa_status and leave outputs and objects unchanged on failure.  The simulated machine running
 * dry is no failure: the engine stops with a reason (pa_stop) and is resumed with the answer.
 * Nothing here keeps global state, reads a clock or calls back.
 */
#ifndef PYALLOC_H
#define PYALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PA_API __attribute__((visibility("default")))

/* Only plain declarations between the markers: this text is the cdef.  */
/* cdef: begin */

/* ---- status ------------------------------------------------------------------------------- */

typedef enum pa_status {
    PA_OK = 0,
    PA_EXHAUSTED,       /* the simulated machine has no frame: ask policy, then go on   */
    PA_ERR_HOST_NOMEM = 4, /* the real malloc failed; 3 is PA_PENDING                    */
    PA_ERR_INVALID,     /* argument outside its documented domain                       */
    PA_ERR_LIMIT,       /* the model itself is at its limit                             */
    PA_ERR_CORRUPT,     /* an invariant failed                                          */
    PA_ERR_BUSY,        /* the object is in use by another thread                       */
    PA_GUARDED          /* the page is one that no access may reach: SIGSEGV            */
} pa_status;

const char *pa_status_text(int status);

/* ---- stops -------------------------------------------------------------------------------- */

/* A heap or replay that needs a decision returns PA_PENDING and describes its question in a
 * pa_stop.  Policy answers with pa_heap_answer() and goes on with pa_heap_resume().
 * BRK, MMAP, MREMAP, MPROTECT are questions; MUNMAP, BRK_SHRUNK and DISCARD are told, their
 * answer is ignored. */
typedef enum pa_reason {
    PA_STOP_NONE = 0,
    PA_STOP_BRK,        /* move the break to address; answer: the break afterwards          */
    PA_STOP_MMAP,       /* map length bytes, prot; answer: address, or 0                    */
    PA_STOP_MREMAP,     /* address, old_length -> length, may move; answer: address, or 0   */
    PA_STOP_MUNMAP,     /* address, length                                                  */
    PA_STOP_MPROTECT,   /* address, length, prot; answer: 0, or an errno                    */
    PA_STOP_FRAMES,     /* a page fault found no frame; answer ignored, the fault is retried */
    PA_STOP_ABORT,      /* the C library aborts; text from pa_heap_abort_text()             */
    PA_STOP_TOUCH       /* a replay's own TOUCH/MMAP/MUNMAP/SBRK row: policy performs it    */
} pa_reason;

typedef struct pa_stop {
    uint32_t reason;
    uint32_t prot;       /* PROT_* bits                         */
    uint64_t address;
    uint64_t length;     /* bytes                               */
    uint64_t old_length; /* bytes                               */
    uint64_t answer;
} pa_stop;

#define PA_PENDING 3 /* no pointer and no result is 3: the call is stopped, see pa_stop */

/* ---- ram ------------------------------------------------------------------------------------ */

typedef struct pa_ram pa_ram;
typedef struct pa_mm pa_mm;

/* Page tables: i386 two levels, PAE three, x86-64 four. */
enum pa_shape { PA_SHAPE_I386 = 0, PA_SHAPE_PAE, PA_SHAPE_X86_64 };

/* How page reclaim decides; data of a kernel profile. */
enum pa_reclaim_rule {
    PA_NEW_ANON_ACTIVE = 1, /* a new anonymous page starts on the active list (before 5.9)     */
    PA_RECLAIM_MAPPED = 2,  /* 2.6: mapped pages leave the active list only in distress         */
    PA_SECOND_LOOK = 4,     /* a page is activated at the second look that finds it referenced  */
    PA_ZERO_IS_FILE = 8,    /* a mapped zero page counts as a resident file page (2.6.18)       */
    PA_FREES_DISCARDED = 16, /* MADV_DONTNEED frees the page tables it empties (6.14 and later) */
    PA_EXCLUSIVE = 32, /* a page one process alone has needs no fault to be written (5.19) */
    PA_MOVES_TABLES = 64, /* mremap moves whole page tables (5.0)                             */
    PA_LARGE_FOLIOS = 128, /* a large folio is mapped whole (6.18)                             */
    PA_WORKINGSET = 256, /* pages that come back soon are active at once (3.15; anonymous: 5.9) */
    PA_ZERO_MAP = 512, /* pages of zeros are not written to swap (6.12)                      */
    PA_SWAP_AHEAD = 1024, /* how much swap is read around depends on its use (3.14)            */
    PA_SWAP_BY_AREA = 2048, /* the neighbours read are those in memory, not on the disk (4.14)    */
    PA_ACCOUNTS_NODES = 8192, /* the tree of shared memory's pages is charged, too (4.20)        */
    PA_RECENCY = 32768, /* use after MADV_RANDOM or MADV_SEQUENTIAL keeps no page (6.3)         */
    PA_FILLS_HOLES = 65536, /* a slot of swap in use before is given out first (6.18)           */
    PA_MIGRATES = 131072, /* there are several processors, and who waits may change (6.x)       */
    PA_FLUSHER = 16384, /* reclaim leaves the dirty pages of files to the flusher (6.12)        */
    PA_MOVES_USED = 4096 /* mremap makes tables only for entries that are in use (before 2.6.16) */
};

/* What things cost, in nanoseconds of simulated time.  All zero: nothing takes time. */
typedef struct pa_costs {
    uint64_t access; /* touching a page that needs no fault                      */
    uint64_t fault; /* a fault, without clearing, copying or waiting            */
    uint64_t clear, copy; /* one page                                                 */
    uint64_t dirty; /* the first write to a mapped page of a file, beside the fault    */
    uint64_t scan; /* reclaim looks at one page                                */
    uint64_t unmap; /* reclaim takes one page to swap                              */
    uint64_t read_latency, write_latency; /* of the disk, beside the transfer             */
    uint64_t seek; /* when a request does not begin where the last one ended   */
    uint64_t transfer; /* one page                                                 */
    uint64_t system_call; /* in and out of the kernel, and what the call itself does  */
    uint64_t batches; /* 1: the disk tells what it has done when it has nothing left to do */
} pa_costs;

/* All in pages.  Reserved pages belong to the kernel and nobody can have them. */
typedef struct pa_ram_settings {
    uint64_t count_frames, count_slots, count_reserved;
    uint64_t watermark_min, watermark_low, watermark_high;
    uint32_t shape; /* pa_shape                                         */
    uint32_t rules; /* pa_reclaim_rule bits                             */
    uint32_t swappiness; /* 0 to 200                                         */
    uint32_t page_cluster; /* swap is read 1 << page_cluster pages at a time   */
    uint32_t counter_batch; /* pages a processor counts before others know; 0: 1 */
    pa_costs costs;
} pa_ram_settings;

/* Pages now, and events so far, of a whole machine. */
typedef struct pa_ram_counters {
    uint64_t free, reserved, tables, kernel;
    uint64_t active_anon, inactive_anon, active_file, inactive_file, unevictable;
    uint64_t anon_mapped, shmem, file, dirty, swap_cached;
    uint64_t slots, slots_free;
    uint64_t faults, major_faults, swapped_in, swapped_out, file_read, file_written;
    uint64_t scanned, stolen, activated, deactivated;
    uint64_t scanned_background, stolen_background; /* by kswapd */
    uint64_t refault_anon, refault_file, restored_anon, restored_file;
    uint64_t swap_ahead, swap_ahead_hits, writing;
} pa_ram_counters;

/* Pages and events of one group (a memory cgroup) and all below it. */
typedef struct pa_group_counters {
    uint64_t limit, swap_limit;
    uint64_t usage, usage_peak, usage_swap, tables, anon, file;
    uint64_t limit_hits; /* of its own limit; what follows is of all below it, too */
    uint64_t scanned, stolen, refilled; /* refilled: looked at on the active lists */
    uint64_t faults, major_faults;
    uint64_t refaults[2], activated[2], restored[2]; /* anonymous, of files: see workingset.c */
    uint64_t high, high_hits, throttled_ms; /* memory.high, of its own */
} pa_group_counters;

/* NULL: settings outside their domain, or no memory on the host. */
pa_ram *pa_ram_new(const pa_ram_settings *settings);
/* The same in the memory of a machine that is not needed any more, which is gone afterwards; NULL is
 * none.  Page faults of the host are what a small machine spends most of its time on. */
pa_ram *pa_ram_renew(pa_ram *spent, const pa_ram_settings *settings);
/* Is its memory worth keeping for the next one? */
bool pa_ram_is_small(const pa_ram *ram);
pa_ram *pa_ram_copy(const pa_ram *ram);
void pa_ram_drop(pa_ram *ram);
/* Everything but frames, slots and shape can be changed. */
int pa_ram_configure(pa_ram *ram, const pa_ram_settings *settings);
void pa_ram_read(const pa_ram *ram, pa_ram_counters *out);
/* Pages of files and of shared memory that somebody maps; looks at every frame. */
uint64_t pa_ram_mapped(const pa_ram *ram);
/* Blocks of 4 kB to 4 MB. */
enum { PA_BUDDY_ORDERS = 11 };

/* Free blocks of 1 << k pages among `count` frames, as /proc/buddyinfo counts them, in blocks[k],
 * k < PA_BUDDY_ORDERS.
 * The first `skip` free ones are left out: they stand for memory that is taken but has no place of
 * its own.  Returns how many were. */
uint64_t pa_ram_free_blocks(const pa_ram *ram, uint64_t first, uint64_t count, uint64_t skip,
                            uint64_t *blocks);
/* Simulated time in nanoseconds, and how much of it processors worked. */
uint64_t pa_ram_time(const pa_ram *ram);
uint64_t pa_ram_work(const pa_ram *ram);
/* Time passes, `work` of it with a processor at work; writes under way go on. */
void pa_ram_pass(pa_ram *ram, uint64_t ns, uint64_t work);
/* The time of one system call passes. */
void pa_ram_system_call(pa_ram *ram);
int pa_ram_check(pa_ram *ram);

/* Group 0 is the root.  A new group's number, or -1. */
int pa_ram_add_group(pa_ram *ram, uint32_t parent, uint64_t pages, uint64_t pages_swap);
/* PA_EXHAUSTED: reclaim cannot bring the group below its new limit; the limit stands. */
int pa_ram_limit_group(pa_ram *ram, uint32_t group, uint64_t pages, uint64_t pages_swap);
/* memory.high: beyond it whoever takes pages must reclaim, and wait; what is over it now is
 * reclaimed as far as that goes. */
int pa_ram_throttle_group(pa_ram *ram, uint32_t group, uint64_t pages);
void pa_ram_read_group(const pa_ram *ram, uint32_t group, pa_group_counters *out);
/* limit_hits alone, which nothing is added up for. */
uint64_t pa_ram_limit_hits(const pa_ram *ram, uint32_t group);
/* What the pages of a group and those below it are, and where they are listed. */
typedef struct pa_group_pages {
    uint64_t anon, file, shmem, swap_cached; /* file: without shmem */
    uint64_t mapped, dirty, writing; /* of files and shmem; writing: of all */
    uint64_t inactive_anon, active_anon, inactive_file, active_file, unevictable;
} pa_group_pages;

void pa_ram_read_group_pages(const pa_ram *ram, uint32_t group, pa_group_pages *out);
/* Add the groups' counters up, as reading memory.stat does: reclaim knows them as of then. */
void pa_ram_flush_stats(pa_ram *ram);
/* Memory of the kernel itself, charged to a group; pages < 0 gives back. */
int pa_ram_charge_kernel(pa_ram *ram, uint32_t group, int64_t pages);

/* Objects: a file in the page cache, or shared memory (shmem).  A new object's number, or -1. */
int pa_ram_add_object(pa_ram *ram, uint64_t pages, bool shmem);
/* In bytes: a large folio that is cut is unmapped, be that inside its last page. */
void pa_ram_resize_object(pa_ram *ram, uint32_t object, uint64_t bytes);
/* Its file system makes the rest of the page behind `byte` zeros: a file ends there, or has ended.  In
 * a hole that is a page in the cache and no more. */
void pa_ram_zero_edge(pa_ram *ram, uint32_t object, uint64_t byte);
void pa_ram_drop_object(pa_ram *ram, uint32_t object);
/* Promise shared memory page by page, as pages come to be, instead of all at once: they are counted
 * by pa_ram_promised(), and refused beyond what pa_ram_limit_promised() allows. */
void pa_ram_promise_object(pa_ram *ram, uint32_t object);
void pa_ram_limit_promised(pa_ram *ram, uint64_t most);
uint64_t pa_ram_promised(const pa_ram *ram);
/* read() or write() of the bytes [at, end) by a process of `group`; *done pages of them were served:
 * fewer at the object's end, or if no more may be promised.  What a read asks for past the end makes
 * the window that is read ahead larger. */
int pa_ram_access_object(pa_ram *ram, uint32_t group, uint32_t object, uint64_t at, uint64_t end,
                         bool write, uint32_t stream, uint64_t *done);
/* An open file, whose reads are read ahead in windows of up to `pages`; its number, 0: no memory on
 * the host.  Number 0 anywhere reads single pages. */
uint32_t pa_ram_add_stream(pa_ram *ram, uint32_t pages);
uint64_t pa_ram_object_resident(const pa_ram *ram, uint32_t object);
/* Put pages into the cache as if they had been read long ago, in folios of up to 1 << order. */
int pa_ram_load_object(pa_ram *ram, uint32_t group, uint32_t object, uint64_t first, uint64_t count,
                       uint32_t order, uint64_t *done);
/* Write a file's dirty pages back (msync, fsync); the next write to each is noticed again. */
void pa_ram_clean_object(pa_ram *ram, uint32_t object, uint64_t first, uint64_t count);
/* Forget clean pages of a file that nobody maps (POSIX_FADV_DONTNEED, drop_caches). */
void pa_ram_forget_object(pa_ram *ram, uint32_t object, uint64_t first, uint64_t count);

/* Drop pages of it, mapped or not, dirty or not (a hole is punched into a file). */
void pa_ram_punch_object(pa_ram *ram, uint32_t object, uint64_t first, uint64_t count);

/* ---- mm: the pages of one process ----------------------------------------------------------- */

/* A view of an object: page `index` of it is at page `vpn`; the area has `count` pages. */
typedef struct pa_view {
    uint64_t vpn, count, index;
    uint32_t object;
    uint32_t around; /* pages mapped around a read fault: 1, or a power of two */
    uint32_t stream; /* the open file it was mapped through, or 0              */
    bool shared, writable;
    bool random, sequential; /* madvise(): no, or more, readahead */
    bool executable;
    bool huge; /* MADV_HUGEPAGE */
} pa_view;

/* What writes need after mprotect: a fault, or none where it is safe.  Writes to a shared file are
 * counted, page by page; those to shared memory are not. */
typedef enum pa_protection {
    PA_READ_ONLY = 0,
    PA_WRITE_PRIVATE,
    PA_WRITE_COUNTED,
    PA_WRITE_SHARED
} pa_protection;

/* Pages now, and faults so far, of one process. */
typedef struct pa_mm_counters {
    uint64_t anon, file, shmem, swap, locked;
    uint64_t resident_peak;
    uint64_t tables[4]; /* leaves, tables of leaves, ... */
    uint64_t minor_faults, major_faults;
    uint64_t work; /* ns that a processor worked for it */
    uint64_t seen_anon, seen_file, seen_shmem, seen_swap; /* as whoever does not add up sees them */
} pa_mm_counters;

/* What lies in a range of pages, in pages. */
typedef struct pa_range_counters {
    uint64_t anon, file, shmem, swap, zero, dirty, referenced, shared, locked;
    uint64_t shared_dirty; /* pages that others map, too, and that were written   */
    uint64_t share, share_dirty; /* bytes << 12: each page divided by its mappers (PSS) */
    uint64_t share_anon, share_shmem; /* the parts of the share that are no file's         */
    uint64_t lazy; /* MADV_FREE, and not written since                    */
    uint64_t share_swap; /* of the pages in swap, as share                             */
    uint64_t guards;
    uint64_t huge_anon, huge_file, huge_shmem; /* pages mapped 2 MB at once               */
    uint64_t huge_zero; /* pages of the huge zero page                            */
} pa_range_counters;

/* NULL: 8191 processes, or no memory on the host. */
pa_mm *pa_mm_new(pa_ram *ram, uint32_t group);
void pa_mm_drop(pa_mm *mm);
uint32_t pa_mm_number(const pa_mm *mm);
/* The process that had this number in the machine that `ram` is a copy of. */
pa_mm *pa_ram_mm(pa_ram *ram, uint32_t number);
void pa_mm_read(const pa_mm *mm, pa_mm_counters *out);
void pa_mm_read_range(pa_mm *mm, uint64_t vpn, uint64_t count, pa_range_counters *out);
/* Pages of shared memory that are in swap, as smaps counts them for the view's area: where a private
 * one that may be written has an entry of its own, that counts. */
uint64_t pa_mm_object_swap(pa_mm *mm, const pa_view *view);
/* mincore(): for each of the pages whether a frame of its own is in memory. */
void pa_mm_read_resident(pa_mm *mm, uint64_t vpn, uint64_t count, uint8_t *resident);

/* One access to each page of [vpn, vpn + count).  PA_EXHAUSTED: no frame could be had; *done counts
 * the pages that were touched, so that the caller goes on at vpn + *done once policy has made
 * room.  PA_ERR_INVALID: the page vpn + *done lies past the object's end (SIGBUS).  PA_GUARDED: it is
 * a guard (SIGSEGV). */
int pa_mm_touch_anon(pa_mm *mm, uint64_t vpn, uint64_t count, bool write, uint64_t *done);
int pa_mm_touch_object(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t count, bool write,
                       uint64_t *done);

/* The same in an area that may have huge pages: [low, high) is the area. */
int pa_mm_touch_huge(pa_mm *mm, uint64_t low, uint64_t high, uint64_t vpn, uint64_t count,
                     bool write, uint64_t *done);

/* What the process writes to its private memory from now on is zeros, or (false) data. */
void pa_mm_write_zeros(pa_mm *mm, bool zeros);
/* Faults from now on are those of a call that populates (mmap, mlock), of one that tries again each
 * that had to wait (MADV_POPULATE_READ), or those of the program. */
void pa_mm_populate(pa_mm *mm, bool populates, bool tries);

/* The kernel uses this page of private memory whenever the process goes on after another one had its
 * processor (rseq(2)), or no longer. */
void pa_mm_set_rseq(pa_mm *mm, uint64_t vpn, bool registered);
/* The same page as the parent's, if that one still has it. */
void pa_mm_inherit_rseq(pa_mm *child, const pa_mm *parent);
/* It returns from a call that may have waited. */
void pa_mm_return(pa_mm *mm);

/* One access to each page vpn + index[i], in this order: of private memory, or of the object that
 * `view` shows.  Results as above; *done indices were served. */
int pa_mm_touch_list(pa_mm *mm, const pa_view *view, uint64_t vpn, const uint64_t *index,
                     uint64_t count, bool write, uint64_t *done);

/* Another processor goes over these pages again and again, once in `period` ns, whenever time passes
 * in the rest of the machine; count 0: no longer. */
int pa_mm_keep_busy(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t period);
/* It came to a page that was gone, and does not go on before it is told to. */
bool pa_mm_is_stopped(const pa_mm *mm);

/* MADV_DONTNEED: drop the pages, keep the area.  [floor, ceiling) is the area itself. */
/* Drop its own pages and those of objects, but neither tables nor guards: a file was cut. */
void pa_mm_zap(pa_mm *mm, uint64_t vpn, uint64_t count);
void pa_mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count);
/* MADV_FREE: reclaim may drop these pages unless they are written again. */
void pa_mm_lazy_free(pa_mm *mm, uint64_t vpn, uint64_t count);
/* MADV_COLD: pages of the range that nobody else maps are among the next to go. */
void pa_mm_cool(pa_mm *mm, uint64_t vpn, uint64_t count);
/* The page was used more than once already: it is active, if it is this process's alone. */
void pa_mm_activate(pa_mm *mm, uint64_t vpn);
/* MADV_PAGEOUT: those pages go now; what cannot leave memory is still unmapped if it has an object. */
void pa_mm_page_out(pa_mm *mm, uint64_t vpn, uint64_t count);
/* MADV_COLLAPSE: the 2 MB of private memory from vpn on become one page.  PA_ERR_INVALID: they
 * cannot; PA_ERR_LIMIT: the same, because nothing is mapped anywhere near; PA_EXHAUSTED: there is no
 * room for so many at once. */
int pa_mm_collapse(pa_mm *mm, uint64_t vpn, bool writable, bool locked);
/* MADV_GUARD_INSTALL: pages and their tables make room for guards.  *done pages are guarded. */
int pa_mm_guard(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t *done);
/* MADV_GUARD_REMOVE: the guards of a range are empty entries again. */
void pa_mm_unguard(pa_mm *mm, uint64_t vpn, uint64_t count);
/* munmap: drop the pages, and each table that lies whole in [floor_vpn, ceiling_vpn). */
void pa_mm_unmap(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t floor_vpn, uint64_t ceiling_vpn);
/* The same in bytes, all whole pages, as munmap's caller has them. */
void pa_mm_munmap(pa_mm *mm, uint64_t start, uint64_t end, uint64_t floor, uint64_t ceiling);
/* mremap: entries move to new_vpn; *done of them have.  The `head` pages before both places are
 * empty, and may move with them as a part of a table. */
int pa_mm_move(pa_mm *mm, uint64_t vpn, uint64_t new_vpn, uint64_t count, uint64_t head,
               uint64_t *done);
void pa_mm_protect(pa_mm *mm, uint64_t vpn, uint64_t count, pa_protection how);
void pa_mm_lock(pa_mm *mm, uint64_t vpn, uint64_t count, bool lock);
/* fork: the child shares the parent's pages of this range; private ones copy on write. */
int pa_mm_share(pa_mm *child, pa_mm *parent, uint64_t vpn, uint64_t count, bool shared,
                uint64_t *done);

/* ---- heap ----------------------------------------------------------------------------------- */

typedef struct pa_heap pa_heap;

/* Where the bytes of a heap are, and how many chunks they are in. */
typedef struct pa_heap_statistics {
    uint64_t bytes_system; /* main heap and thread heaps, from the kernel       */
    uint64_t bytes_system_peak;
    uint64_t bytes_mapped; /* mmapped chunks                                    */
    uint64_t count_mapped;
    uint64_t bytes_mapped_peak, count_mapped_peak;
    uint64_t bytes_tcache, count_tcache;
    uint64_t bytes_fast, count_fast;
    uint64_t bytes_unsorted, count_unsorted;
    uint64_t bytes_small, count_small;
    uint64_t bytes_large, count_large;
    uint64_t bytes_top;
    uint64_t bytes_largest_hole; /* largest free chunk, top included                  */
    uint64_t bytes_own; /* the library's own: caches, arenas, heap headers           */
    uint64_t bytes_header, bytes_header_mapped; /* beside each block, and each mapped one */
    uint64_t count_arenas;
    uint64_t count_brk_calls, count_mmap_calls, count_madvise_calls;
    uint64_t count_arena_calls; /* mallocs and frees that went past the tcache         */
    uint64_t count_steps; /* chunks looked at and sorted meanwhile               */
    /* How near the settings came to deciding otherwise (glibc): */
    uint64_t bytes_largest_asked; /* largest chunk that nothing free served              */
    uint64_t bytes_top_kept; /* largest top that was left alone as too small to trim */
    uint64_t bytes_top_trimmed; /* smallest that was not; 0: none                     */
    uint64_t count_threshold_moves; /* the mmap threshold followed a block that was freed  */
} pa_heap_statistics;

enum pa_chunk_state {
    PA_CHUNK_USED = 0,
    PA_CHUNK_TCACHE,
    PA_CHUNK_FAST,
    PA_CHUNK_UNSORTED,
    PA_CHUNK_SMALL,
    PA_CHUNK_LARGE,
    PA_CHUNK_TOP,
    PA_CHUNK_MAPPED,
    PA_CHUNK_FENCE,
    PA_CHUNK_OWN /* in use by the library itself: a thread's tcache */
};

#define PA_NO_THREAD 0xFFFFFFFFu

typedef struct pa_chunk {
    uint64_t address; /* of the user's memory                                        */
    uint64_t size; /* bytes, with header                                          */
    uint32_t arena;
    uint32_t thread; /* whose tcache it is in, or is; PA_NO_THREAD: none            */
    uint16_t state; /* pa_chunk_state                                              */
    uint16_t bin; /* its list's number among those of its kind, 0 where not known */
    uint16_t flags; /* low bits of its size field: PREV_INUSE 1, MMAPPED 2, ...    */
    uint16_t spare;
} pa_chunk;

/* An arena and the heaps it lives in; bytes. */
typedef struct pa_arena {
    uint32_t index; /* pa_chunk.arena                                         */
    uint32_t count_threads; /* attached                                               */
    uint32_t count_heaps; /* thread heaps; 0: the main arena                        */
    uint32_t is_contiguous; /* the main arena still follows the break                 */
    uint64_t bytes_system, bytes_system_peak;
    uint64_t top, bytes_top; /* address of its user memory; 0: none yet                */
    uint64_t bytes_heaps, bytes_writable; /* in use of the heaps, accessible of them */
    uint64_t bytes_newest, bytes_newest_writable; /* of the newest heap alone               */
} pa_arena;

/* How a ptmalloc is set at the moment; bytes unless the name says otherwise. */
typedef struct pa_settings {
    uint32_t version; /* 236: glibc 2.36; 203: 2.3.3                    */
    uint32_t word, align; /* SIZE_SZ, MALLOC_ALIGNMENT                      */
    uint32_t count_tcache; /* chunks a tcache bin holds; 0: there is none    */
    uint64_t tcache_limit; /* chunks smaller than this go there              */
    uint64_t fast_limit; /* chunks up to this go to fastbins; 0: none do   */
    uint64_t mmap_threshold, trim_threshold, top_pad, count_mmaps_max;
    uint32_t is_dynamic; /* the two thresholds follow the blocks freed     */
    uint32_t huge_page; /* bytes the break moves by; 0: pages             */
} pa_settings;

/* allocator: "glibc-2.36", "first-fit" ...; word: 8 or 4 bytes.  NULL: no such allocator, or no
 * memory. */
pa_heap *pa_heap_new(const char *allocator, uint32_t word, uint64_t brk_start, uint32_t count_cpus);
/* The same in place of a heap that nobody needs any more, with its memory if that is small. */
pa_heap *pa_heap_renew(pa_heap *spent, const char *allocator, uint32_t word, uint64_t brk_start,
                       uint32_t count_cpus);
bool pa_heap_is_small(const pa_heap *heap);
pa_heap *pa_heap_copy(const pa_heap *heap, pa_mm *mm);
void pa_heap_drop(pa_heap *heap);
/* The i-th allocator's name, NULL past the last. */
const char *pa_allocator_name(uint32_t i);
/* What it changes against the one before it, in words. */
const char *pa_allocator_changes(uint32_t i);

/* A pointer (0: NULL), or PA_PENDING. */
uint64_t pa_heap_malloc(pa_heap *heap, uint64_t bytes);
uint64_t pa_heap_realloc(pa_heap *heap, uint64_t pointer, uint64_t bytes);
uint64_t pa_heap_free(pa_heap *heap, uint64_t pointer);
/* malloc of each of `bytes`, in this order; with `write` each block is written whole before the next
 * call.  Returns how many of them are done: if not all, the heap has stopped in the next one, or has
 * served it, but only *written pages of it could be written. */
uint64_t pa_heap_malloc_list(pa_heap *heap, const uint64_t *bytes, uint64_t count, bool write,
                             uint64_t *addresses, uint64_t *written);
/* free of each; returns how many are done before the heap has stopped. */
uint64_t pa_heap_free_list(pa_heap *heap, const uint64_t *pointers, uint64_t count);
/* Any other call by its op: size and arg as in a trace's columns. */
uint64_t pa_heap_other(pa_heap *heap, uint32_t op, uint64_t size, uint64_t arg);
uint64_t pa_heap_resume(pa_heap *heap);
void pa_heap_answer(pa_heap *heap, uint64_t answer);
bool pa_heap_is_stopped(const pa_heap *heap);
const pa_stop *pa_heap_stop(const pa_heap *heap);
const char *pa_heap_abort_text(const pa_heap *heap);
/* What the program is called in the library's last words (argv[0]). */
void pa_heap_set_program(pa_heap *heap, const char *name);
int pa_heap_error(const pa_heap *heap);

void pa_heap_set_thread(pa_heap *heap, uint32_t thread);
void pa_heap_attach(pa_heap *heap, pa_mm *mm);
/* The break may move up to `highest` without a question; its page tables are its own inside
 * [floor, ceiling). */
void pa_heap_lease(pa_heap *heap, uint64_t highest, uint64_t floor_vpn, uint64_t ceiling_vpn);
/* Mappings of `least` bytes or more, but for whole 2 MB if `aligns_huge`, go right below `high` and
 * each other without a question, down to `low`. */
void pa_heap_lease_below(pa_heap *heap, uint64_t low, uint64_t high, uint64_t least,
                         bool aligns_huge);
/* Where to read, as long as the heap lives, how far down they have come. */
const uint64_t *pa_heap_lowest(const pa_heap *heap);
/* The same number; policy knows it now. */
uint64_t pa_heap_mapped_to(pa_heap *heap);
uint64_t pa_heap_break(const pa_heap *heap);
uint64_t pa_heap_break_peak(pa_heap *heap);
/* Where to read, as long as the heap lives, whether the break has moved since its peak was last
 * asked for, or since it was last set from outside. */
const bool *pa_heap_moved(const pa_heap *heap);
void pa_heap_set_break(pa_heap *heap, uint64_t brk);

uint64_t pa_heap_usable_size(const pa_heap *heap, uint64_t pointer);
/* mallinfo2() of the simulated library, field by field; or of one arena, as malloc_stats() shows. */
typedef struct pa_mallinfo {
    uint64_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
} pa_mallinfo;

#define PA_ALL_ARENAS 0xFFFFFFFFu
int pa_heap_mallinfo(const pa_heap *heap, uint32_t arena, pa_mallinfo *out);

void pa_heap_read_statistics(const pa_heap *heap, pa_heap_statistics *out);
/* Writes up to `room` chunks in address order; returns how many there are. */
uint64_t pa_heap_walk(const pa_heap *heap, pa_chunk *out, uint64_t room);
/* The same for free chunks alone, list by list and in each list's order: of every arena the
 * fastbins, the unsorted list, small and large bins from the head on, then of every thread the
 * tcache, next one out first. */
uint64_t pa_heap_list(const pa_heap *heap, pa_chunk *out, uint64_t room);
/* The i-th arena in the order in which the library goes through them.  PA_ERR_INVALID: none. */
int pa_heap_read_arena(const pa_heap *heap, uint32_t i, pa_arena *out);
/* PA_ERR_INVALID: not a ptmalloc. */
int pa_heap_read_settings(const pa_heap *heap, pa_settings *out);

/* Pages by how much of them chunks in use take: by_tenth[0] nothing, by_tenth[i] more than
 * (i - 1) / 10 of the page and up to i / 10. */
enum { PA_TENTHS = 11 };

/* A heap as a whole.  What a cache holds (tcache, fastbin) is free. */
typedef struct pa_layout {
    uint64_t bytes_used, count_used; /* chunks in use, mapped ones too               */
    uint64_t bytes_free, count_free; /* free chunks, top included                    */
    uint64_t bytes_largest_free;
    double squares_free; /* sum of the squares of their sizes                         */
    uint64_t pages_held; /* that the heap has from the kernel                         */
    uint64_t pages_backed; /* of them in memory or swap                                 */
    uint64_t pages_by_tenth[PA_TENTHS];
    int64_t bytes_trimmed; /* what malloc_trim(0) would take off the break            */
    uint64_t pages_trimmed; /* resident pages that it would give back                 */
} pa_layout;

/* O(chunks).  PA_ERR_HOST_NOMEM: no room for their list. */
int pa_heap_read_layout(const pa_heap *heap, pa_layout *out);
int pa_heap_tunable(pa_heap *heap, const char *name, uint64_t value);
/* A variable of the environment, read as the library reads it at its start: GLIBC_TUNABLES or
 * MALLOC_*.  PA_ERR_INVALID: the library ignores it. */
int pa_heap_environment(pa_heap *heap, const char *name, const char *text);
int pa_heap_check(const pa_heap *heap);

/* ---- replay --------------------------------------------------------------------------------- */

/* A whole trace on one heap.  All buffers are the caller's and must outlive the replay. */
typedef struct pa_replay pa_replay;

/* The calls, one a row.  arg and thread may be NULL: all zeros.
 * A FREE of a block that is not allocated passes its last address (a double free); a REALLOC of a
 * block that is not allocated is a malloc; block UINT32_MAX is NULL. */
typedef struct pa_columns {
    size_t count;
    const uint8_t *op;
    const uint32_t *block;
    const uint64_t *size;
    const uint64_t *arg;
    const uint32_t *thread;
} pa_columns;

/* One value a row each; NULL: not wanted. */
typedef struct pa_outputs {
    uint64_t *address; /* what an allocating call returned, 0 for all others            */
    uint64_t *usable; /* malloc_usable_size() of it, bytes                             */
    uint64_t *brk; /* the break after the call                                      */
} pa_outputs;

/* What a sample holds, one row of the sample buffer each. */
typedef enum pa_sample_field {
    PA_SAMPLE_CALLS = 0, /* calls done                                                  */
    PA_SAMPLE_ALLOCATED, /* bytes requested so far, freed or not                        */
    PA_SAMPLE_REQUESTED, /* bytes requested and not given back                          */
    PA_SAMPLE_BLOCKS, /* blocks not given back                                       */
    PA_SAMPLE_HEAP, /* bytes of the main heap and thread heaps                     */
    PA_SAMPLE_MAPPED, /* bytes of mmapped chunks                                     */
    PA_SAMPLE_RSS, /* bytes resident in the whole process                         */
    PA_SAMPLE_SWAP, /* bytes swapped out                                           */
    PA_SAMPLE_MINOR, /* minor faults so far                                         */
    PA_SAMPLE_MAJOR, /* major faults so far                                         */
    PA_SAMPLE_TCACHE, /* free bytes by where they are kept                           */
    PA_SAMPLE_FAST,
    PA_SAMPLE_UNSORTED,
    PA_SAMPLE_SMALL,
    PA_SAMPLE_LARGE,
    PA_SAMPLE_TOP,
    PA_SAMPLE_HOLE, /* bytes of the largest free chunk                             */
    PA_SAMPLE_RSS_PEAK, /* the most that was resident since the sample before          */
    PA_SAMPLE_FIELDS
} pa_sample_field;

/* values[field * room + i] is a field of sample i: one every `every` calls and one at the end, or
 * one after each of rows[0] < rows[1] < ... calls.  every == 0 and no rows: none. */
typedef struct pa_samples {
    uint64_t *values;
    size_t room;
    size_t every;
    const uint64_t *rows;
    size_t count_rows;
} pa_samples;

typedef enum pa_touch {
    PA_TOUCH_NONE = 0, /* the program's own accesses are not modelled       */
    PA_TOUCH_WRITE, /* each block is written whole when it is allocated  */
    PA_TOUCH_RECORDED /* TOUCH rows say what is accessed                   */
} pa_touch;

typedef struct pa_replay_totals {
    uint64_t calls; /* rows done                                              */
    uint64_t samples; /* samples written                                        */
    uint64_t blocks; /* blocks allocated and not given back                    */
    uint64_t blocks_peak;
    uint64_t failed; /* requests that returned NULL                            */
    uint64_t allocated; /* bytes requested so far, freed or not                   */
    uint64_t requested; /* bytes requested and not given back: P                  */
    uint64_t held; /* bytes the allocator has from the kernel: A             */
    uint64_t requested_peak, requested_peak_row;
    uint64_t held_at_requested_peak;
    uint64_t pages_at_requested_peak; /* resident or swapped, in the whole process         */
    uint64_t held_peak, held_peak_row;
    uint64_t requested_at_held_peak;
    double ratio_sum; /* of A / P after each request, times its bytes                      */
} pa_replay_totals;

/* The moment at which the heap held most. */
typedef struct pa_replay_peak {
    pa_heap_statistics heap;
    uint64_t blocks; /* allocated and not given back                                       */
    uint64_t pages; /* resident or swapped, in the whole process                           */
} pa_replay_peak;

/* NULL: the host has no memory for the block table. */
pa_replay *pa_replay_new(pa_heap *heap, const pa_columns *in, const pa_outputs *out,
                         const pa_samples *samples, int touch);
void pa_replay_drop(pa_replay *replay);

/* Run to the end of the trace (PA_OK), or to a question (PA_PENDING: see pa_replay_stop), or until
 * the model gives up (an error).  Called again it goes on where it stopped.  After PA_STOP_ABORT
 * there is nothing to go on with. */
int pa_replay_run(pa_replay *replay);
/* The same, but only the rows before `end`: PA_OK once they are done. */
int pa_replay_run_to(pa_replay *replay, uint64_t end);

/* The question.  Reason PA_STOP_TOUCH: an SBRK, MMAP or MUNMAP row; `prot` is its op, address
 * that of its block, length its size; the answer is the address of an MMAP, ignored otherwise. */
const pa_stop *pa_replay_stop(const pa_replay *replay);
void pa_replay_answer(pa_replay *replay, uint64_t answer);
void pa_replay_read_totals(const pa_replay *replay, pa_replay_totals *out);
void pa_replay_read_peak(const pa_replay *replay, pa_replay_peak *out);

/* Last address and requested size of each block; size UINT64_MAX: not allocated. */
void pa_replay_read_blocks(const pa_replay *replay, uint64_t *address, uint64_t *size);
size_t pa_replay_count_blocks(const pa_replay *replay);

/* ---- space: a process that has a machine to itself ------------------------------------------ */

/* Where mappings go when nothing else is there and nothing is refused: no policy is asked. */
typedef struct pa_space pa_space;

/* System calls of the heap and of the trace's own rows. */
typedef struct pa_space_counters {
    uint64_t count_mmap, count_munmap, count_mremap, count_mprotect;
} pa_space_counters;

/* The holes of the space, in order: bounds[0] to bounds[1], bounds[2] to bounds[3] ..., whole pages
 * that do not touch.  The break grows in the hole in which it is; mappings go below `base` (the
 * kernel's mmap_base) as long as there is room; those of whole huge pages are aligned to them if
 * aligns_huge.  NULL: these are no holes, or no memory. */
pa_space *pa_space_new(const uint64_t *bounds, size_t count, uint64_t base, bool aligns_huge);
void pa_space_drop(pa_space *space);
void pa_space_read(const pa_space *space, pa_space_counters *out);
/* Run a replay to its end.  PA_PENDING: it ended before, by PA_STOP_ABORT or PA_STOP_FRAMES. */
int pa_space_run(pa_space *space, pa_replay *replay);
/* The same, but only the rows before `end`. */
int pa_space_run_to(pa_space *space, pa_replay *replay, uint64_t end);

/* ---- orders --------------------------------------------------------------------------------- */

/* `count` calls change places: call i has place[i], calls and places ascend by (group, place), and
 * a call stays in its group.  It may not come before release[i] (an earlier or the same place);
 * by_release lists the calls by (group, release).  taker[i] gets the call that takes place i: of
 * those released, the one of the smallest key.  PA_ERR_INVALID: some call is released behind its own
 * place. */
int pa_fill_places(size_t count, const uint32_t *group, const uint64_t *place,
                   const uint64_t *release, const uint32_t *by_release, const uint64_t *key,
                   uint32_t *taker);

/* cdef: end */

#endif
