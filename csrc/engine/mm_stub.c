#include "mm.h"
pa_status pa_mm_touch_anon(pa_mm *mm, uint64_t v, uint64_t c, bool w, uint64_t *d)
{
    (void)mm;
    (void)v;
    (void)w;
    *d = c;
    return PA_OK;
}
bool pa_mm_is_hot(const pa_mm *mm, uint64_t v)
{
    (void)mm;
    (void)v;
    return false;
}
void pa_mm_discard(pa_mm *mm, uint64_t v, uint64_t c)
{
    (void)mm;
    (void)v;
    (void)c;
}
void pa_mm_unmap(pa_mm *mm, uint64_t v, uint64_t c, uint64_t f, uint64_t g)
{
    (void)mm;
    (void)v;
    (void)c;
    (void)f;
    (void)g;
}
