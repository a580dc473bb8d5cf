/* SPDX-License-Identifier: MIT
 *
 * turns.h -- part of calls.c: rows of several threads, made in their order by as many threads.
 *
 * A thread is started right before its first row, and is dead and joined before the row after its
 * THREAD_EXIT.  The library must not notice how: all memory of a thread is mapped before call 0, even
 * the table that the loader allocates for each.
 *
 *     home of a thread:  | table | stack ... |
 *     turn: the thread that may act, who alone reads and writes everything here
 */
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

enum { MAIN = 0, HOME = 1 << 16, TABLE = 1024, MOST_THREADS = 1024 };

static struct {
    const struct run *run;
    enum touch touch;
    size_t row;
    uint32_t turn; /* a futex */
    uint32_t dying;
    bool alive[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    char *homes;
    size_t count_homes;
    void *table; /* for the thread that is being started */
} turns;

/* ---- memory for threads ----------------------------------------------------------------------- */

/* The C library's own calls come here, too: the loader makes a thread's table by them. */
void *calloc(size_t count, size_t size)
{
    void *table = turns.table;
    size_t bytes;
    if (!table || __builtin_mul_overflow(count, size, &bytes) || bytes > TABLE)
        return __libc_calloc(count, size);
    turns.table = NULL;
    return memset(table, 0, TABLE);
}

void free(void *p)
{
    if ((uintptr_t)p - (uintptr_t)turns.homes >= turns.count_homes * HOME)
        __libc_free(p);
}

static void set_up_turns(struct out_header *out, uint64_t count_threads)
{
    if (count_threads > MOST_THREADS) {
        errno = EINVAL;
        fail(out, __LINE__);
    }
    turns.count_homes = (size_t)count_threads;
    turns.homes = map(out, -1, 0, count_threads * HOME, PROT_READ | PROT_WRITE);
}

/* ---- the turn --------------------------------------------------------------------------------- */

static void *thread_main(void *number);

static void start_thread(uint32_t number)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    turns.table = turns.homes + (size_t)number * HOME;
    pthread_attr_setstack(&attributes, (char *)turns.table + TABLE, HOME - TABLE);
    errno =
        pthread_create(&turns.threads[number], &attributes, thread_main, (void *)(uintptr_t)number);
    turns.table = NULL;
    if (errno)
        fail(turns.run->out, __LINE__);
    turns.alive[number] = true;
}

static void hand_over(uint32_t to)
{
    if (to != MAIN && !turns.alive[to])
        start_thread(to);
    __atomic_store_n(&turns.turn, to, __ATOMIC_RELEASE);
    syscall(SYS_futex, &turns.turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void await(uint32_t me)
{
    uint32_t now;
    while ((now = __atomic_load_n(&turns.turn, __ATOMIC_ACQUIRE)) != me)
        syscall(SYS_futex, &turns.turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
}

static uint32_t next_thread(void)
{
    return turns.row < turns.run->count ? turns.run->thread[turns.row] : MAIN;
}

/* Make one's rows, up to the next of another thread or of another with this one's number. */
static void act(void)
{
    const struct run *r = turns.run;
    size_t first = turns.row, end = first + 1;
    while (end < r->count && r->thread[end] == r->thread[first] && r->op[end - 1] != THREAD_EXIT)
        end++;
    run_calls(r, turns.touch, first, end);
    turns.row = end;
}

static void *thread_main(void *number)
{
    uint32_t me = (uint32_t)(uintptr_t)number;
    for (;;) {
        await(me);
        act();
        if (turns.run->op[turns.row - 1] == THREAD_EXIT)
            break;
        hand_over(next_thread());
    }
    turns.dying = me;
    hand_over(MAIN);
    return NULL;
}

static void bury(void)
{
    uint32_t number = turns.dying;
    turns.dying = MAIN;
    if (number == MAIN)
        return;
    pthread_join(turns.threads[number], NULL);
    turns.alive[number] = false;
    write_down(turns.run, turns.row - 1, NULL); /* what came of its end */
}

static void take_turns(const struct run *r, enum touch touch)
{
    turns.run = r;
    turns.touch = touch;
    while (turns.row < r->count) {
        if (next_thread() == MAIN)
            act();
        hand_over(next_thread());
        await(MAIN);
        bury();
    }
}
