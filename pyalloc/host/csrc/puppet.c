/* SPDX-License-Identifier: MIT
 *
 * puppet.c -- a process that makes the system calls it is told to, and nothing else.
 *
 * Reads seven words from descriptor 0: a call's number and its arguments.  Writes two to descriptor
 * 1: the result, and for a touch the signal that ended it.  It has no C library, so every area but
 * its own text, data and stack stems from a call it was told to make; and before the first call it
 * has touched all its own memory, so every later fault does, too.  When it starts, and after a fork,
 * it says where its stack is.
 *
 *     TOUCH addr pages write     access each page once
 *     FORK stay                  the child goes on and the parent waits, or the other way round;
 *                                2: the child outlives its parent
 *     REAP                       kill the children that wait
 *     MOVE fd length at write    read from a file, or write to it, with one call
 */
enum { TOUCH = 10000, FORK = 10001, REAP = 10002, MOVE = 10003 };
enum { PAGE = 4096, MAX_CHILDREN = 64, MAX_PIECES = 128 };
enum { DEEPEST = 2048 }; /* no other frame ends further below than settle()'s */

#ifdef __x86_64__
enum { READ = 0, WRITE = 1, EXIT = 60, NEW = 57, WAIT = 61, GETPID = 39, SIGACTION = 13 };
enum { SIGALTSTACK = 131, PAUSE = 34, KILL = 62, PRCTL = 157, CONTEXT_IP = 168 };
enum { GETPPID = 110, CLOSE = 3, PREADV = 295, PWRITEV = 296 };

