/* net/tls.c: see net/tls.h. OpenSSL's queue of errors belongs to the thread, and what lies in it
 * spoils the meaning of the next result: each function here leaves it empty. */
#include "net/tls.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"

enum {
    SESSIONS_MAX = 4096,             /* that ssl_session_cache keeps */
    CLIENT_CHAIN_BYTES_MAX = 32 * 1024 /* of certificates that a client may send */
};

struct server_tls {
    struct tls tls;
    /* const */
    const struct settings *settings;
    struct server_counters *counters;
    struct lock lock;
    /* under lock */
    SSL_CTX *context;
};

struct tls_stream {
    SSL *ssl;
    struct server_counters *counters;
    bool greeted; /* the handshake is done */
    bool broken;
};

/* ---- the context ---- */

/* The first thing that went wrong, and forgets the rest. */
static void take_error(char *out, size_t size)
{
    unsigned long code = ERR_get_error();
    if (code)
        ERR_error_string_n(code, out, size);
    else
        snprintf(out, size, "no reason given");
    ERR_clear_error();
}

static bool complain(char *why, size_t why_bytes, const char *what, const char *name)
{
    char reason[256];
    take_error(reason, sizeof(reason));
    snprintf(why, why_bytes, "%s%s%s : %s", what, name ? ": " : "", name ? name : "", reason);
    return false;
}

/* A key with a passphrase: nobody is there to be asked. */
static int no_passphrase(char *buf UNUSED, int size UNUSED, int writing UNUSED, void *arg UNUSED)
{
    return -1;
}

static bool load_files(SSL_CTX *ctx, const struct settings *s, char *why, size_t why_bytes)
{
    const char *key = s->ssl_key ? s->ssl_key : s->ssl_chain_cert;
    int form = s->ssl_keyformat == SETTINGS_KEY_DER ? SSL_FILETYPE_ASN1 : SSL_FILETYPE_PEM;
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    if (SSL_CTX_use_certificate_chain_file(ctx, s->ssl_chain_cert) != 1)
        return complain(why, why_bytes, "Error loading the certificate chain", s->ssl_chain_cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, key, form) != 1)
        return complain(why, why_bytes, "Error loading the key", key);
    if (SSL_CTX_check_private_key(ctx) != 1)
        return complain(why, why_bytes, "Error validating the certificate", NULL);
    if (!s->ssl_ca_cert)
        return true;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(s->ssl_ca_cert);
    if (!names || SSL_CTX_load_verify_locations(ctx, s->ssl_ca_cert, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return complain(why, why_bytes, "Error loading the CA certificate", s->ssl_ca_cert);
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    return true;
}

static int session_is_new(SSL *ssl, SSL_SESSION *session UNUSED)
{
    struct tls_stream *stream = SSL_get_app_data(ssl);
    atomic_fetch_add_explicit(&stream->counters->tls_new_sessions, 1, memory_order_relaxed);
    return 0; /* it stays the library's */
}

/* Without the cache nothing that would let a client resume is handed out either. */
static void set_sessions(SSL_CTX *ctx, bool cache)
{
    static const unsigned char id[] = "extant";
    SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1);
    if (cache) {
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER);
        SSL_CTX_sess_set_cache_size(ctx, SESSIONS_MAX);
        SSL_CTX_sess_set_new_cb(ctx, session_is_new);
    } else {
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
        SSL_CTX_set_num_tickets(ctx, 0);
    }
}

/* All that the settings say; NULL with a line in why[]. */
static SSL_CTX *context_create(const struct settings *s, char *why, size_t why_bytes)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx) {
        complain(why, why_bytes, "Error creating the TLS context", NULL);
        return NULL;
    }
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION + (int)s->ssl_min_version);
    SSL_CTX_set_max_proto_version(ctx, TLS1_VERSION + (int)s->ssl_max_version);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
    if (s->ssl_kernel_tls)
        SSL_CTX_set_options(ctx, SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* One read for a whole record, not one for its head first; the kernel's TLS gives whole ones. */
    SSL_CTX_set_read_ahead(ctx, !s->ssl_kernel_tls);
    SSL_CTX_set_max_cert_list(ctx, CLIENT_CHAIN_BYTES_MAX);
    SSL_CTX_set_verify(ctx, (int)s->ssl_verify_mode, NULL);
    set_sessions(ctx, s->ssl_session_cache);
    bool good = load_files(ctx, s, why, why_bytes);
    if (good && s->ssl_ciphers && SSL_CTX_set_cipher_list(ctx, s->ssl_ciphers) != 1) {
        ERR_clear_error();
        snprintf(why, why_bytes, "Error setting the provided cipher(s): %s", s->ssl_ciphers);
        good = false;
    }
    ERR_clear_error();
    if (good)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

/* ENOTCONN is what a kernel says that would do it for a socket with a peer. */
static void warn_without_kernel_tls(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) < 0 && errno != ENOTCONN)
        log_warning("ssl_kernel_tls: this kernel has no TLS (module tls): the process encrypts");
    close(fd);
}

static void certs_are_loaded(struct server_counters *n)
{
    atomic_store_explicit(&n->certs_loaded_sec, clock_now_sec(), memory_order_relaxed);
}

