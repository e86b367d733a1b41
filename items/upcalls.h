/* items/upcalls.h: answers the flash engine's questions (struct ext_callbacks). */
#ifndef EXTANT_ITEMS_UPCALLS_H
#define EXTANT_ITEMS_UPCALLS_H

#include "extstore.h"

struct cache;

/* The callbacks to give to ext_create (ctx = the cache). */
struct ext_callbacks cache_ext_callbacks(struct cache *c);

#endif
