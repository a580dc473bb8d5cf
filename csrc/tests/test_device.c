/* SPDX-License-Identifier: MIT
 *
 * test_device.c -- what is written, when it is written, and who waits for it.
 */
#include "device.h"

#include "check.h"

enum { FRAMES = 4096 };

static const pa_costs costs = {
    .read_latency = 100, .write_latency = 1000, .seek = 5000, .transfer = 10};

static uint64_t count_written(device *d)
{
    uint64_t written = 0, n;
    uint32_t first;
    while ((n = device_take_written(d, &costs, &first)))
        written += n;
    return written;
}

/* Plugged pages leave together, and are written when their time has come, not before. */
static void writes_take_their_time(void)
{
    device d;
    CHECK(device_init(&d, FRAMES));
    for (uint32_t f = 0; f < 20; f++)
        CHECK(device_plug(&d, &costs, f, f, 1));
    CHECK(d.count_requests == 1 && d.begun == 0 && count_written(&d) == 0);
    device_unplug(&d, &costs);
    CHECK(count_written(&d) == 0 && device_is_writing(&d, 7));
    device_work(&d, 20 * 10 + 1000 - 1);
    CHECK(count_written(&d) == 0);
    device_work(&d, 1);
    CHECK(count_written(&d) == 20 && !device_is_writing(&d, 7) && !device_is_busy(&d));
    device_drop(&d, FRAMES);
}

/* Who waits for a write wakes at its end, and a frame that was given up is not reported. */
static void waiting_and_forgetting(void)
{
    device d;
    CHECK(device_init(&d, FRAMES));
    CHECK(!device_wait(&d, &costs));
    CHECK(device_plug(&d, &costs, 1, 100, 1) && device_plug(&d, &costs, 2, 101, 1));
    device_forget(&d, 1, 1);
    CHECK(device_wait(&d, &costs) && d.now == 5000 + 20 + 1000);
    uint32_t first;
    CHECK(device_take_written(&d, &costs, &first) == 1 && first == 2);
    CHECK(device_take_written(&d, &costs, &first) == 0);
    device_drop(&d, FRAMES);
}

/* Frames side by side are one run, and come back as one but for those that were given up. */
static void runs(void)
{
    device d;
    uint32_t first;
    CHECK(device_init(&d, FRAMES));
    d.last_ticket = UINT32_MAX - 5; /* tickets of one run follow each other even here */
    CHECK(device_room(&d, 500) == 254 && device_plug(&d, &costs, 100, 500, 20));
    CHECK(device_room(&d, 520) == 234 && device_room(&d, 521) == 254);
    CHECK(device_plug(&d, &costs, 300, 520, 10) && d.count_requests == 1 && d.count_pages == 30);
    device_forget(&d, 105, 2);
    device_forget(&d, 300, 1);
    CHECK(device_wait(&d, &costs));
    CHECK(device_take_written(&d, &costs, &first) == 5 && first == 100);
    CHECK(device_take_written(&d, &costs, &first) == 13 && first == 107);
    CHECK(device_take_written(&d, &costs, &first) == 9 && first == 301);
    CHECK(device_take_written(&d, &costs, &first) == 0 && !device_is_busy(&d));
    device_drop(&d, FRAMES);
}

/* A read overtakes writes that have not begun, and delays them. */
static void reads_come_first(void)
{
    device d;
    CHECK(device_init(&d, FRAMES));
    for (uint32_t f = 0; f < 600; f++) /* three requests: two are full */
        CHECK(device_plug(&d, &costs, f, f, 1));
    device_unplug(&d, &costs);
    CHECK(d.begun == 1);
    device_read(&d, &costs, 9000, 1);
    CHECK(d.now == 254 * 10 + 5000 + 10 + 100);
    CHECK(count_written(&d) == 254);
    device_drop(&d, FRAMES);
}

