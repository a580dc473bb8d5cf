/* SPDX-License-Identifier: MIT
 *
 * threads.c -- who is calling, one lock, and the end of a thread.
 *
 * A thread is known by its thread pointer: unique while it lives, and read in one instruction.
 *
 * glibc empties a thread's cache of chunks when the thread is all but dead, after the last
 * destructor that anybody else can see.  So the thread takes the lock in its last destructor round,
 * notes its end, and dies with the lock held: the next caller learns of the death from a robust
 * mutex, which the kernel itself releases.  What it then records did happen after the cache was
 * emptied.  A dying thread may yet wait for somebody who waits for the lock; after EXIT_PATIENCE
 * the lock is taken from it, and only the order of that moment is uncertain.
 *
 *     lock: FREE -> HELD -> (CONTENDED) -> FREE,  or HELD -> EXITING -> HELD by the next
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "recorder.h"

enum { LOCK_FREE, LOCK_HELD, LOCK_CONTENDED, LOCK_EXITING };

#define THREADS 8192 /* alive at once and counted; a power of two */
#define SPINS 200
#define EXIT_ROUNDS 4 /* PTHREAD_DESTRUCTOR_ITERATIONS: the last is the last */
#define EXIT_PATIENCE 50000000L /* ns */
#define CHEAP_KEYS 32 /* keys below need no memory of the heap */

typedef struct seat {
    uint64_t self; /* 0: never used, 1: given up */
    uint32_t number;
} seat;

static struct {
    seat seats[THREADS];
    uint64_t main;
    uint64_t last; /* the caller before this one, who is often the same */
    uint32_t last_number;
    uint32_t count;
    pthread_key_t key;
    bool has_key;
    pthread_mutex_t dying;
} threads;

uint64_t thread_pointer(void)
{
#if defined(__x86_64__)
    uint64_t self;
    __asm__("mov %%fs:0, %0" : "=r"(self));
    return self;
#elif defined(__i386__)
    uint32_t self;
    __asm__("mov %%gs:0, %0" : "=r"(self));
    return self;
#else
    return (uint64_t)(uintptr_t)__builtin_thread_pointer();
#endif
}

/* The seat of `self`, or else the one it may take; NULL when all are taken. */
static seat *seat_find(uint64_t self)
{
    size_t at = (size_t)((self >> 6) * 0x9E3779B97F4A7C15u >> 51);
    seat *free = NULL;
    for (size_t tries = 0; tries < THREADS; tries++, at++) {
        seat *s = &threads.seats[at & (THREADS - 1)];
        if (s->self == self) {
            return s;
        }
        if (s->self <= 1 && free == NULL) {
            free = s;
        }
        if (s->self == 0) {
            break;
        }
    }
    return free;
}

static void thread_ends(void *round)
{
    uintptr_t n = (uintptr_t)round;
    if (n < EXIT_ROUNDS) {
        (void)pthread_setspecific(threads.key, (void *)(n + 1));
    } else if (rec_on()) {
        rec_note_exit();
    }
}

static uint32_t seat_take(seat *s, uint64_t self)
{
    if (s == NULL) {
        return UINT32_MAX;
    }
    *s = (seat){self, threads.count++};
    if (threads.has_key && self != threads.main) {
        (void)pthread_setspecific(threads.key, (void *)1);
    }
    return s->number;
}

uint32_t threads_number(uint64_t self)
{
    if (likely(self == threads.last)) {
        return threads.last_number;
    }
    seat *s = seat_find(self);
    threads.last_number = s && s->self == self ? s->number : seat_take(s, self);
    threads.last = self;
    return threads.last_number;
}

