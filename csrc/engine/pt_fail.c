/* SPDX-License-Identifier: MIT
 *
 * pt_fail.c -- the library's last words.
 */
#include "pt.h"

#include <stdio.h>

/* The library aborts: its message in the words of its time; without one, a plain fault. */
bool pt_fail(pt *h, const char *text, uint64_t address)
{
    static const char *const words[] = {
        [WORDS_DETECTED] = "*** glibc detected *** %s: %s: 0x%0*llx ***",
        [WORDS_ERROR_IN] = "*** Error in `%s': %s: 0x%0*llx ***",
    };
    if (!text || h->pf->words == WORDS_BARE) {
        heap_abort(&h->base, text);
        return false;
    }
    snprintf(h->last_words, sizeof h->last_words, words[h->pf->words], h->base.program, text,
             (int)(2 * h->pf->word), (unsigned long long)address);
    heap_abort(&h->base, h->last_words);
    return false;
}