/* Whoever holds the plug decides when a long first request leaves. */
static void holding_the_plug(void)
{
    for (int held = 0; held < 2; held++) {
        device d;
        CHECK(device_init(&d, FRAMES));
        if (held) {
            device_hold(&d);
            device_hold_read(&d);
        }
        for (uint32_t f = 0; f < 40; f++)
            CHECK(device_plug(&d, &costs, f, f, 1));
        CHECK(device_plug(&d, &costs, 40, 1000, 1)); /* elsewhere: the first forty leave */
        CHECK(d.plugged == (held ? 41u : 1u));
        device_unplug(&d, &costs);
        CHECK(d.plugged == (held ? 41u : 0u));
        CHECK(device_wait(&d, &costs) && d.plugged == 0);
        device_let_go(&d);
        CHECK(!d.held && !d.reads);
        device_drop(&d, FRAMES);
    }
}

/* A disk that batches tells of a write that is in service when the read after it is done, too. */
static void told_together(void)
{
    pa_costs batches = costs;
    batches.batches = 1;
    for (int together = 0; together < 2; together++) {
        device d;
        CHECK(device_init(&d, FRAMES));
        CHECK(device_plug(&d, &costs, 1, 0, 1));
        device_unplug(&d, &costs);
        uint64_t end = device_fetch(&d, together ? &batches : &costs, 9000, 300);
        CHECK(end == 10 + 5000 + 3000 + 100);
        device_work(&d, 10 + 1000);
        CHECK(count_written(&d) == (together ? 0 : 1));
        device_until(&d, end);
        CHECK(count_written(&d) == (together ? 1 : 0));
        device_drop(&d, FRAMES);
    }
}

/* Two reads overtake the writes that wait; the third waits for a batch of them. */
static void writes_do_not_starve(void)
{
    pa_costs batches = costs;
    batches.batches = 1;
    device d;
    CHECK(device_init(&d, FRAMES));
    for (uint32_t f = 0; f < 20; f++)
        CHECK(device_plug(&d, &costs, f, 100 * f, 1));
    device_unplug(&d, &costs);
    CHECK(d.begun == 1);
    for (uint64_t i = 0; i < 3; i++) {
        CHECK(d.begun == 1);
        device_fetch(&d, &batches, 9000 + 100 * i, 1);
    }
    CHECK(d.begun == 17);
    device_drop(&d, FRAMES);
}

/* What a disk was asked for at once it answers at once; each page then takes its time to be noted. */
static void answers_at_once(void)
{
    device d;
    uint32_t first;
    CHECK(device_init(&d, FRAMES));
    CHECK(device_plug(&d, &costs, 1, 100, 10) && device_plug(&d, &costs, 11, 500, 20));
    device_unplug(&d, &costs);
    device_answer_together(&d, &costs, 3);
    uint64_t answer = 2 * 5000 + 30 * 10 + 1000;
    CHECK(device_wait(&d, &costs) && d.now == answer + 10 * 3);
    CHECK(device_take_written(&d, &costs, &first) == 10 && first == 1);
    CHECK(device_take_written(&d, &costs, &first) == 0);
    CHECK(device_wait(&d, &costs) && d.now == answer + 30 * 3 && count_written(&d) == 20);
    device_drop(&d, FRAMES);
}

/* A copy goes on by itself. */
static void copies(void)
{
    device d, copy;
    CHECK(device_init(&d, FRAMES) && device_init(&copy, FRAMES));
    for (uint32_t f = 0; f < 2000; f++) {
        CHECK(device_plug(&d, &costs, f % FRAMES, f, 1));
        if (f % 100 == 99) {
            device_unplug(&d, &costs);
            device_work(&d, 1000);
            count_written(&d);
        }
    }
    CHECK(device_copy(&copy, &d, FRAMES));
    while (device_wait(&d, &costs))
        count_written(&d);
    CHECK(!device_is_busy(&d) && device_is_busy(&copy));
    while (device_wait(&copy, &costs))
        count_written(&copy);
    CHECK(d.now == copy.now && !device_is_busy(&copy));
    device_drop(&d, FRAMES);
    device_drop(&copy, FRAMES);
}

int main(void)
{
    writes_take_their_time();
    waiting_and_forgetting();
    runs();
    reads_come_first();
    holding_the_plug();
    told_together();
    writes_do_not_starve();
    answers_at_once();
    copies();
    return 0;
}
