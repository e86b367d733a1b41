/* net/http.c: see net/http.h. */
#include "net/http.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net/address.h"
#include "net/metrics.h"
#include "net/status.h"

enum { HTTP_HEADER_BYTES_MAX = 8192, HTTP_PATIENCE_SEC = 5, HTTP_TICK_SEC = 10,
       HTTP_RETRY_US = 100000 };
static_assert(HTTP_TICK_SEC < 60, "each minute is noted in time");

struct http {
    /* const once the thread runs */
    struct event_base *base;
    struct evhttp *server;
    struct event *stop_event, *tick;
    int stop_fd;
    pthread_t thread;
    /* atomic */
    _Atomic(const struct command_env *) env; /* NULL: the server is starting */
    /* the thread's */
    struct status_history history;
    struct bufferevent *visitors[HTTP_CONNECTIONS_MAX]; /* one reference each; the oldest is the next to go */
    unsigned next;
};

static void answer(struct evhttp_request *req, int code, const char *type, struct evbuffer *body)
{
    DEBUG_ASSERT(code == HTTP_OK || code == HTTP_NOTFOUND || code == HTTP_SERVUNAVAIL);
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    evhttp_add_header(headers, "Content-Type", type);
    evhttp_add_header(headers, "Cache-Control", "no-store");
    evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
    evhttp_add_header(headers, "Referrer-Policy", "no-referrer");
    evhttp_add_header(headers, "Content-Security-Policy",
                      "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                      "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'");
    evhttp_send_reply(req, code, NULL, body);
}

static void write_health(struct http *h UNUSED, const struct command_env *env UNUSED, struct evbuffer *body)
{
    evbuffer_add_printf(body, "ok\n");
}

static void write_ready(struct http *h UNUSED, const struct command_env *env UNUSED, struct evbuffer *body)
{
    evbuffer_add_printf(body, "ready\n");
}

static void write_metrics(struct http *h UNUSED, const struct command_env *env, struct evbuffer *body)
{
    DEBUG_ASSERT(env); /* needs_env */
    metrics_write(env, body);
}

static void write_status(struct http *h, const struct command_env *env, struct evbuffer *body)
{
    DEBUG_ASSERT(env); /* needs_env */
    status_tick(&h->history, env);
    status_write(env, &h->history, body);
}

static void write_page(struct http *h UNUSED, const struct command_env *env UNUSED, struct evbuffer *body)
{
    status_page(body);
}

#define PLAIN "text/plain; charset=utf-8"

static const struct route {
    const char *path, *type;
    void (*write)(struct http *h, const struct command_env *env, struct evbuffer *body);
    bool needs_env; /* until there is one, the answer is that the server is starting */
} routes[] = {
    {"/", "text/html; charset=utf-8", write_page, false},
    {"/healthz", PLAIN, write_health, false},
    {"/readyz", PLAIN, write_ready, true},
    {"/metrics", "text/plain; version=0.0.4; charset=utf-8", write_metrics, true},
    {"/status.json", "application/json", write_status, true},
};

static void request_came(struct evhttp_request *req, void *arg)
{
    struct http *h = arg;
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));
    const struct command_env *env = atomic_load_explicit(&h->env, memory_order_acquire);
    struct evbuffer *body = evbuffer_new();
    const struct route *route = NULL;
    if (!body) {
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(routes) && !route; i++)
        if (path && strcmp(path, routes[i].path) == 0)
            route = &routes[i];
    if (!route) {
        evbuffer_add_printf(body, "not found: there are / /metrics /healthz /readyz\n");
        answer(req, HTTP_NOTFOUND, PLAIN, body);
    } else if (route->needs_env && !env) {
        evbuffer_add_printf(body, "starting\n");
        answer(req, HTTP_SERVUNAVAIL, PLAIN, body);
    } else {
        route->write(h, env, body);
        answer(req, HTTP_OK, route->type, body);
    }
    evbuffer_free(body);
}

/* ---- no more than HTTP_CONNECTIONS_MAX connections ---- */

/* libevent has let go of it; the descriptor is closed with our reference. */
static bool has_left(struct bufferevent *visitor)
{
    bufferevent_event_cb event_cb;
    bufferevent_getcb(visitor, NULL, NULL, &event_cb, NULL);
    return event_cb == NULL;
}

static void forget_visitors(struct http *h, bool all)
{
    for (unsigned i = 0; i < HTTP_CONNECTIONS_MAX; i++) {
        if (h->visitors[i] && (all || has_left(h->visitors[i]))) {
            bufferevent_decref(h->visitors[i]);
            h->visitors[i] = NULL;
        }
    }
}

/* A connection was accepted. It takes the place of the oldest, which is closed if it is still open, so idle ones
 * can neither use up descriptors nor keep others out. NULL (no memory): libevent makes its own. */
static struct bufferevent *visitor_came(struct event_base *base, void *arg)
{
    struct http *h = arg;
    struct bufferevent *visitor = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE), *oldest;
    DEBUG_ASSERT(h->next < HTTP_CONNECTIONS_MAX);
    if (!visitor)
        return NULL;
    forget_visitors(h, false);
    if ((oldest = h->visitors[h->next]) != NULL) {
        shutdown(bufferevent_getfd(oldest), SHUT_RDWR); /* libevent hears of it and frees it */
        bufferevent_decref(oldest);
    }
    bufferevent_incref(visitor);
    h->visitors[h->next] = visitor;
    h->next = (h->next + 1) % HTTP_CONNECTIONS_MAX;
    return visitor;
}

