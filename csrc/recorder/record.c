/* SPDX-License-Identifier: MIT
 *
 * record.c -- one record: its place in the order, its thread, its time.
 *
 * Workload: a call every few hundred nanoseconds, so a record is begun in a dozen stores; all that
 * is rare (a full ring, a sample, a new call site) hides behind one comparison each.
 *
 * A record is begun before the real call and completed after it: what kills the process inside the
 * library is then the last record, begun and never done.
 */
#include <errno.h>
#include <unistd.h>

#include "recorder.h"
#include "text.h"

#define FIRST_LAP 1024 /* records; laps double, so that a small program touches little */
#define SAMPLE_EVERY_MIN 32 /* calls; grows with the number of calls */
#define SAMPLE_EVERY_MAX 4096

static pa_control not_yet; /* until there is a control page */
pa_control *rec_control = &not_yet;

static struct {
    pa_record *ring;
    uint64_t first; /* number of the record at the front of the ring */
    uint64_t next;  /* number of the next record */
    uint64_t limit; /* at this number something rare is due: */
    uint64_t lap_end;
    uint64_t sample_at;
    uint64_t lap; /* records in a lap of the ring */
    uint64_t start_ns;
    pid_t pid;
    bool started;
} rec;

uint64_t rec_count(void)
{
    return rec.next;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void lap_begin(void)
{
    rec.first = rec.next;
    rec.lap_end = rec.next + rec.lap;
    rec.limit = least(rec.lap_end, rec.sample_at);
    store_header->first = rec.first;
}

/* False: no room for another record, ever. */
static bool lap_finish(void)
{
    if (!store_flush(rec.ring, rec.first, rec.next)) {
        __atomic_store_n(&rec_control->ready, REC_OFF, __ATOMIC_RELAXED);
        return false;
    }
    rec.lap = least(2 * rec.lap, PA_RING_RECORDS);
    lap_begin();
    return true;
}

static bool has_room(void)
{
    return rec.next < rec.lap_end || lap_finish();
}

static pa_record *place(void)
{
    return &rec.ring[rec.next++ - rec.first];
}

/* The record is whole enough to count. */
static void publish(pa_record *r, uint8_t state)
{
    __atomic_store_n(&r->state, state, __ATOMIC_RELEASE);
    __atomic_store_n(&store_header->next, rec.next, __ATOMIC_RELEASE);
}

static void sample(void)
{
    pa_record *r = place();
    r->op = REC_SAMPLE;
    r->thread = 0;
    r->time = store_clock() - rec.start_ns;
    store_sample(r);
    publish(r, REC_DONE);

    uint64_t step = rec.next >> 6;
    step = step < SAMPLE_EVERY_MIN ? SAMPLE_EVERY_MIN : least(step, SAMPLE_EVERY_MAX);
    rec.sample_at = rec.next + step;
    rec.limit = least(rec.lap_end, rec.sample_at);
}

/* False: no room for another record, ever. */
static bool attend_to_rare(void)
{
    int saved = errno;
    bool room = has_room();
    if (room && rec.next >= rec.sample_at) {
        sample();
        room = has_room();
    }
    errno = saved;
    return room;
}

static inline void record_fill(pa_record *r, uint8_t op, uint64_t size, uint64_t arg, uint64_t site,
                               uint32_t thread)
{
    r->time = store_clock() - rec.start_ns;
    r->site = site;
    r->size = size;
    r->arg = arg;
    r->thread = thread;
    r->op = op;
    publish(r, REC_BEGUN);
}

pa_call rec_begin(uint8_t op, uint64_t size, uint64_t arg, const void *from)
{
    uint64_t self = thread_pointer();
    pa_call call = {NULL, 0, lock_take(self)};
    uint64_t site = (uint64_t)(uintptr_t)from;
    if (unlikely(rec.next >= rec.limit) && (!rec_on() || !attend_to_rare())) {
        if (call.locked) {
            lock_give();
        }
        return (pa_call){NULL, 0, false};
    }
    if (unlikely(sites_seen[sites_slot(site)] != site)) {
        sites_learn(site);
    }
    call.index = rec.next;
    call.record = place();
    record_fill(call.record, op, size, arg, site, threads_number(self));
    return call;
}

void rec_finish(const pa_call *call, uint64_t ret)
{
    if (likely(call->record != NULL && call->index >= rec.first)) {
        call->record->ret = ret;
        __atomic_store_n(&call->record->state, REC_DONE, __ATOMIC_RELEASE);
    }
    if (call->locked) {
        lock_give();
    }
}

/* In the last destructor of a thread. */
void rec_note_exit(void)
{
    uint64_t self = thread_pointer();
    pa_call call = rec_begin(REC_THREAD_EXIT, 0, 0, NULL);
    if (call.record == NULL) {
        return;
    }
    call.record->state = REC_DONE;
    threads_forget(self);
    if (call.locked && !lock_keep_until_death(self)) {
        lock_give();
    }
}

/* The first record of this process image, or of this child, comes next. */
static bool recording_open(uint64_t inherited)
{
    if (!store_open()) {
        return false;
    }
    rec.next = 0;
    rec.sample_at = 0;
    rec.start_ns = store_header->start_ns;
    rec.lap = FIRST_LAP;
    rec.ring = store_ring();
    lap_begin();
    store_header->inherited = inherited;
    rec_control->ready = REC_ON;
    return true;
}

/* It is another malloc than glibc's, in `file`; NULL: it is not. */
static void note_malloc(uint32_t flag, const char *file)
{
    if (file != NULL) {
        store_header->flags |= flag;
        store_bytes("MLIB", file, text_length(file));
    }
}

static bool begin_program(void)
{
    extern char **environ;
    rec.started = true;
    rec.pid = getpid();
    if (environ == NULL || !store_settings(environ) || !recording_open(0)) {
        return false;
    }
    note_malloc(PA_RAW_FOREIGN, interpose_foreign());
    note_malloc(PA_RAW_PASSED_BY, interpose_passed_by());
    threads_start(thread_pointer());
    store_tunables(environ);
    store_text("CMDL", "/proc/self/cmdline", NULL);
    store_text("LIMI", "/proc/self/limits", NULL);
    sites_load("MAPS");
    return true;
}

/* The parent's state was copied; nothing of the child has been written yet. */
static bool begin_child(void)
{
    uint64_t inherited = rec.next;
    rec.pid = getpid();
    if (!store_follows_children() || !recording_open(inherited)) {
        return false;
    }
    threads_forked(thread_pointer());
    store_text("CMDL", "/proc/self/cmdline", NULL);
    sites_load("MODS");
    return true;
}

bool rec_start(void)
{
    if (rec_control->ready != REC_UNKNOWN || (rec.started && rec.pid == getpid())) {
        return false;
    }
    int saved = errno;
    bool on = rec.started ? rec.ring != NULL && begin_child() : begin_program();
    if (!on) {
        rec_control->ready = REC_OFF;
    }
    errno = saved;
    return on;
}

/* The process ends, or becomes another program: take down what the kernel counted. */
void rec_final(uint32_t flag)
{
    if (!rec_on() || rec.pid != getpid()) {
        return; /* a child that borrows this memory */
    }
    int saved = errno;
    uint64_t self = thread_pointer();
    bool locked = lock_take(self);
    if (has_room()) {
        sample();
        store_text("STAT", "/proc/self/status", NULL);
        store_text("ROLL", "/proc/self/smaps_rollup", NULL);
        store_text("SMAP", "/proc/self/smaps", NULL);
        store_text("MAPF", "/proc/self/maps", NULL);
        store_own_pages(store_header);
        store_header->flags |= flag;
    }
    if (locked) {
        lock_give();
    }
    errno = saved;
}

/* An exec that was announced has failed. */
void rec_reopen(void)
{
    if (rec_on() && rec.pid == getpid()) {
        store_header->flags &= ~(uint32_t)PA_RAW_EXECED;
    }
}

__attribute__((constructor)) static void load(int argc, char **argv, char **environment)
{
    (void)argc;
    (void)argv;
    (void)interpose_enter();
    exec_hide(environment);
}

static void at_the_end(void *unused)
{
    (void)unused;
    rec_final(PA_RAW_FINISHED);
}

/* Of the C++ ABI; the last argument names the library whose end may run the function early. */
extern int __cxa_atexit(void (*)(void *), void *, void *);

/* The destructors of most libraries come after this one, and bring in pages.  What exit() is told
 * while it runs destructors, it does after the last of them; that takes no memory, for the places of
 * what it has done are free. */
__attribute__((destructor)) static void unload(void)
{
    if (__cxa_atexit(at_the_end, NULL, NULL) != 0) {
        rec_final(PA_RAW_FINISHED);
    }
}
