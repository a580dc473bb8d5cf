/* A worker whose memory does not come down after its work: each job fills the heap with buffers and
 * then writes a note about it, which is kept.
 *
 *     buffers   2 to 20 KB, freed when the job is done
 *     notes     600 bytes: the culprit, for each lies above its job's buffers
 *
 * With the argument "apart" the notes come from a mapping of their own, with "freed" each is freed as
 * soon as it is written.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { JOBS = 60, BUFFERS = 60, MOST = 20000, NOTE = 600 };

static char *pool;

static char *fill(char *block, size_t size)
{
    memset(block, 1, size);
    return block;
}

static char *write_note(void)
{
    if (pool) {
        pool += NOTE;
        return fill(pool - NOTE, NOTE);
    }
    return fill(malloc(NOTE), NOTE);
}

static char *make_buffer(unsigned *seed)
{
    *seed = *seed * 1103515245 + 12345;
    size_t size = 2000 + (*seed >> 16) % (MOST - 2000);
    return fill(malloc(size), size);
}

int main(int argc, char **argv)
{
    static char *note[JOBS], *buffer[JOBS][BUFFERS];
    unsigned seed = 1;
    if (argc > 1 && strcmp(argv[1], "apart") == 0)
        pool = mmap(NULL, JOBS * NOTE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int job = 0; job < JOBS; job++) { /* all jobs at once: the heap is at its largest */
        for (int i = 0; i < BUFFERS; i++)
            buffer[job][i] = make_buffer(&seed);
        note[job] = write_note();
        if (argc > 1 && strcmp(argv[1], "freed") == 0)
            free(note[job]);
    }
    for (int job = 0; job < JOBS; job++)
        for (int i = 0; i < BUFFERS; i++)
            free(buffer[job][i]);
    return note[0] == NULL;
}
