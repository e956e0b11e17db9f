/* Memory of streams, which is locked where the engine may: the worker never waits for a page. */
#include "engine_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE = 4096, /* or a part of one */
#ifdef __SANITIZE_ADDRESS__ /* which watches over the heap alone */
    OWN_PAGES = 0,
#else
    OWN_PAGES = 1,
#endif
};

void *ce_zeroed(size_t n)
{
    void *p = NULL;
    n = (n + CP_ALIGN - 1) / CP_ALIGN * CP_ALIGN;
    if (posix_memalign(&p, CP_ALIGN, n))
        return NULL;
    memset(p, 0, n);
    return p;
}

/* What is locked has pages of its own, which go back as a whole: in the heap they would stay locked
 * behind what was freed, with all that lies beside it. */
void *ce_room_new(size_t n, int locked)
{
    static _Atomic uint32_t turn;
    if (!locked || !OWN_PAGES)
        return ce_zeroed(n);
    uint8_t *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (mlock(p, n))
        memset(p, 0, n); /* more than may be locked: here at least */
    /* If all began with a page, they would drive each other out of the same lines of the cache. */
    size_t places = (PAGE - 1 - (n - 1) % PAGE) / CP_ALIGN + 1;
    return p + atomic_fetch_add_explicit(&turn, 1, memory_order_relaxed) % places * CP_ALIGN;
}

void ce_room_free(void *p, size_t n, int locked)
{
    if (!locked || !OWN_PAGES)
        free(p);
    else if (p)
        munmap((void *)((uintptr_t)p & ~(uintptr_t)(PAGE - 1)), n);
}
