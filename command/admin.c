/* command/admin.c: see command/admin.h. */
#include "command/admin.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "command/dump.h"
#include "command/stats_report.h"
#include "items/debug.h"
#include "items/lru.h"
#include "maint_thread.h"
#include "operator/watch.h"
#include "storage_config.h"

enum { VERBOSITY_MAX = 3 };

/* ---- what changes something ---- */

static enum reply do_flush_all(struct session *s, const struct request *req)
{
    DEBUG_ASSERT(req->verb == VERB_FLUSH_ALL);
    const struct command_env *env = s->w->env;
    stat_inc(s->w->stats, STAT_flush_cmds);
    if (!env->settings->flush_enabled)
        return REPLY_FLUSH_DENIED;
    if (req->deferred_error != REPLY_NONE)
        return req->deferred_error;
    uint32_t when = req->exptime > 0 ? clock_exptime(req->exptime) : 0;
    cache_flush_all(env->cache, when);
    env->settings->oldest_live_sec = (when ? when : clock_now_sec()) - 1;
    return REPLY_OK;
}

static enum reply do_verbosity(struct session *s, const struct request *req)
{
    uint32_t level = req->number > VERBOSITY_MAX ? VERBOSITY_MAX : req->number;
    s->w->env->settings->verbosity = level;
    log_set_level(log_level_of_verbosity((int)level));
    return REPLY_OK;
}

static enum reply do_memlimit(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    if (req->number < 8)
        return REPLY_MEMLIMIT_SMALL;
    if (req->number > 1000000000)
        return REPLY_MEMLIMIT_UNITS;
    if (cache_set_memlimit(env->cache, req->number * MiB) != 0)
        return REPLY_MEMLIMIT_BOUNDS;
    env->settings->maxbytes = req->number * MiB;
    log_info("maxbytes adjusted to %um", req->number);
    return REPLY_OK;
}

static enum command_result do_shutdown(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    if (!env->settings->shutdown_command) {
        session_reply(s, REPLY_SHUTDOWN_DENIED);
        return COMMAND_DONE;
    }
    if (req->deferred_error != REPLY_NONE) {
        session_reply(s, req->deferred_error);
        return COMMAND_DONE;
    }
    env->stop(env->upper, req->token_count == 2);
    return COMMAND_CLOSE;
}

static enum reply automove(struct settings *set, const struct request *req)
{
    DEBUG_ASSERT(req->token_count >= 3);
    double ratio;
    uint32_t number;
    if (proto_token_abbreviates(req, 2, "ratio")) {
        if (!proto_token_double(req, 3, &ratio))
            return REPLY_ERROR;
        set->slab_automove_ratio = ratio;
    } else if (proto_token_abbreviates(req, 2, "freeratio")) {
        if (!proto_token_double(req, 3, &ratio))
            return REPLY_ERROR;
        set->slab_automove_freeratio = ratio;
    } else if (proto_token_abbreviates(req, 2, "window")) {
        if (!proto_token_u32(req, 3, &number))
            return REPLY_BAD_FORMAT;
        if (number < 3 || number > 1800)
            return REPLY_AUTOMOVE_BAD_WINDOW;
        set->slab_automove_window = number;
    } else {
        if (!proto_token_u32(req, 2, &number))
            return REPLY_BAD_FORMAT;
        if (number > 2)
            return REPLY_ERROR;
        set->slab_automove = number;
    }
    return REPLY_OK;
}

static enum reply reassign(struct session *s, const struct request *req)
{
    DEBUG_ASSERT(req->token_count == 4);
    static const enum reply replies[] = {
        [MAINT_REASSIGN_OK] = REPLY_OK,
        [MAINT_REASSIGN_BUSY] = REPLY_REASSIGN_BUSY,
        [MAINT_REASSIGN_BADCLASS] = REPLY_REASSIGN_BAD_CLASS,
        [MAINT_REASSIGN_NOSPARE] = REPLY_REASSIGN_NO_SPARE,
        [MAINT_REASSIGN_SAME] = REPLY_REASSIGN_SAME,
    };
    int32_t src, dst;
    if (!s->w->env->settings->slab_reassign)
        return REPLY_REASSIGN_DISABLED;
    if (!proto_token_i32(req, 2, &src) || !proto_token_i32(req, 3, &dst))
        return REPLY_BAD_FORMAT;
    enum maint_reassign result = maint_slab_reassign(s->w->env->maint, src, dst);
    ASSERT(result < ARRAY_COUNT(replies));
    return replies[result];
}

