/* A service that leaks: each request forgets one of its strings; a cache fills and stays.
 *
 *     requests  buffers of 1 to 8 KB, freed
 *     cache     500 entries of 400 bytes, filled by and by, then full
 *     leak      120 bytes a request: the culprit
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REQUESTS = 4000, CACHED = 500 };

static char *cache[CACHED];

static char *copy(size_t size)
{
    char *block = malloc(size);
    memset(block, 1, size);
    return block;
}

static char *forget(void)
{
    char *block = malloc(120);
    memset(block, 1, 120);
    return block;
}

static void remember(int request)
{
    int place = request * 7 % CACHED;
    if (!cache[place])
        cache[place] = copy(400);
}

int main(void)
{
    for (int request = 0; request < REQUESTS; request++) {
        char *buffer = copy(1000 + (size_t)request * 37 % 7000);
        remember(request);
        forget();
        if (request % 40 == 0)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        free(buffer);
    }
    return 0;
}
