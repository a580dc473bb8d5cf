/*
 * vma_executor.c -- makes the system calls it is told to, and nothing else.
 *
 * Reads seven words from descriptor 0: a call's number and arguments.  Writes two to descriptor 1:
 * the result and, for a touch, the signal that ended it.  It has no library, so that every area
 * but its own text, data and stack stems from a call it was told to make.
 */
#ifdef __x86_64__
enum { READ = 0, WRITE = 1, EXIT = 60, FORK = 57, WAIT = 61, GETPID = 39, SIGACTION = 13 };
enum { SIGALTSTACK = 131, CONTEXT_IP = 168 };

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
enum { READ = 3, WRITE = 4, EXIT = 1, FORK = 2, WAIT = 114, GETPID = 20, SIGACTION = 174 };
enum { SIGALTSTACK = 186, CONTEXT_IP = 76 };

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
extern char after_fault;

static struct {
    unsigned long long number, args[6];
} command;
static struct {
    long long result, signal;
} answer;
static volatile int caught;
static char alternate[16384] __attribute__((aligned(16)));

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
            poke(addr + done * 4096);
        else
            peek(addr + done * 4096);
        if (caught)
            break;
        done++;
    }
    answer.result = (long long)done;
    answer.signal = caught;
}

static void fork_on(void)
{
    long pid = call3(FORK, 0, 0, 0);
    if (pid > 0) {
        call3(WAIT, (unsigned long)pid, 0, 0);
        call3(EXIT, 0, 0, 0);
    }
    answer.result = pid < 0 ? pid : call3(GETPID, 0, 0, 0);
}

static void obey(void)
{
    unsigned long args[6];
    for (int i = 0; i < 6; i++)
        args[i] = (unsigned long)command.args[i];
    answer.signal = 0;
    if (command.number == 10000) {
        touch(args[0], args[1], (int)args[2]);
    } else if (command.number == 10001) {
        fork_on();
    } else {
        unsigned long result = (unsigned long)call((long)command.number, args);
        answer.result = result > -4096UL ? (long long)(long)result : (long long)result;
    }
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
    for (;;) {
        unsigned long got = 0;
        while (got < sizeof command) {
            long n = call3(READ, 0, (unsigned long)&command + got, sizeof command - got);
            if (n <= 0)
                call3(EXIT, 0, 0, 0);
            got += (unsigned long)n;
        }
        obey();
        call3(WRITE, 1, (unsigned long)&answer, sizeof answer);
    }
}
