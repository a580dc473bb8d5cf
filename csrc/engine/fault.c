/* SPDX-License-Identifier: MIT
 *
 * fault.c -- faults of private memory.
 *
 * Model of mm/memory.c.  Data is not simulated, only where each page is, so a copy on write is a
 * new frame and nothing more.  A function that may need a frame may reclaim, and reclaim may change
 * any entry, so an entry is read again after a frame was taken.
 */
#include "ram.h"

#include <string.h>

/* ---- a page of its own ------------------------------------------------------------------------ */

uint64_t fault_new_owner(const pa_mm *mm, uint64_t vpn)
{
    uint64_t active = mm->ram->settings.rules & PA_NEW_ANON_ACTIVE ? OWNER_ACTIVE : 0;
    return owner_of(KIND_ANON, mm->group, mm->number, vpn) | active;
}

/* Written for the first time: `want` empty entries from pte on; returns how many were filled. */
static uint64_t fill_anon(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint64_t want)
{
    pa_ram *ram = mm->ram;
    uint64_t first, got = ram_take(ram, mm->group, want, &first);
    if (!got)
        return 0;
    for (uint64_t i = 0; i < got; i++)
        pte[i] = (first + i) << PTE_SHIFT | PTE_WRITTEN;
    ram_put_anon_run(ram, first, got, fault_new_owner(mm, vpn));
    mm->anon += got;
    mm_publish_each(mm);
    mm->minor_faults += got;
    ram->events.faults += got;
    ram->groups[mm->group].faults += got;
    ram_work(ram, ram->settings.costs.fault + ram->settings.costs.clear, got);
    if (mm->zeros)
        memset(&ram->state[first], STATE_ZEROS, got);
    else
        mm_set_hot(mm, vpn, got);
    return got;
}

/* Count a fault for the machine, and for the process: `told` is major there. */
static void count(pa_mm *mm, bool major, bool told)
{
    *(told ? &mm->major_faults : &mm->minor_faults) += 1;
    ram_work(mm->ram, mm->ram->settings.costs.fault, 1);
    mm->ram->events.faults++;
    mm->ram->events.major_faults += major;
    mm->ram->groups[mm->group].faults++;
    mm->ram->groups[mm->group].major_faults += major;
}

void fault_count(pa_mm *mm, bool major)
{
    count(mm, major, major);
}

void fault_count_waited(pa_mm *mm, bool major, bool again)
{
    count(mm, major, (major && !mm->populates) || (again && mm->tries));
}

/* A frame of its own instead of what the entry has (zero page, or a page shared with others); the
 * fault is the caller's to count.  PA_OK with the entry unchanged: try again. */
static pa_status copy_on_write(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    uint64_t f, was = *pte;
    if (!ram_take(mm->ram, mm->group, 1, &f))
        return PA_EXHAUSTED;
    if (*pte != was) { /* reclaim took the page away: start again */
        ram_give(mm->ram, (uint32_t)f, 1, mm->group);
        return PA_OK;
    }
    uint64_t locked = was & PTE_LOCKED;
    const pa_costs *costs = &mm->ram->settings.costs;
    ram_work(mm->ram, was & PTE_ZERO ? costs->clear : costs->copy, 1);
    mm_drop_entry(mm, pte);
    mm->locked += locked != 0;
    mm_cool(mm, vpn);
    *pte = f << PTE_SHIFT | PTE_WRITTEN | locked;
    mm->ram->maps[f] = 0;
    ram_put(mm->ram, (uint32_t)f, fault_new_owner(mm, vpn) | (locked ? OWNER_LOCKED : 0));
    mm->anon++;
    mm_publish(mm);
    return PA_OK;
}

/* A write to a present page that is not writable. */
static pa_status fault_write(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    pa_ram *ram = mm->ram;
    if (huge_at(pte))
        return huge_fault_write(mm, vpn, pte);
    if (!pte_is_frame(*pte) || *pte & PTE_FILE || ram->maps[pte_frame(*pte)]) {
        pa_status status = copy_on_write(mm, vpn, pte);
        if (*pte & PTE_WRITE)
            fault_count(mm, false);
        return status;
    }
    *pte = (*pte & ~(uint64_t)PTE_FORKED) | PTE_WRITTEN;
    if (!device_is_writing(&ram->disk, pte_frame(*pte)))
        swap_detach(ram, pte_frame(*pte));
    uint64_t *owner = &ram->frame[pte_frame(*pte)].owner;
    *owner = owner_moved(*owner, mm->number, vpn); /* the one it was made for may be gone */
    fault_count(mm, false);
    return PA_OK;
}

