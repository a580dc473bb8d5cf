/* Threads that leave all kinds of free memory in their arenas, and a library that counts it. */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 12, BLOCKS = 3000 };

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t all, done;
static void *blocks[THREADS][BLOCKS];

static size_t next(unsigned *state, size_t below)
{
    *state = *state * 1664525 + 1013904223;
    return (*state >> 8) % below;
}

/* Half of the blocks freed, some of them those of the next thread. */
static void *work(void *number)
{
    size_t me = (size_t)number;
    unsigned state = (unsigned)me + 1;
    pthread_barrier_wait(&all);
    pthread_mutex_lock(&turn);
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = next(&state, 10) ? next(&state, 2000) : next(&state, 60000);
        blocks[me][i] = malloc(size);
        size_t old = next(&state, i + 1), who = next(&state, 7) ? me : (me + 1) % THREADS;
        if (i % 2) {
            free(blocks[who][old]);
            blocks[who][old] = NULL;
        }
    }
    pthread_mutex_unlock(&turn);
    pthread_barrier_wait(&done);
    pause();
    return NULL;
}

int main(void)
{
    static char buffer[1 << 20];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    pthread_t thread;
    pthread_barrier_init(&all, NULL, THREADS);
    pthread_barrier_init(&done, NULL, THREADS + 1);
    free(memset(malloc(1 << 20), 1, 1 << 20)); /* raises the mmap threshold */
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&thread, NULL, work, (void *)i);
    pthread_barrier_wait(&done);
    malloc_info(0, stdout);
    fflush(stdout);
    malloc_stats();
    _exit(0);
}
