/* SPDX-License-Identifier: MIT
 *
 * exec.c -- passing the recorder on, without showing it.
 *
 * A program that copies its environment would allocate more with two more variables in it, so they
 * are taken out before it looks, and put back into the environment of every program it starts.
 * The new environment is built on the stack: a child of vfork() shares the parent's heap.
 */
#include <alloca.h>
#include <dlfcn.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "recorder.h"
#include "text.h"

#define PUBLIC __attribute__((visibility("default")))

extern char **environ;

static struct {
    int (*execve)(const char *, char *const[], char *const[]);
    int (*execvpe)(const char *, char *const[], char *const[]);
    int (*fexecve)(int, char *const[], char *const[]);
    int (*execveat)(int, const char *, char *const[], char *const[], int);
    int (*posix_spawn)(pid_t *, const char *, const posix_spawn_file_actions_t *,
                       const posix_spawnattr_t *, char *const[], char *const[]);
    int (*posix_spawnp)(pid_t *, const char *, const posix_spawn_file_actions_t *,
                        const posix_spawnattr_t *, char *const[], char *const[]);
    int (*system)(const char *);
    FILE *(*popen)(const char *, const char *);
} real;

void exec_resolve(void)
{
#define RESOLVE(name) *(void **)&real.name = dlsym(RTLD_NEXT, #name)
    RESOLVE(execve);
    RESOLVE(execvpe);
    RESOLVE(fexecve);
    RESOLVE(execveat);
    RESOLVE(posix_spawn);
    RESOLVE(posix_spawnp);
    RESOLVE(system);
    RESOLVE(popen);
#undef RESOLVE
}

/* --- hiding */

static bool is_named(const char *entry, const char *name)
{
    return text_value(entry, name) != NULL;
}

/* Take our library out of "LD_PRELOAD=ours:theirs"; true: nothing is left of it. */
static bool preload_is_ours(char *entry)
{
    char *value = text_value(entry, "LD_PRELOAD");
    if (!text_begins(value, store_library())) {
        return false;
    }
    const char *rest = value + text_length(store_library());
    while (text_is_border(*rest)) {
        rest++;
    }
    if (*rest == '\0') {
        return true;
    }
    (void)text_copy(value, rest);
    return false;
}

static bool is_ours(char *entry)
{
    return is_named(entry, "PYALLOC_SPOOL") ||
           (is_named(entry, "LD_PRELOAD") && preload_is_ours(entry));
}

/* The array moves up over what is taken out: the kernel's auxiliary vector follows its end, and
 * some programs look for it there. */
void exec_hide(char **environment)
{
    if (store_library()[0] == '\0' || environ == NULL || environment == NULL) {
        return;
    }
    size_t count = 0;
    while (environment[count] != NULL) {
        count++;
    }
    size_t to = count;
    for (size_t from = count; from-- > 0;) {
        if (!is_ours(environment[from])) {
            environment[--to] = environment[from];
        }
    }
    for (size_t i = 0; i < to; i++) {
        environment[i] = environment[count > to ? to : 0];
    }
    if (environ == environment) {
        environ = environment + to;
    }
}

/* --- putting back */

/* A program that outlives the recording finds no place for more. */
static bool must_pass_on(void)
{
    return store_library()[0] != '\0' && store_follows_children() && store_is_there();
}

static size_t count_of(char *const *list)
{
    size_t n = 0;
    while (list != NULL && list[n] != NULL) {
        n++;
    }
    return n;
}

static const char *preload_of(char *const *environment)
{
    for (size_t i = 0; environment != NULL && environment[i] != NULL; i++) {
        const char *value = text_value(environment[i], "LD_PRELOAD");
        if (value != NULL) {
            return value;
        }
    }
    return "";
}

#define SPOOL_ROOM (sizeof "PYALLOC_SPOOL=+" + text_length(store_directory()))
#define PRELOAD_ROOM(environment)                                                                  \
    (sizeof "LD_PRELOAD=:" + text_length(store_library()) + text_length(preload_of(environment)))

/* Fill `out` (count_of(environment) + 3 entries) and the texts of two variables. */
static char **augment(char *const *environment, char **out, char *spool, char *preload)
{
    size_t n = 0;
    const char *users = preload_of(environment);
    for (size_t i = 0; environment != NULL && environment[i] != NULL; i++) {
        if (!is_named(environment[i], "LD_PRELOAD") && !is_named(environment[i], "PYALLOC_SPOOL")) {
            out[n++] = environment[i];
        }
    }
    (void)text_copy(text_copy(spool, "PYALLOC_SPOOL=+"), store_directory());
    char *end = text_copy(text_copy(preload, "LD_PRELOAD="), store_library());
    if (users[0] != '\0' && !text_begins(users, store_library())) {
        (void)text_copy(text_copy(end, ":"), users);
    }
    out[n++] = spool;
    out[n++] = preload;
    out[n] = NULL;
    return out;
}