static enum reply do_slabs(struct session *s, const struct request *req)
{
    if (req->token_count == 4 && proto_token_abbreviates(req, 1, "reassign"))
        return reassign(s, req);
    if (req->token_count >= 3 && proto_token_abbreviates(req, 1, "automove"))
        return automove(s->w->env->settings, req);
    return REPLY_ERROR;
}

static enum reply lru_tune(struct settings *set, const struct request *req)
{
    DEBUG_ASSERT(req->token_count >= 6);
    uint32_t hot, warm;
    double hot_factor, warm_factor;
    if (!proto_token_u32(req, 2, &hot) || !proto_token_u32(req, 3, &warm) ||
        !proto_token_double(req, 4, &hot_factor) || !proto_token_double(req, 5, &warm_factor))
        return REPLY_ERROR;
    if ((uint64_t)hot + warm > 80)
        return REPLY_LRU_BAD_PCT;
    if (hot_factor <= 0 || warm_factor <= 0)
        return REPLY_LRU_BAD_FACTOR;
    set->hot_lru_pct = hot;
    set->warm_lru_pct = warm;
    set->hot_max_factor = hot_factor;
    set->warm_max_factor = warm_factor;
    return REPLY_OK;
}

static enum reply do_lru(struct session *s, const struct request *req)
{
    struct settings *set = s->w->env->settings;
    int32_t ttl;
    if (req->token_count >= 6 && proto_token_abbreviates(req, 1, "tune"))
        return lru_tune(set, req);
    if (req->token_count < 3 || !set->lru_maintainer)
        return REPLY_ERROR;
    if (proto_token_abbreviates(req, 1, "mode")) {
        bool segmented = proto_token_is(req, 2, "segmented");
        if (!segmented && !proto_token_is(req, 2, "flat"))
            return REPLY_ERROR;
        set->lru_segmented = segmented;
        return REPLY_OK;
    }
    if (proto_token_abbreviates(req, 1, "temp_ttl")) {
        if (!proto_token_i32(req, 2, &ttl))
            return REPLY_ERROR;
        set->temp_lru = ttl >= 0;
        if (ttl >= 0)
            set->temporary_ttl = (uint32_t)ttl;
        return REPLY_OK;
    }
    return REPLY_ERROR;
}

/* The reason, in the words that memcached has for a start with such files. */
static void do_refresh_certs(struct session *s, const struct request *req)
{
    lock_assert_none_held(); /* it reads files */
    const struct command_env *env = s->w->env;
    char why[512];
    if (!env->refresh_certs)
        session_answer(s, req, REPLY_ERROR);
    else if (env->refresh_certs(env->upper, why, sizeof(why)) == 0)
        session_answer(s, req, REPLY_OK);
    else if (!req->noreply)
        session_printf(s, "%s\r\n", why);
}

static enum reply do_extstore(struct session *s, const struct request *req)
{
    DEBUG_ASSERT(req->verb == VERB_EXTSTORE);
    struct settings *set = s->w->env->settings;
    const struct {
        const char *word;
        _Atomic(uint32_t) *setting;
    } numbers[] = {
        {"item_size", &set->ext_item_size},
        {"item_age", &set->ext_item_age},
        {"low_ttl", &set->ext_low_ttl},
        {"recache_rate", &set->ext_recache_rate},
        {"compact_under", &set->ext_compact_under},
        {"drop_under", &set->ext_drop_under},
        {"max_sleep", &set->ext_max_sleep},
    };
    uint32_t number, limit;
    double real;
    if (req->token_count < 3)
        return REPLY_ERROR;
    if (req->token_count > 3 && proto_token_abbreviates(req, 1, "free_memchunks")) /* long dead, still accepted */
        return proto_token_u32(req, 2, &number) && proto_token_u32(req, 3, &limit) && number < SLAB_CLASS_MAX
                   ? REPLY_OK
                   : REPLY_ERROR;
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        if (!proto_token_abbreviates(req, 1, numbers[i].word))
            continue;
        if (!proto_token_u32(req, 2, &number))
            return REPLY_ERROR;
        *numbers[i].setting = number;
        return REPLY_OK;
    }
    if (proto_token_abbreviates(req, 1, "max_frag") && proto_token_double(req, 2, &real))
        set->ext_max_frag = real;
    else if (proto_token_abbreviates(req, 1, "drop_unread") && proto_token_u32(req, 2, &number))
        set->ext_drop_unread = number != 0;
    else
        return REPLY_ERROR;
    return REPLY_OK;
}

