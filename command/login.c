/* command/login.c: see command/login.h. */
#include "command/login.h"

#include <strings.h>

enum { PEER_BYTES = 160, MECHANISM_MAX = 32 };

/* Is this a user's name and password? No user has an empty name; it stands for malformed text. */
static bool log_in(struct session *s, const char *user, size_t user_bytes, const char *password,
                   size_t password_bytes)
{
    char peer[PEER_BYTES] = "";
    if (s->peer)
        s->peer(s, peer, sizeof(peer));
    s->authenticated = auth_log_in(s->w->env->auth, peer, user, user_bytes, password, password_bytes);
    return s->authenticated;
}

static void count(struct session *s, bool good)
{
    DEBUG_ASSERT(good == s->authenticated);
    stat_inc(s->w->stats, STAT_auth_cmds);
    if (!good)
        stat_inc(s->w->stats, STAT_auth_errors);
}

void command_authenticate(struct session *s, const char *value, size_t bytes, bool good_end)
{
    DEBUG_ASSERT(!s->authenticated && !s->is_binary);
    if (!good_end) {
        session_reply(s, REPLY_AUTH_BAD_END);
        return;
    }
    const char *space = memchr(value, ' ', bytes);
    if (!space) {
        session_reply(s, REPLY_AUTH_BAD_FORMAT);
        return;
    }
    size_t user_bytes = (size_t)(space - value);
    bool good = log_in(s, value, user_bytes, space + 1, bytes - user_bytes - 1);
    count(s, good);
    session_reply(s, good ? REPLY_STORED : REPLY_AUTH_FAILED);
}

/* PLAIN (RFC 4616): identity to act as, NUL, name, NUL, password. Nobody may act as another. */
static bool plain(struct session *s, const char *text, size_t bytes)
{
    DEBUG_ASSERT(bytes <= PROTO_AUTH_MAX);
    const char *end = text + bytes;
    const char *user = memchr(text, '\0', bytes);
    size_t for_bytes = user ? (size_t)(user - text) : 0;
    const char *password = user ? memchr(user + 1, '\0', (size_t)(end - user - 1)) : NULL;
    if (!password || memchr(password + 1, '\0', (size_t)(end - password - 1)))
        return log_in(s, "", 0, "", 0);
    user++;
    password++;
    DEBUG_ASSERT(text < user && user < password && password <= end);
    size_t user_bytes = (size_t)(password - 1 - user);
    if (for_bytes > 0 && (for_bytes != user_bytes || memcmp(text, user, user_bytes) != 0))
        return log_in(s, "", 0, "", 0);
    return log_in(s, user, user_bytes, password, (size_t)(end - password));
}

static bool is_plain(const struct request *req)
{
    static const char name[] = "PLAIN";
    return req->key_len == sizeof(name) - 1 && strncasecmp(req->key, name, req->key_len) == 0;
}

void command_sasl(struct session *s, const struct request *req)
{
    if (!s->w->env->settings->auth_sasl) {
        session_answer(s, req, REPLY_UNKNOWN_COMMAND);
        return;
    }
    s->authenticated = s->authenticated && req->key_len > MECHANISM_MAX;
    s->swallow_bytes = req->swallow_bytes;
    if (req->verb == VERB_SASL_MECHS) {
        session_answer(s, req, REPLY_SASL_MECHS);
        return;
    }
    if (req->key_len > MECHANISM_MAX) {
        session_answer(s, req, REPLY_BAD_ARGUMENTS);
        return;
    }
    bool first = req->verb == VERB_SASL_AUTH, is_whole = req->token_count > 0;
    const struct proto_token *text = &req->tokens[0];
    if (first && is_plain(req) && is_whole && text->len == 0) { /* the text comes with the next step */
        s->sasl_started = true;
        session_answer(s, req, REPLY_SASL_CONTINUE);
        return;
    }
    bool may = is_whole && (first ? is_plain(req) : s->sasl_started);
    bool good = may ? plain(s, text->ptr, text->len) : log_in(s, "", 0, "", 0);
    s->sasl_started = first ? good : s->sasl_started;
    count(s, good);
    session_answer(s, req, good ? REPLY_SASL_DONE : REPLY_AUTH_FAILED);
}