static void accept_again(evutil_socket_t fd UNUSED, short what UNUSED, void *listener)
{
    evconnlistener_enable(listener);
}

/* Probably no descriptors are left. The client waits, and the socket stays readable: without a pause the loop would
 * spin. */
static void accept_failed(struct evconnlistener *listener, void *arg UNUSED)
{
    struct timeval later = {0, HTTP_RETRY_US};
    log_warning_rarely("http: accept(): %s", strerror(errno));
    if (event_base_once(evconnlistener_get_base(listener), -1, EV_TIMEOUT, accept_again, listener, &later) == 0)
        evconnlistener_disable(listener);
}

static void tick(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct http *h = arg;
    const struct command_env *env = atomic_load_explicit(&h->env, memory_order_acquire);
    forget_visitors(h, false);
    if (env)
        status_tick(&h->history, env);
}

static void stop_heard(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct http *h = arg;
    event_base_loopbreak(h->base);
}

static void *http_main(void *arg)
{
    struct http *h = arg;
    pthread_setname_np(pthread_self(), "extant-http");
    event_base_dispatch(h->base);
    return NULL;
}

/* ---- start and stop ---- */

/* Splits "ADDR:PORT", which has a colon. */
static void split(const char *address, char *host, size_t host_bytes, unsigned *port)
{
    const char *colon = strrchr(address, ':');
    ASSERT(colon);
    bool bracketed = address[0] == '[' && colon > address + 1 && colon[-1] == ']';
    snprintf(host, host_bytes, "%.*s", (int)(colon - address) - 2 * bracketed, address + bracketed);
    *port = (unsigned)strtoul(colon + 1, NULL, 10);
    DEBUG_ASSERT(*port <= UINT16_MAX); /* checked by operator/command_line.c */
}

static void say_nothing(int severity UNUSED, const char *text UNUSED) {}

static bool listen_on(struct http *h, const char *address, char *why, size_t why_bytes)
{
    char host[SETTINGS_HOST_BYTES], text[160];
    unsigned port;
    struct sockaddr_storage name;
    socklen_t len = sizeof(name);
    struct address local;
    split(address, host, sizeof(host), &port);
    errno = 0;
    event_set_log_callback(say_nothing); /* the line below says it */
    struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(h->server, host, (uint16_t)port);
    event_set_log_callback(NULL);
    if (!bound) {
        snprintf(why, why_bytes, "--http: can't listen on %s: %s", address,
                 errno ? strerror(errno) : "not an address of this machine");
        return false;
    }
    evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(bound), accept_failed);
    if (getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&name, &len) == 0) {
        address_of(&local, (struct sockaddr *)&name);
        address_text(&local, "", text, sizeof(text));
        log_notice("http: metrics and status on %s", text);
    }
    return true;
}

static bool prepare(struct http *h, const char *address, char *why, size_t why_bytes)
{
    h->base = event_base_new();
    h->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    h->server = h->base ? evhttp_new(h->base) : NULL;
    h->stop_event = h->base ? event_new(h->base, h->stop_fd, EV_READ, stop_heard, h) : NULL;
    h->tick = h->base ? event_new(h->base, -1, EV_PERSIST, tick, h) : NULL;
    struct timeval every = {HTTP_TICK_SEC, 0};
    if (h->stop_fd < 0 || !h->server || !h->stop_event || !h->tick ||
        event_add(h->stop_event, NULL) < 0 || event_add(h->tick, &every) < 0) {
        snprintf(why, why_bytes, "--http: no memory or descriptors");
        return false;
    }
    evhttp_set_allowed_methods(h->server, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
    evhttp_set_max_headers_size(h->server, HTTP_HEADER_BYTES_MAX);
    evhttp_set_max_body_size(h->server, 0);
    evhttp_set_timeout(h->server, HTTP_PATIENCE_SEC);
    evhttp_set_gencb(h->server, request_came, h);
    evhttp_set_bevcb(h->server, visitor_came, h);
    return listen_on(h, address, why, why_bytes);
}

static void discard(struct http *h)
{
    DEBUG_ASSERT(h->base || !h->server);
    if (h->server)
        evhttp_free(h->server);
    forget_visitors(h, true);
    if (h->stop_event)
        event_free(h->stop_event);
    if (h->tick)
        event_free(h->tick);
    if (h->base)
        event_base_free(h->base);
    if (h->stop_fd >= 0)
        close(h->stop_fd);
    free(h);
}

struct http *http_start(const char *address, char *why, size_t why_bytes)
{
    struct http *h = calloc(1, sizeof(*h));
    if (!h) {
        snprintf(why, why_bytes, "--http: no memory");
        return NULL;
    }
    if (!prepare(h, address, why, why_bytes)) {
        discard(h);
        return NULL;
    }
    int err = pthread_create(&h->thread, NULL, http_main, h);
    if (err) {
        snprintf(why, why_bytes, "--http: can't start the thread: %s", strerror(err));
        discard(h);
        return NULL;
    }
    return h;
}

void http_publish(struct http *h, const struct command_env *env)
{
    DEBUG_ASSERT(env && !atomic_load(&h->env)); /* once */
    atomic_store_explicit(&h->env, env, memory_order_release);
}

void http_stop(struct http *h)
{
    if (!h)
        return;
    int rc = eventfd_write(h->stop_fd, 1);
    ASSERT(rc == 0);
    pthread_join(h->thread, NULL);
    discard(h);
}