/* REPLY_NONE: the log may take the socket. */
static enum reply do_watch(struct session *s, const struct request *req)
{
    static const char *const words[] = {
        WATCH_STREAM_TABLE(ROW_TEXT)
    };
    uint32_t streams = req->token_count > 1 ? 0 : 1u << WATCH_FETCHERS;
    if (!s->w->env->settings->watch_enabled)
        return REPLY_WATCH_DENIED;
    if (!reply_is_empty(&s->out))
        return REPLY_WATCH_PIPELINED;
    for (unsigned i = 1; i < req->token_count; i++) {
        unsigned stream = 0;
        while (stream < WATCH_STREAM_COUNT && !proto_token_abbreviates(req, i, words[stream]))
            stream++;
        if (stream == WATCH_STREAM_COUNT)
            return REPLY_ERROR;
        streams |= 1u << stream;
    }
    DEBUG_ASSERT(streams != 0 && streams < 1u << WATCH_STREAM_COUNT);
    s->handover = streams;
    return REPLY_NONE;
}

/* ---- lru_crawler ---- */

/* "all", "hash" or "1,5,6" as a set of classes; false: there is no such class. */
static bool parse_classes(const struct proto_token *t, bool dump, uint64_t *mask)
{
    DEBUG_ASSERT(t->len > 0);
    const char *p = t->ptr, *end = t->ptr + t->len;
    if ((t->len == 3 && memcmp(p, "all", 3) == 0) ||
        (dump && t->len == 4 && memcmp(p, "hash", 4) == 0)) {
        *mask = UINT64_MAX;
        return true;
    }
    *mask = 0;
    while (p < end) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        size_t len = (size_t)((comma ? comma : end) - p);
        uint32_t cls;
        if (len == 0 || !proto_u32(p, len, &cls) || cls < 1 || cls >= SLAB_CLASS_MAX - 1)
            return false;
        static_assert(SLAB_CLASS_MAX <= 64, "a set of classes is a word");
        *mask |= (uint64_t)1 << cls;
        p += len + (comma ? 1 : 0);
    }
    return *mask != 0;
}

static enum reply crawl(struct session *s, const struct request *req)
{
    DEBUG_ASSERT(req->token_count == 3);
    uint64_t mask;
    if (!s->w->env->settings->lru_crawler)
        return REPLY_CRAWLER_DISABLED;
    if (!parse_classes(&req->tokens[2], false, &mask))
        return REPLY_CRAWLER_BAD_CLASS;
    return dump_refusal(crawler_start(s->w->env->crawler, mask, CRAWLER_EXPIRE, NULL));
}

/* metadump, mgdump: REPLY_NONE if it may start. */
static enum reply prepare_dump(struct session *s, const struct request *req, enum crawler_job job)
{
    DEBUG_ASSERT(job == CRAWLER_METADUMP || job == CRAWLER_MGDUMP);
    bool meta = job == CRAWLER_METADUMP;
    if (!s->w->env->settings->lru_crawler)
        return REPLY_CRAWLER_DISABLED;
    if (!s->w->env->settings->dump_enabled)
        return meta ? REPLY_METADUMP_DENIED : REPLY_MGDUMP_DENIED;
    if (!reply_is_empty(&s->out))
        return meta ? REPLY_METADUMP_PIPELINED : REPLY_MGDUMP_PIPELINED;
    if (!parse_classes(&req->tokens[2], true, &s->handover))
        return REPLY_CRAWLER_BAD_CLASS;
    s->dump_job = (uint8_t)job;
    return REPLY_NONE;
}

/* REPLY_NONE: a dump may start. */
static enum reply do_lru_crawler(struct session *s, const struct request *req)
{
    struct settings *set = s->w->env->settings;
    uint32_t number;
    bool one = req->token_count == 2, two = req->token_count == 3; /* words after the command */
    if (two && proto_token_abbreviates(req, 1, "crawl"))
        return crawl(s, req);
    if (two && proto_token_abbreviates(req, 1, "metadump"))
        return prepare_dump(s, req, CRAWLER_METADUMP);
    if (two && proto_token_abbreviates(req, 1, "mgdump"))
        return prepare_dump(s, req, CRAWLER_MGDUMP);
    if (two && proto_token_abbreviates(req, 1, "tocrawl")) {
        if (!proto_token_u32(req, 2, &number))
            return REPLY_BAD_FORMAT;
        set->lru_crawler_tocrawl = number;
    } else if (two && proto_token_abbreviates(req, 1, "sleep")) {
        if (!proto_token_u32(req, 2, &number))
            return REPLY_BAD_FORMAT;
        if (number > 1000000)
            return REPLY_CRAWLER_BAD_SLEEP;
        set->lru_crawler_sleep = number;
    } else if (one && proto_token_abbreviates(req, 1, "enable")) {
        if (set->lru_crawler)
            return REPLY_CRAWLER_START_FAILED;
        set->lru_crawler = true;
    } else if (one && proto_token_abbreviates(req, 1, "disable")) {
        set->lru_crawler = false;
    } else {
        return REPLY_ERROR;
    }
    return REPLY_OK;
}

