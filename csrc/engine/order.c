/* SPDX-License-Identifier: MIT
 *
 * order.c -- which call goes where when calls of one kind change places.
 *
 * Workload: the frees of a trace in last-in-first-out order, its allocations grouped by size, each
 * inside windows of it; a million of them, a few hundred times over when a best order is sought.
 *
 * A call may take a place that lies behind its release, the last row that must come before it.  As
 * many calls as places are released before any place, because the trace itself is such an order; so
 * the places can be filled one after the other, each by the released call of the smallest key, and
 * none is left over.
 *
 *     heap[0 .. count): a binary heap of calls by key, then by number
 */
#include "pyalloc/pyalloc.h"

#include <stdlib.h>

typedef struct queue {
    uint32_t *call;
    size_t count;
    const uint64_t *key;
} queue;

static bool goes_before(const queue *q, uint32_t a, uint32_t b)
{
    return q->key[a] < q->key[b] || (q->key[a] == q->key[b] && a < b);
}

static void push(queue *q, uint32_t call)
{
    size_t i = q->count++;
    for (; i && goes_before(q, call, q->call[(i - 1) / 2]); i = (i - 1) / 2)
        q->call[i] = q->call[(i - 1) / 2];
    q->call[i] = call;
}

static uint32_t pop(queue *q)
{
    uint32_t least = q->call[0], last = q->call[--q->count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= q->count)
            break;
        if (child + 1 < q->count && goes_before(q, q->call[child + 1], q->call[child]))
            child++;
        if (!goes_before(q, q->call[child], last))
            break;
        q->call[i] = q->call[child];
        i = child;
    }
    q->call[i] = last;
    return least;
}

int pa_fill_places(size_t count, const uint32_t *group, const uint64_t *place,
                   const uint64_t *release, const uint32_t *by_release, const uint64_t *key,
                   uint32_t *taker)
{
    queue q = {.call = malloc((count + 1) * sizeof *q.call), .key = key};
    int status = q.call ? PA_OK : PA_ERR_HOST_NOMEM;
    size_t next = 0;
    for (size_t i = 0; i < count && status == PA_OK; i++) {
        if (i && group[i] != group[i - 1])
            q.count = 0; /* a group that did not come out even was no legal order */
        while (next < count && group[by_release[next]] == group[i] &&
               release[by_release[next]] <= place[i])
            push(&q, by_release[next++]);
        if (q.count)
            taker[i] = pop(&q);
        else
            status = PA_ERR_INVALID;
    }
    free(q.call);
    return status;
}
