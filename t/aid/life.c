#include "t/aid/life.h"

#include "operator/command_line.h"

enum { WORDS_MAX = 24 };

void life_parse(struct life *l, int argc, char **argv, FILE *out)
{
    memset(l, 0, sizeof(*l));
    int rc = settings_parse(&l->f.settings, argc, argv, out, stderr);
    ASSERT(rc == SETTINGS_GO_ON);
    storage_config_init(&l->f.settings, &l->f.config, &l->f.tunables);
    atomic_store(&l->f.tunables.compact_under_pages, 2);
    atomic_store(&l->f.tunables.drop_under_pages, 2);
    atomic_store(&l->f.tunables.max_frag, 0.8);
}

void life_parse_words(struct life *l, const char *words)
{
    char text[700], *argv[WORDS_MAX + 1] = {NULL}, *at = text;
    int argc = 0;
    int n = snprintf(text, sizeof(text), "extant %s", words);
    ASSERT(n > 0 && n < (int)sizeof(text));
    for (char *word; (word = strsep(&at, " ")) != NULL;) {
        ASSERT(argc < WORDS_MAX);
        if (*word)
            argv[argc++] = word;
    }
    life_parse(l, argc, argv, stdout);
}

int life_begin(struct life *l, unsigned readers, const struct ext_device_ops *ops, char *why, size_t why_bytes)
{
    struct restart_options opt = storage_options(&l->f.settings, &l->f.config, &l->f.tunables, readers);
    opt.flash.device_ops = ops;
    int rc = restart_open(&opt, &l->r, why, why_bytes);
    if (rc != 0) {
        settings_free(&l->f.settings);
        return rc;
    }
    l->f.arena = l->r.arena;
    l->f.slab = l->r.slab;
    l->f.index = l->r.index;
    l->f.cache = l->r.cache;
    l->f.ext = l->r.ext;
    return 0;
}

void life_add_worker(struct life *l)
{
    l->f.worker = cache_worker_create(l->r.cache, &l->f.stats);
    ASSERT(l->f.worker);
}
