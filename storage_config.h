/* storage_config.h: the operator's settings become the storage's own options.
 *
 * The one place that knows both. Storage rooms (base to restart, cache.c, the maintenance thread) see only
 * struct cache_config, struct ext_tunables and the options of restart/restart.h.
 *
 * Threads: storage_options() by one, at start; storage_config_apply() also by workers, for commands that change settings.
 * No locks.
 */
#ifndef EXTANT_STORAGE_CONFIG_H
#define EXTANT_STORAGE_CONFIG_H

#include "operator/settings.h"
#include "restart/restart.h"

/* Fills both at start, before anything reads them. */
void storage_config_init(const struct settings *s, struct cache_config *config, struct ext_tunables *tunables);
/* Copies the settings that change while the server runs. */
void storage_config_apply(const struct settings *s, struct cache_config *config, struct ext_tunables *tunables);
/* The options for restart_open(); texts stay those of s. ring_count: threads that will read flash. */
struct restart_options storage_options(const struct settings *s, struct cache_config *config,
                                       struct ext_tunables *tunables, unsigned ring_count);
/* If flash holds the content of an earlier process, and the operator gave no sizes of pages and write buffers: changes
 * settings and options to the sizes that it was made with, as far as the other settings allow. line[]: for the log, or "".
 * Call it before restart_open(), and again each time that asks for it; reads files. True: something changed. */
bool storage_keep_sizes(struct settings *s, struct restart_options *o, char *line, size_t n);

#endif
