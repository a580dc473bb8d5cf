/* SPDX-License-Identifier: MIT
 *
 * sys.h -- file system calls that are not cancellation points.
 *
 * malloc is none, so nothing that happens inside it may be one; libc's open(), read(), ... are.
 * A 32-bit process passes an offset in two words (those of i386; others would align them).
 */
#ifndef PA_SYS_H
#define PA_SYS_H

#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#if UINTPTR_MAX == UINT32_MAX
#define SYS_OFFSET(at) (uint32_t)(at), (uint32_t)((at) >> 32)
#else
#define SYS_OFFSET(at) (at)
#endif

static inline int sys_open(const char *path, int flags)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC | O_LARGEFILE, 0666);
}

static inline void sys_close(int file)
{
    (void)syscall(SYS_close, file);
}

static inline ssize_t sys_read(int file, void *to, size_t size)
{
    return syscall(SYS_read, file, to, size);
}

static inline ssize_t sys_write(int file, const void *from, size_t size)
{
    return syscall(SYS_write, file, from, size);
}

static inline ssize_t sys_pread(int file, void *to, size_t size, uint64_t at)
{
    return syscall(SYS_pread64, file, to, size, SYS_OFFSET(at));
}

static inline ssize_t sys_pwrite(int file, const void *from, size_t size, uint64_t at)
{
    return syscall(SYS_pwrite64, file, from, size, SYS_OFFSET(at));
}

static inline int sys_fallocate(int file, uint64_t from, uint64_t size)
{
    return (int)syscall(SYS_fallocate, file, 0, SYS_OFFSET(from), SYS_OFFSET(size));
}

/* How many processors this process may run on; 0: it cannot be found out. */
static inline uint32_t sys_processors(void)
{
    uint64_t mask[128]; /* 8192 processors */
    long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    uint32_t count = 0;
    for (long i = 0; i < bytes / (long)sizeof mask[0]; i++) {
        for (uint64_t bits = mask[i]; bits != 0; bits &= bits - 1) {
            count++;
        }
    }
    return count;
}

#endif