/* The page comes back from swap. */
static pa_status fault_swap(pa_mm *mm, uint64_t vpn, uint64_t *pte, bool write)
{
    pa_ram *ram = mm->ram;
    bool major;
    uint64_t slot = *pte >> PTE_SHIFT, locked = *pte & PTE_LOCKED;
    uint32_t f = swap_read(ram, mm->group, mm, vpn, slot, &major);
    if (f == NO_FRAME)
        return PA_EXHAUSTED;
    uint64_t owner = ram->frame[f].owner;
    if (write && major)
        batch_drain(ram); /* to see whether anybody else uses the page */
    if (owner_kind(owner) == KIND_SLOT) {
        ram->maps[f] = 0;
        ram_rename(ram, f,
                   owner_of(KIND_ANON, owner_group(owner), mm->number, vpn) |
                       (owner & (OWNER_ACTIVE | OWNER_REFERENCED)) | (locked ? OWNER_LOCKED : 0));
    } else {
        ram->maps[f]++;
    }
    bool alone = ram->slot_refs[slot] == 1 && !ram->maps[f];
    bool writable = alone && (write || ram->settings.rules & PA_EXCLUSIVE);
    *pte = (uint64_t)f << PTE_SHIFT | PTE_PRESENT | PTE_ACCESSED | locked |
           (alone ? 0 : PTE_FORKED) | (writable ? PTE_WRITE : 0) | (write && alone ? PTE_DIRTY : 0);
    mm->swap--;
    mm->anon++;
    mm_publish(mm);
    swap_drop_ref(ram, slot);
    bool free_slot = (write && !migrate_has_left(ram, f)) || swap_is_full(ram, mm->group);
    if (!ram->slot_refs[slot] && free_slot && !device_is_writing(&ram->disk, f)) {
        swap_detach(ram, f);
        *pte |= PTE_DIRTY; /* the frame is the only copy now */
    }
    if (ram_is_zero_page(ram, f))
        fault_count(mm, major);
    else
        fault_count_waited(mm, major, false);
    return write && !alone ? copy_on_write(mm, vpn, pte) : PA_OK;
}

static void map_zero(pa_mm *mm, uint64_t *pte)
{
    *pte = PTE_PRESENT | PTE_ZERO | PTE_ACCESSED;
    if (mm->ram->settings.rules & PA_ZERO_IS_FILE)
        mm->file++;
    fault_count(mm, false);
}

static uint64_t empty_run(const uint64_t *pte, uint64_t count)
{
    uint64_t n = 0;
    while (n + 4 <= count && !(pte[n] | pte[n + 1] | pte[n + 2] | pte[n + 3]))
        n += 4;
    while (n < count && !pte[n])
        n++;
    return n;
}

/* Of `count` pages, how many there may be frames for at once: no need to look at more entries. */
static uint64_t likely(const pa_mm *mm, uint64_t count)
{
    uint64_t room = ram_room(mm->ram, mm->group);
    room = room > RECLAIM_BATCH ? room : RECLAIM_BATCH;
    return count < room ? count : room;
}

/* One fault, or one run of first writes; *n pages are done. */
pa_status fault_anon(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint64_t count, bool write,
                     uint64_t *n)
{
    *n = 0;
    if (*pte & PTE_GUARD)
        return PA_GUARDED;
    if (!*pte && write) {
        *n = fill_anon(mm, vpn, pte, empty_run(pte, likely(mm, count)));
        return *n ? PA_OK : PA_EXHAUSTED;
    }
    if (!*pte)
        map_zero(mm, pte);
    else if (*pte & PTE_SWAP)
        return fault_swap(mm, vpn, pte, write);
    else
        return fault_write(mm, vpn, pte);
    return PA_OK;
}

/* A page of zeros that data is written to is one no more. */
static void note_data(const pa_mm *mm, uint64_t pte)
{
    if (!mm->zeros && pte_is_frame(pte))
        mm->ram->state[pte_frame(pte)] &= (uint8_t)~STATE_ZEROS;
}

pa_status fault_touch(pa_mm *mm, uint64_t vpn, uint64_t count, bool write, uint64_t *done)
{
    uint64_t size = pt_table_leaf_size(&mm->table);
    while (*done < count) {
        pa_status status = PA_OK;
        uint64_t at = vpn + *done, offset = at & (size - 1);
        uint64_t *leaf = mm_leaf_for(mm, at, &status);
        if (!leaf)
            return status;
        uint64_t n = size - offset < count - *done ? size - offset : count - *done;
        for (uint64_t i = 0; i < n;) {
            uint64_t here = 0, entered = mm->ram->disk.now;
            uint64_t *pte = &leaf[offset + i];
            if (fault_is_spared(mm, at + i, pte, write))
                here = 1;
            else if ((status = fault_anon(mm, at + i, pte, n - i, write, &here)) != PA_OK)
                return status;
            if (write && mm->ram->has_zeros && here == 1)
                note_data(mm, *pte);
            mm_return(mm, entered);
            i += here;
            *done += here;
        }
    }
    return PA_OK;
}

int pa_mm_touch_anon(pa_mm *mm, uint64_t vpn, uint64_t count, bool write, uint64_t *done)
{
    *done = 0;
    if (count == 1 && write && mm_is_hot(mm, vpn)) {
        *done = 1;
        return PA_OK;
    }
    if (vpn >= pt_table_end(&mm->table) || count > pt_table_end(&mm->table) - vpn)
        return PA_ERR_INVALID;
    uint64_t since = mm->ram->disk.cpu;
    pa_status status = fault_touch(mm, vpn, count, write, done);
    mm_note_work(mm, since, *done);
    return status;
}
