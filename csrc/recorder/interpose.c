/* SPDX-License-Identifier: MIT
 *
 * interpose.c -- malloc and its family, as the program sees them.
 *
 * Each function begins a record, calls the next definition of itself and completes the record.
 * Calls that the C library makes to itself inside malloc do not come through here.  Until the next
 * definitions are known (dlsym() may itself allocate) glibc's own names serve.
 *
 * Three kinds of programs pass by: one with a malloc in its own file, which comes before any library
 * (interpose_passed_by() tells); one that asks a library for its malloc by dlsym(); and a library that
 * is opened to be bound to its own dependencies first (RTLD_DEEPBIND), which dlopen() below prevents.
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "recorder.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);

#define PUBLIC __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
    void *(*memalign)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    void *(*valloc)(size_t);
    void *(*pvalloc)(size_t);
    int (*malloc_trim)(size_t);
    int (*mallopt)(int, int);
    void *(*sbrk)(intptr_t);
    int (*brk)(void *);
    void *(*dlopen)(const char *, int);
    void (*exit)(int);
    enum { UNRESOLVED, RESOLVING, RESOLVED } state;
} real = {.malloc = __libc_malloc,
          .calloc = __libc_calloc,
          .realloc = __libc_realloc,
          .free = __libc_free,
          .memalign = __libc_memalign,
          .valloc = __libc_valloc,
          .pvalloc = __libc_pvalloc};

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* ISO C has no conversion from void * to a function pointer; POSIX asks for it. */
#define RESOLVE(name)                                                                              \
    do {                                                                                           \
        *(void **)&found.name = next(#name);                                                       \
    } while (0)

static void resolve(void)
{
    __typeof__(real) found = real;
    real.state = RESOLVING;
    RESOLVE(malloc);
    RESOLVE(calloc);
    RESOLVE(realloc);
    RESOLVE(free);
    RESOLVE(memalign);
    RESOLVE(posix_memalign);
    RESOLVE(aligned_alloc);
    RESOLVE(valloc);
    RESOLVE(pvalloc);
    RESOLVE(malloc_trim);
    RESOLVE(mallopt);
    RESOLVE(sbrk);
    RESOLVE(brk);
    RESOLVE(dlopen);
    *(void **)&found.exit = next("_exit");
    exec_resolve();
    found.state = RESOLVED;
    real = found;
}

static const void *code(void *(*function)(size_t))
{
    return *(const void **)&function;
}

static const char *file_of(const void *function)
{
    Dl_info found;
    return dladdr(function, &found) != 0 && found.dli_fname != NULL ? found.dli_fname : "?";
}

const char *interpose_foreign(void)
{
    return real.malloc == __libc_malloc ? NULL : file_of(code(real.malloc));
}

const char *interpose_passed_by(void)
{
    const void *first = dlsym(RTLD_DEFAULT, "malloc");
    return store_is_own_code(first) ? NULL : file_of(first);
}

bool interpose_enter(void)
{
    if (real.state == UNRESOLVED) {
        resolve();
    }
    return real.state == RESOLVED && (rec_on() || rec_start());
}

static inline bool enter(void)
{
    return rec_on() || interpose_enter();
}

static inline uint64_t address(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

static void finish_pointer(const pa_call *call, const void *pointer)
{
    rec_finish(call, address(pointer));
}

static uint64_t product(size_t n, size_t size)
{
    size_t total;
    return __builtin_mul_overflow(n, size, &total) ? UINT64_MAX : total;
}

PUBLIC void *malloc(size_t size)
{
    if (!enter()) {
        return real.malloc(size);
    }
    pa_call call = rec_begin(REC_MALLOC, size, 0, CALLER);
    void *result = real.malloc(size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC void *calloc(size_t n, size_t size)
{
    if (!enter()) {
        return real.calloc(n, size);
    }
    pa_call call = rec_begin(REC_CALLOC, product(n, size), 0, CALLER);
    void *result = real.calloc(n, size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC void *realloc(void *old, size_t size)
{
    if (!enter()) {
        return real.realloc(old, size);
    }
    pa_call call = rec_begin(REC_REALLOC, size, address(old), CALLER);
    void *result = real.realloc(old, size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC void *reallocarray(void *old, size_t n, size_t size)
{
    size_t total = (size_t)product(n, size);
    if (__builtin_mul_overflow(n, size, &total)) {
        errno = ENOMEM;
        return NULL; /* the library is not asked either */
    }
    if (!enter()) {
        return real.realloc(old, total);
    }
    pa_call call = rec_begin(REC_REALLOC, total, address(old), CALLER);
    void *result = real.realloc(old, total);
    finish_pointer(&call, result);
    return result;
}

static void free_from(void *old, const void *site)
{
    if (!enter()) {
        real.free(old);
        return;
    }
    pa_call call = rec_begin(REC_FREE, 0, address(old), site);
    real.free(old);
    rec_finish(&call, 0);
}

PUBLIC void free(void *old)
{
    free_from(old, CALLER);
}

/* C23; in libraries that have them they are free() under another name. */
PUBLIC void free_sized(void *old, size_t size);
PUBLIC void free_sized(void *old, size_t size)
{
    (void)size;
    free_from(old, CALLER);
}

PUBLIC void free_aligned_sized(void *old, size_t alignment, size_t size);
PUBLIC void free_aligned_sized(void *old, size_t alignment, size_t size)
{
    (void)alignment;
    (void)size;
    free_from(old, CALLER);
}

PUBLIC void *memalign(size_t alignment, size_t size)
{
    if (!enter()) {
        return real.memalign(alignment, size);
    }
    pa_call call = rec_begin(REC_MEMALIGN, size, alignment, CALLER);
    void *result = real.memalign(alignment, size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC int posix_memalign(void **result, size_t alignment, size_t size)
{
    if (!enter()) {
        if (real.posix_memalign == NULL) {
            return ENOMEM; /* inside dlsym(), which does not ask for this */
        }
        return real.posix_memalign(result, alignment, size);
    }
    pa_call call = rec_begin(REC_POSIX_MEMALIGN, size, alignment, CALLER);
    int why = real.posix_memalign(result, alignment, size);
    finish_pointer(&call, why == 0 ? *result : NULL);
    return why;
}

PUBLIC void *aligned_alloc(size_t alignment, size_t size)
{
    if (!enter()) {
        return real.aligned_alloc ? real.aligned_alloc(alignment, size)
                                  : real.memalign(alignment, size);
    }
    pa_call call = rec_begin(REC_ALIGNED_ALLOC, size, alignment, CALLER);
    void *result = real.aligned_alloc(alignment, size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC void *valloc(size_t size)
{
    if (!enter()) {
        return real.valloc(size);
    }
    pa_call call = rec_begin(REC_VALLOC, size, 0, CALLER);
    void *result = real.valloc(size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC void *pvalloc(size_t size)
{
    if (!enter()) {
        return real.pvalloc(size);
    }
    pa_call call = rec_begin(REC_PVALLOC, size, 0, CALLER);
    void *result = real.pvalloc(size);
    finish_pointer(&call, result);
    return result;
}

PUBLIC int malloc_trim(size_t pad)
{
    if (!enter()) {
        return real.malloc_trim(pad);
    }
    pa_call call = rec_begin(REC_MALLOC_TRIM, pad, 0, CALLER);
    int result = real.malloc_trim(pad);
    rec_finish(&call, (uint64_t)result);
    return result;
}

PUBLIC int mallopt(int parameter, int value)
{
    if (!enter()) {
        return real.mallopt(parameter, value);
    }
    pa_call call = rec_begin(REC_MALLOPT, (uint64_t)value, (uint64_t)parameter, CALLER);
    int result = real.mallopt(parameter, value);
    rec_finish(&call, (uint64_t)result);
    return result;
}

PUBLIC void *sbrk(intptr_t increment)
{
    if (!enter() || increment == 0) {
        return real.sbrk(increment);
    }
    pa_call call = rec_begin(REC_SBRK, (uint64_t)increment, 0, CALLER);
    void *result = real.sbrk(increment);
    finish_pointer(&call, result);
    return result;
}

PUBLIC int brk(void *to)
{
    if (!enter()) {
        return real.brk(to);
    }
    intptr_t before = (intptr_t)real.sbrk(0);
    pa_call call = rec_begin(REC_SBRK, (uint64_t)((intptr_t)to - before), 0, CALLER);
    int result = real.brk(to);
    rec_finish(&call, result == 0 ? (uint64_t)before : UINT64_MAX);
    return result;
}

/* A jump, not a call: the library asks for whom it opens a file, and finds him by where it returns. */
PUBLIC void *dlopen(const char *path, int mode)
{
    if (real.state == UNRESOLVED) {
        resolve();
    }
    return real.dlopen(path, mode & ~RTLD_DEEPBIND);
}

/* Neither of these runs destructors. */
PUBLIC void _exit(int status)
{
    if (real.state == UNRESOLVED) {
        resolve();
    }
    rec_final(PA_RAW_FINISHED);
    real.exit(status);
    __builtin_unreachable();
}

PUBLIC void _Exit(int status)
{
    _exit(status);
}