static long call(long n, const unsigned long *a)
{
    long result;
    register unsigned long r10 __asm__("r10") = a[3];
    register unsigned long r8 __asm__("r8") = a[4];
    register unsigned long r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

__asm__(".text\n"
        "poke: movb $1,(%rdi)\n ret\n"
        "peek: movb (%rdi),%al\n ret\n"
        "after_fault: ret\n"
        "restorer: mov $15,%eax\n syscall\n");
#else
enum { READ = 3, WRITE = 4, EXIT = 1, NEW = 2, WAIT = 114, GETPID = 20, SIGACTION = 174 };
enum { SIGALTSTACK = 186, PAUSE = 29, KILL = 37, PRCTL = 172, CONTEXT_IP = 76 };
enum { GETPPID = 64, CLOSE = 6, PREADV = 333, PWRITEV = 334 };

unsigned long words[6];

static long call(long n, const unsigned long *a)
{
    long result;
    for (int i = 0; i < 6; i++)
        words[i] = a[i];
    __asm__ volatile("push %%ebp\n push %%ebx\n push %%esi\n push %%edi\n"
                     "movl words+0,%%ebx\n movl words+4,%%ecx\n movl words+8,%%edx\n"
                     "movl words+12,%%esi\n movl words+16,%%edi\n movl words+20,%%ebp\n"
                     "int $0x80\n"
                     "pop %%edi\n pop %%esi\n pop %%ebx\n pop %%ebp"
                     : "=a"(result)
                     : "a"(n)
                     : "ecx", "edx", "memory");
    return result;
}

__asm__(".text\n"
        "poke: movl 4(%esp),%eax\n movb $1,(%eax)\n ret\n"
        "peek: movl 4(%esp),%eax\n movb (%eax),%al\n ret\n"
        "after_fault: ret\n"
        "restorer: mov $173,%eax\n int $0x80\n");
#endif

void poke(unsigned long);
void peek(unsigned long);
void restorer(void);
extern char after_fault, __executable_start, __bss_start, _end;

static struct {
    unsigned long long number, args[6];
} command;
static struct {
    long long result, signal;
} answer;
static volatile int caught;
static long children[MAX_CHILDREN];
static int count_children;
static char alternate[32768] __attribute__((aligned(16)));

static long call3(long n, unsigned long a, unsigned long b, unsigned long c)
{
    unsigned long args[6] = {a, b, c, 0, 0, 0};
    return call(n, args);
}

static void on_fault(int number, void *info, char *context)
{
    (void)info;
    caught = number;
    *(unsigned long *)(context + CONTEXT_IP) = (unsigned long)&after_fault;
}

static struct {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask[2];
} action;
static struct {
    void *start;
    int flags;
    unsigned long size;
} stack;

static void touch(unsigned long addr, unsigned long count, int write)
{
    caught = 0;
    unsigned long done = 0;
    while (done < count) {
        if (write)
            poke(addr + done * PAGE);
        else
            peek(addr + done * PAGE);
        if (caught)
            break;
        done++;
    }
    answer.result = (long long)done;
    answer.signal = caught;
}

/* Its own memory, text first: whoever knows the areas can do the same to a model. */
__attribute__((noinline)) static void settle(void)
{
    for (const char *at = &__executable_start; at < &__bss_start; at += PAGE)
        (void)*(volatile const char *)at;
    for (char *at = &__bss_start; at < &_end; at += PAGE)
        *(volatile char *)at = *(volatile char *)at;
    volatile char frame[DEEPEST];
    frame[0] = frame[DEEPEST - 1] = 0;
    answer.signal = (long long)(unsigned long)&frame[DEEPEST - 1];
}

/* All of it goes through one page of its own: what is moved does not matter. */
static void move(unsigned long fd, unsigned long length, unsigned long at, int write)
{
    static char page[PAGE];
    static struct {
        void *start;
        unsigned long size;
    } pieces[MAX_PIECES];
    unsigned long count = 0;
    for (; length && count < MAX_PIECES; count++) {
        pieces[count].start = page;
        pieces[count].size = length < PAGE ? length : PAGE;
        length -= pieces[count].size;
    }
    unsigned long args[6] = {fd, (unsigned long)pieces, count, at, 0, 0};
    answer.result = call(write ? PWRITEV : PREADV, args);
}

/* Until the parent, who is called `parent`, kills it, or dies unless it is to outlive that. */
static void sleep_on(long parent, int outlive)
{
    call3(PRCTL, 1, outlive ? 0 : 9, 0); /* PR_SET_PDEATHSIG, SIGKILL */
    if (call3(GETPPID, 0, 0, 0) != parent)
        call3(EXIT, 0, 0, 0);
    for (unsigned long fd = 0; fd < 3; fd++)
        call3(CLOSE, fd, 0, 0);
    for (;;)
        call3(PAUSE, 0, 0, 0);
}

/* End the children that sleep, and wait until their memory is gone. */
static void reap(void)
{
    answer.result = count_children;
    while (count_children) {
        unsigned long pid = (unsigned long)children[--count_children % MAX_CHILDREN];
        call3(KILL, pid, 9, 0);
        call3(WAIT, pid, 0, 0);
    }
}

static void end(void)
{
    reap();
    call3(EXIT, 0, 0, 0);
}

static void fork_on(int stay)
{
    long own = call3(GETPID, 0, 0, 0), pid = call3(NEW, 0, 0, 0);
    if (!pid && stay)
        sleep_on(own, stay > 1);
    if (pid > 0 && !stay) {
        call3(WAIT, (unsigned long)pid, 0, 0);
        end();
    }
    if (!pid)
        count_children = 0;
    if (pid > 0)
        children[count_children++ % MAX_CHILDREN] = pid;
    settle();
    answer.result = pid ? pid : call3(GETPID, 0, 0, 0);
}

static void obey(void)
{
    unsigned long args[6];
    for (int i = 0; i < 6; i++)
        args[i] = (unsigned long)command.args[i];
    answer.signal = 0;
    if (command.number == TOUCH)
        touch(args[0], args[1], (int)args[2]);
    else if (command.number == FORK)
        fork_on((int)args[0]);
    else if (command.number == REAP)
        reap();
    else if (command.number == MOVE)
        move(args[0], args[1], args[2], (int)args[3]);
    else
        answer.result = call((long)command.number, args);
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
    stack.start = alternate;
    stack.size = sizeof alternate;
    call3(SIGALTSTACK, (unsigned long)&stack, 0, 0);
    action.handler = (void *)on_fault;
    action.flags = 0x04000000 | 0x08000000 | 0x40000000 | 4; /* restorer, stack, nodefer, info */
    action.restorer = (void *)restorer;
    for (unsigned long number = 7; number <= 11; number += 4) { /* SIGBUS, SIGSEGV */
        unsigned long args[6] = {number, (unsigned long)&action, 0, 8, 0, 0};
        call(SIGACTION, args);
    }
    settle();
    answer.result = call3(GETPID, 0, 0, 0);
    for (;;) {
        call3(WRITE, 1, (unsigned long)&answer, sizeof answer);
        unsigned long got = 0;
        while (got < sizeof command) {
            long n = call3(READ, 0, (unsigned long)&command + got, sizeof command - got);
            if (n <= 0)
                end();
            got += (unsigned long)n;
        }
        obey();
    }
}
