/* Threads that work on large short-lived buffers, as map tilers and image servers do.
 *
 * The first large block that is freed raises the mmap threshold, so that the threads' buffers come
 * from their arenas; small blocks that live on lie behind them and keep the arenas from shrinking.
 * Barriers make the threads hold their buffers at the same time, in every run alike.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 6, KEPT = 40 };

static pthread_barrier_t together;

static char *filled(size_t size)
{
    char *block = malloc(size);
    memset(block, 1, size);
    return block;
}

static void *work(void *number)
{
    size_t me = (size_t)number;
    char *kept[ROUNDS * KEPT];
    for (int round = 0; round < ROUNDS; round++) {
        size_t size = ((me + (size_t)round) % THREADS + 1) << 20;
        char *buffer = filled(size);
        pthread_barrier_wait(&together); /* all have theirs */
        for (int i = 0; i < KEPT; i++)
            kept[round * KEPT + i] = filled(100 + 10 * (size_t)i);
        free(buffer);
        pthread_barrier_wait(&together); /* none has */
    }
    for (int i = 0; i < ROUNDS * KEPT; i++)
        free(kept[i]);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    pthread_barrier_init(&together, NULL, THREADS);
    free(filled(16 << 20));
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
