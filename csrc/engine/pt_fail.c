/* SPDX-License-Identifier: MIT
 *
 * pt_fail.c -- the library's last words.
 */
#include "pt.h"

#include <stdio.h>

const char pt_fault[] = "";

/* The library aborts: its message in the words of its time; without one, a plain fault.  Up to 2.26
 * M_CHECK_ACTION says: bit 0, whether there is a message; bit 1, whether it aborts; bit 2, whether
 * the message is bare. */
bool pt_fail(pt *h, const char *text, uint64_t address)
{
    static const char *const words[] = {
        [WORDS_DETECTED] = "*** glibc detected *** %s: %s: 0x%0*llx ***",
        [WORDS_ERROR_IN] = "*** Error in `%s': %s: 0x%0*llx ***",
    };
    uint32_t action = h->mp.check_action;
    if (!text || text == pt_fault || h->pf->words == WORDS_BARE) {
        heap_abort(&h->base, text == pt_fault ? NULL : text);
        return false;
    }
    if (!(action & 2))
        return false;
    if ((action & 5) != 1) {
        heap_abort(&h->base, action & 1 ? text : "");
        return false;
    }
    snprintf(h->last_words, sizeof h->last_words, words[h->pf->words], h->base.program, text,
             (int)(2 * h->pf->word), (unsigned long long)address);
    heap_abort(&h->base, h->last_words);
    return false;
}
