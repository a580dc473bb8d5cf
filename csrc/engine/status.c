/* SPDX-License-Identifier: MIT
 *
 * status.c -- one text for each status.
 */
#include "pyalloc/pyalloc.h"

static const char *const texts[] = {
    [PA_OK] = "ok",
    [PA_EXHAUSTED] = "the simulated machine has no free frame",
    [PA_ERR_HOST_NOMEM] = "the host has no memory left for the model",
    [PA_ERR_INVALID] = "an argument is outside its domain",
    [PA_ERR_LIMIT] = "the model is at its own limit",
    [PA_ERR_CORRUPT] = "an invariant of the engine failed",
    [PA_ERR_BUSY] = "the object is in use by another thread",
    [PA_GUARDED] = "an access to a guard page (SIGSEGV)",
};

const char *pa_status_text(int status)
{
    size_t count = sizeof texts / sizeof texts[0];
    return status >= 0 && (size_t)status < count ? texts[status] : "unknown status";
}