int tls_refresh(struct tls *t, char *why, size_t why_bytes)
{
    struct server_tls *server = (struct server_tls *)t;
    SSL_CTX *new_one = context_create(server->settings, why, why_bytes);
    if (!new_one)
        return -EINVAL;
    lock_take(&server->lock);
    SSL_CTX *old = server->context;
    server->context = new_one;
    lock_release(&server->lock);
    SSL_CTX_free(old); /* once its last stream is gone */
    certs_are_loaded(server->counters);
    return 0;
}

/* ---- streams ---- */

static struct tls_stream *stream_open(struct tls *t, int fd, enum settings_tls mode)
{
    struct server_tls *server = (struct server_tls *)t;
    struct tls_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    lock_take(&server->lock);
    SSL_CTX *ctx = server->context;
    SSL_CTX_up_ref(ctx);
    lock_release(&server->lock);
    s->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    if (!s->ssl || SSL_set_fd(s->ssl, fd) != 1) {
        SSL_free(s->ssl);
        free(s);
        ERR_clear_error();
        return NULL;
    }
    s->counters = server->counters;
    SSL_set_app_data(s->ssl, s);
    if (mode == SETTINGS_TLS_NO_CLIENT_CERT)
        SSL_set_verify(s->ssl, SSL_VERIFY_NONE, NULL);
    else if (mode == SETTINGS_TLS_CLIENT_CERT)
        SSL_set_verify(s->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return s;
}

/* What a call that didn't succeed means; why[] is set for TLS_BROKEN, "" if it is the socket that
 * broke. */
static enum tls_result result_of(struct tls_stream *s, int rc, char *why, size_t why_bytes)
{
    int error = SSL_get_error(s->ssl, rc);
    enum tls_result r = TLS_BROKEN;
    *why = '\0';
    if (error == SSL_ERROR_WANT_READ)
        r = TLS_WANT_READ;
    else if (error == SSL_ERROR_WANT_WRITE)
        r = TLS_WANT_WRITE;
    else if (error == SSL_ERROR_ZERO_RETURN)
        r = TLS_END;
    else if (error == SSL_ERROR_SSL)
        take_error(why, why_bytes);
    s->broken = r == TLS_BROKEN;
    ERR_clear_error();
    return r;
}

static enum tls_result stream_handshake(struct tls_stream *s, char *why, size_t why_bytes)
{
    ASSERT(!s->greeted && !s->broken);
    int rc = SSL_accept(s->ssl);
    if (rc == 1) {
        s->greeted = true;
        ERR_clear_error();
        return TLS_OK;
    }
    enum tls_result r = result_of(s, rc, why, why_bytes);
    if (r == TLS_BROKEN || r == TLS_END)
        atomic_fetch_add_explicit(&s->counters->tls_handshake_errors, 1, memory_order_relaxed);
    return r;
}

/* The same for a call on a stream in use. */
static enum tls_result use_failed(struct tls_stream *s, int rc)
{
    char why[256];
    enum tls_result r = result_of(s, rc, why, sizeof(why));
    if (r == TLS_BROKEN && *why) {
        atomic_fetch_add_explicit(&s->counters->tls_proto_errors, 1, memory_order_relaxed);
        log_info("TLS connection broken: %s", why);
    }
    return r;
}

static enum tls_result stream_read(struct tls_stream *s, void *to, size_t room, size_t *got)
{
    ASSERT(s->greeted && room > 0);
    if (unlikely(s->broken))
        return TLS_BROKEN;
    int rc = SSL_read_ex(s->ssl, to, room, got);
    return likely(rc == 1) ? TLS_OK : use_failed(s, rc);
}

static enum tls_result stream_write(struct tls_stream *s, const void *p, size_t n, size_t *taken)
{
    ASSERT(s->greeted && n > 0);
    if (unlikely(s->broken))
        return TLS_BROKEN;
    int rc = SSL_write_ex(s->ssl, p, n, taken);
    return likely(rc == 1) ? TLS_OK : use_failed(s, rc);
}

static bool stream_has_input(const struct tls_stream *s)
{
    return SSL_has_pending(s->ssl);
}

static void stream_close(struct tls_stream *s)
{
    if (s->greeted && !s->broken)
        SSL_shutdown(s->ssl);
    SSL_free(s->ssl);
    ERR_clear_error();
    free(s);
}

static const struct tls_ops stream_ops = {
    .open = stream_open,
    .handshake = stream_handshake,
    .read = stream_read,
    .write = stream_write,
    .has_input = stream_has_input,
    .close = stream_close,
};

/* ---- begin and end ---- */

struct tls *tls_create(const struct settings *s, struct server_counters *n, char *why,
                       size_t why_bytes)
{
    struct server_tls *server = calloc(1, sizeof(*server));
    if (!server) {
        snprintf(why, why_bytes, "out of memory");
        return NULL;
    }
    server->tls.ops = &stream_ops;
    server->settings = s;
    server->counters = n;
    server->context = context_create(s, why, why_bytes);
    if (!server->context) {
        free(server);
        return NULL;
    }
    lock_init(&server->lock, LOCK_TLS);
    certs_are_loaded(n);
    if (s->ssl_kernel_tls)
        warn_without_kernel_tls();
    return &server->tls;
}

void tls_destroy(struct tls *t)
{
    struct server_tls *server = (struct server_tls *)t;
    if (!server)
        return;
    SSL_CTX_free(server->context);
    lock_destroy(&server->lock);
    free(server);
}
