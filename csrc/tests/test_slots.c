/* SPDX-License-Identifier: MIT
 *
 * test_slots.c -- which slots of swap are given out: order, holes, and the ends of the area.
 */
#include "ram.h"

#include "check.h"

/* With the header 1201 places: clusters of 511, 512 and 177 slots. */
enum { SLOTS = 1200, FIRST_CLUSTER = 511, LAST_CLUSTER = 1023 };

static pa_ram *ram_with(uint32_t rules)
{
    const pa_ram_settings settings = {
        .count_frames = 64, .count_slots = SLOTS, .shape = PA_SHAPE_X86_64, .rules = rules};
    pa_ram *ram = pa_ram_new(&settings);
    CHECK(ram);
    return ram;
}

/* Take up to `want` slots; returns the first, *got how many. */
static uint64_t take(pa_ram *ram, uint64_t want, uint64_t *got)
{
    uint64_t first = UINT64_MAX;
    *got = swap_find(ram, 0, want, &first);
    if (*got)
        swap_use(ram, 0, first, *got);
    CHECK(slots_check(ram));
    return first;
}

static bool takes(pa_ram *ram, uint64_t want, uint64_t first, uint64_t count)
{
    uint64_t got, at = take(ram, want, &got);
    return at == first && got == count;
}

/* The ends of the area are begun clusters from the start, so they come first. */
static void ends_come_first(void)
{
    pa_ram *ram = ram_with(PA_FILLS_HOLES);
    CHECK(takes(ram, 500, 0, 500));
    CHECK(takes(ram, 32, 500, 11));
    CHECK(takes(ram, 300, LAST_CLUSTER, 177));
    CHECK(takes(ram, 1000, FIRST_CLUSTER, 512));
    uint64_t got;
    take(ram, 1, &got);
    CHECK(got == 0);
    pa_ram_drop(ram);
}

/* A hole is filled before a free cluster is begun, but not before the one at hand is full. */
static void holes_come_before_free_clusters(void)
{
    pa_ram *ram = ram_with(PA_FILLS_HOLES);
    CHECK(takes(ram, 100, 0, 100));
    slots_free(ram, 20, 2);
    CHECK(takes(ram, 411, 100, 411));
    CHECK(takes(ram, 8, LAST_CLUSTER, 8)); /* its search of the first cluster was in vain */
    slots_free(ram, 40, 3);
    CHECK(takes(ram, 200, LAST_CLUSTER + 8, 169));
    CHECK(takes(ram, 8, 20, 2));
    CHECK(takes(ram, 8, 40, 3));
    CHECK(takes(ram, 8, FIRST_CLUSTER, 8));
    pa_ram_drop(ram);
}

/* A cluster that is quite free again waits behind those that never had anything. */
static void freed_clusters_come_last(void)
{
    pa_ram *ram = ram_with(PA_FILLS_HOLES);
    CHECK(takes(ram, 511, 0, 511));
    CHECK(takes(ram, 177, LAST_CLUSTER, 177));
    CHECK(takes(ram, 512, FIRST_CLUSTER, 512));
    slots_free(ram, FIRST_CLUSTER, 512);
    CHECK(slots_check(ram));
    slots_free(ram, LAST_CLUSTER, 1);
    CHECK(takes(ram, 8, LAST_CLUSTER, 1));
    CHECK(takes(ram, 512, FIRST_CLUSTER, 512));
    pa_ram_drop(ram);
}

/* Up to 6.12 a run that is quite free is taken before any hole. */
static void older_kernels_begin_free_runs(void)
{
    pa_ram *ram = ram_with(0);
    CHECK(takes(ram, 512, 0, 512));
    slots_free(ram, 7, 1);
    CHECK(takes(ram, 8, 512, 8));
    pa_ram_drop(ram);
}

/* Whatever is taken and freed, in whatever order: no slot twice, and all of them in the end. */
static void anything_goes(uint32_t rules)
{
    pa_ram *ram = ram_with(rules);
    uint8_t taken[SLOTS] = {0};
    uint64_t state = 7, count = 0;
    for (int i = 0; i < 20000; i++) {
        uint64_t got, at = next_random(&state) % SLOTS;
        if (next_random(&state) % 2 && taken[at]) {
            slots_free(ram, at, 1);
            taken[at] = 0;
            count--;
            continue;
        }
        uint64_t first = take(ram, next_random(&state) % 40 + 1, &got);
        CHECK((got == 0) == (count == SLOTS));
        for (uint64_t s = first; s < first + got; s++)
            CHECK(!taken[s]++);
        count += got;
    }
    CHECK(slots_check(ram));
    pa_ram_drop(ram);
}

int main(void)
{
    ends_come_first();
    holes_come_before_free_clusters();
    freed_clusters_come_last();
    older_kernels_begin_free_runs();
    anything_goes(PA_FILLS_HOLES);
    anything_goes(0);
    return 0;
}