/* Declare `name`: the environment for a program that is about to start. */
#define AUGMENT(name, environment)                                                                 \
    char **name = (char **)(uintptr_t)(environment);                                               \
    if (must_pass_on()) {                                                                          \
        char **room = alloca((count_of(name) + 3) * sizeof(char *));                               \
        char *spool = alloca(SPOOL_ROOM);                                                          \
        char *preload = alloca(PRELOAD_ROOM(name));                                                \
        name = augment(name, room, spool, preload);                                                \
    }

static int after_failed_exec(int result)
{
    rec_reopen();
    return result;
}

static void before_exec(void)
{
    if (real.execve == NULL) {
        exec_resolve();
    }
    rec_final(PA_RAW_EXECED);
}

PUBLIC int execve(const char *path, char *const argv[], char *const envp[])
{
    AUGMENT(augmented, envp)
    before_exec();
    return after_failed_exec(real.execve(path, argv, augmented));
}

PUBLIC int execv(const char *path, char *const argv[])
{
    AUGMENT(augmented, environ)
    before_exec();
    return after_failed_exec(real.execve(path, argv, augmented));
}

PUBLIC int execvpe(const char *file, char *const argv[], char *const envp[])
{
    AUGMENT(augmented, envp)
    before_exec();
    return after_failed_exec(real.execvpe(file, argv, augmented));
}

PUBLIC int execvp(const char *file, char *const argv[])
{
    AUGMENT(augmented, environ)
    before_exec();
    return after_failed_exec(real.execvpe(file, argv, augmented));
}

PUBLIC int fexecve(int file, char *const argv[], char *const envp[])
{
    AUGMENT(augmented, envp)
    before_exec();
    return after_failed_exec(real.fexecve(file, argv, augmented));
}

PUBLIC int execveat(int directory, const char *path, char *const argv[], char *const envp[],
                    int flags)
{
    AUGMENT(augmented, envp)
    before_exec();
    return after_failed_exec(real.execveat(directory, path, argv, augmented, flags));
}

static size_t count_arguments(va_list arguments)
{
    size_t n = 1;
    while (va_arg(arguments, char *) != NULL) {
        n++;
    }
    return n;
}

/* argv[0] is a named parameter; the rest, and the NULL behind it, follow. */
#define COLLECT(argv, first)                                                                       \
    va_list arguments;                                                                             \
    va_start(arguments, first);                                                                    \
    char **argv = alloca((count_arguments(arguments) + 1) * sizeof(char *));                       \
    va_end(arguments);                                                                             \
    va_start(arguments, first);                                                                    \
    argv[0] = (char *)(uintptr_t)(first);                                                          \
    for (size_t i = 1; (argv[i] = va_arg(arguments, char *)) != NULL; i++) {                       \
    }

PUBLIC int execl(const char *path, const char *first, ...)
{
    COLLECT(argv, first)
    va_end(arguments);
    return execv(path, argv);
}

PUBLIC int execlp(const char *file, const char *first, ...)
{
    COLLECT(argv, first)
    va_end(arguments);
    return execvp(file, argv);
}

PUBLIC int execle(const char *path, const char *first, ...)
{
    COLLECT(argv, first)
    char **envp = va_arg(arguments, char **);
    va_end(arguments);
    return execve(path, argv, envp);
}

PUBLIC int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    if (real.posix_spawn == NULL) {
        exec_resolve();
    }
    AUGMENT(augmented, envp)
    return real.posix_spawn(pid, path, actions, attributes, argv, augmented);
}

PUBLIC int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    if (real.posix_spawnp == NULL) {
        exec_resolve();
    }
    AUGMENT(augmented, envp)
    return real.posix_spawnp(pid, file, actions, attributes, argv, augmented);
}

/* These two start a shell with whatever `environ` is. */
PUBLIC int system(const char *command)
{
    if (real.system == NULL) {
        exec_resolve();
    }
    char **saved = environ;
    AUGMENT(augmented, saved)
    environ = augmented;
    int result = real.system(command);
    environ = saved;
    return result;
}

PUBLIC FILE *popen(const char *command, const char *type)
{
    if (real.popen == NULL) {
        exec_resolve();
    }
    char **saved = environ;
    AUGMENT(augmented, saved)
    environ = augmented;
    FILE *result = real.popen(command, type);
    environ = saved;
    return result;
}