static void dying_reset(void)
{
    pthread_mutexattr_t attributes;
    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    (void)pthread_mutex_init(&threads.dying, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
}

void threads_start(uint64_t self)
{
    threads.main = (pid_t)syscall(SYS_gettid) == getpid() ? self : 0;
    if (threads.main == 0) {
        threads.count = 1; /* number 0 stays the main thread's */
    }
    dying_reset();
    if (pthread_key_create(&threads.key, thread_ends) == 0) {
        threads.has_key = threads.key < CHEAP_KEYS;
    }
}

/* In a child the caller is the only thread, under the number it had. */
void threads_forked(uint64_t self)
{
    uint32_t number = threads_number(self);
    for (size_t i = 0; i < THREADS; i++) {
        if (threads.seats[i].self != 0) {
            threads.seats[i] = (seat){0, 0};
        }
    }
    threads.last = 0;
    *seat_find(self) = (seat){self, number};
    threads.main = self;
    dying_reset();
}

void threads_forget(uint64_t self)
{
    seat *s = seat_find(self);
    if (s && s->self == self) {
        s->self = 1;
    }
    threads.last = 0;
}

/* --- the lock */

static void futex(int op, uint32_t value)
{
    int saved = errno;
    (void)syscall(SYS_futex, &rec_control->lock, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
    errno = saved;
}

static bool lock_swap(uint32_t from, uint32_t to)
{
    return __atomic_compare_exchange_n(&rec_control->lock, &from, to, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

/* The owner is dying: true when the lock is ours now. */
static bool lock_inherit(void)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += EXIT_PATIENCE;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int why = pthread_mutex_clocklock(&threads.dying, CLOCK_MONOTONIC, &until);
    if (why == EOWNERDEAD) {
        (void)pthread_mutex_consistent(&threads.dying);
    }
    bool ours = lock_swap(LOCK_EXITING, LOCK_CONTENDED);
    if (ours) {
        threads.last = 0; /* another thread may live where the dead one did */
    }
    if (why == 0 || why == EOWNERDEAD) {
        (void)pthread_mutex_unlock(&threads.dying);
    }
    return ours;
}

static void lock_wait(void)
{
    for (int i = 0; i < SPINS; i++) {
        if (lock_swap(LOCK_FREE, LOCK_HELD)) {
            return;
        }
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    for (;;) {
        uint32_t now = __atomic_load_n(&rec_control->lock, __ATOMIC_RELAXED);
        if (now == LOCK_EXITING) {
            if (lock_inherit()) {
                return;
            }
        } else if (now == LOCK_FREE) {
            if (lock_swap(LOCK_FREE, LOCK_CONTENDED)) {
                return;
            }
        } else if (now == LOCK_CONTENDED || lock_swap(LOCK_HELD, LOCK_CONTENDED)) {
            futex(FUTEX_WAIT, LOCK_CONTENDED);
        }
    }
}

static bool lock_is_mine(uint64_t self)
{
    if (__atomic_load_n(&rec_control->owner, __ATOMIC_RELAXED) != self) {
        return false;
    }
    if (likely(__atomic_load_n(&rec_control->lock, __ATOMIC_RELAXED) != LOCK_EXITING)) {
        return true;
    }
    /* the owner is dying, or a new thread got the memory of a dead one */
    return (uint64_t)syscall(SYS_gettid) == rec_control->exiting_tid;
}

bool lock_take(uint64_t self)
{
    if (__libc_single_threaded || lock_is_mine(self)) {
        return false;
    }
    if (unlikely(!lock_swap(LOCK_FREE, LOCK_HELD))) {
        int saved = errno;
        lock_wait();
        errno = saved;
    }
    __atomic_store_n(&rec_control->owner, self, __ATOMIC_RELAXED);
    return true;
}

void lock_give(void)
{
    __atomic_store_n(&rec_control->owner, 0, __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&rec_control->lock, LOCK_FREE, __ATOMIC_RELEASE) == LOCK_CONTENDED) {
        futex(FUTEX_WAKE, 1);
    }
}

/* The caller holds the lock and is about to die.  False: give it back as usual. */
bool lock_keep_until_death(uint64_t self)
{
    int why = pthread_mutex_trylock(&threads.dying);
    if (why == EOWNERDEAD) {
        (void)pthread_mutex_consistent(&threads.dying);
    } else if (why != 0) {
        return false;
    }
    threads.last = self; /* calls it still makes keep its number */
    rec_control->exiting_tid = (uint64_t)syscall(SYS_gettid);
    __atomic_store_n(&rec_control->lock, LOCK_EXITING, __ATOMIC_RELEASE);
    futex(FUTEX_WAKE, INT_MAX);
    return true;
}