/* ---- debug commands ---- */

#ifdef EXTANT_DEBUG
static enum reply do_debugtime(struct session *s UNUSED, const struct request *req)
{
    int64_t delta;
    if (proto_token_abbreviates(req, 1, "p"))
        clock_pause();
    else if (proto_token_abbreviates(req, 1, "r"))
        clock_resume();
    else if (proto_token_i64(req, 1, &delta))
        clock_shift(delta);
    else
        return REPLY_ERROR;
    return REPLY_OK;
}

static enum reply do_debugitem(struct session *s, const struct request *req)
{
    static const char *const words[] = {"lock", "unlock", "ref", "unref"};
    if (req->token_count < 3 || req->tokens[2].len > PROTO_KEY_MAX)
        return REPLY_ERROR;
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        if (proto_token_abbreviates(req, 1, words[i]))
            return cache_debug_item(s->w->env->cache, words[i], req->tokens[2].ptr,
                                    (uint8_t)req->tokens[2].len)
                       ? REPLY_OK
                       : REPLY_MISS;
    return REPLY_ERROR;
}

/* Tries what drop_privileges forbids: ERROR if it succeeds. */
static enum reply do_misbehave(struct session *s UNUSED, const struct request *req UNUSED)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return REPLY_OK;
    close(fd);
    return REPLY_ERROR;
}
#endif

/* The cache and the engine see the settings that a command has changed. */
static void apply_settings(const struct session *s)
{
    lock_assert_none_held();
    const struct command_env *env = s->w->env;
    storage_config_apply(env->settings, env->config, env->tunables);
    maint_wake(env->maint);
}

/* Commands with a single reply; whether they change settings, and what follows REPLY_NONE. */
static const struct {
    enum reply (*execute)(struct session *s, const struct request *req);
    bool changes_settings;
    enum command_result without_reply;
} simple[VERB_COUNT] = {
    [VERB_WATCH] = {do_watch, false, COMMAND_WATCH},
    [VERB_FLUSH_ALL] = {do_flush_all, false, COMMAND_DONE},
    [VERB_VERBOSITY] = {do_verbosity, false, COMMAND_DONE},
    [VERB_CACHE_MEMLIMIT] = {do_memlimit, true, COMMAND_DONE},
    [VERB_SLABS] = {do_slabs, true, COMMAND_DONE},
    [VERB_LRU] = {do_lru, true, COMMAND_DONE},
    [VERB_LRU_CRAWLER] = {do_lru_crawler, true, COMMAND_DUMP},
    [VERB_EXTSTORE] = {do_extstore, true, COMMAND_DONE},
#ifdef EXTANT_DEBUG
    [VERB_DEBUGTIME] = {do_debugtime, false, COMMAND_DONE},
    [VERB_DEBUGITEM] = {do_debugitem, false, COMMAND_DONE},
    [VERB_MISBEHAVE] = {do_misbehave, false, COMMAND_DONE},
#endif
};

enum command_result command_admin(struct session *s, struct request *req)
{
    DEBUG_ASSERT(s->parked == 0 && verb_info(req->verb)->verb_class == CLASS_ADMIN);
    switch (req->verb) {
    case VERB_STATS:
        report_answer(s, req);
        return COMMAND_DONE;
    case VERB_SHUTDOWN:
        return do_shutdown(s, req);
    case VERB_REFRESH_CERTS:
        do_refresh_certs(s, req);
        return COMMAND_DONE;
    default:
        break;
    }
    ASSERT(simple[req->verb].execute);
    enum reply reply = simple[req->verb].execute(s, req);
    if (reply == REPLY_NONE)
        return simple[req->verb].without_reply;
    if (simple[req->verb].changes_settings)
        apply_settings(s);
    session_answer(s, req, reply);
    return COMMAND_DONE;
}
