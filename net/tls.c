/* net/tls.c: see net/tls.h. OpenSSL's queue of errors belongs to the thread, and old errors in it would be taken
 * for those of the next call, so each function here leaves it empty.
 *
 * A stream's bytes go through a BIO of our own ("the wire"). It receives from the socket and sends to it, except
 * during seal(): then OpenSSL's output goes where the caller wants it. The library's own BIO for sockets costs
 * more for each record, and is used only where the kernel's TLS is possible (ssl_kernel_tls), because it can turn
 * that on. If the kernel makes the records, "sealed" bytes are clear ones; otherwise the wire replaces that BIO
 * for sending after the handshake.
 *
 * OpenSSL's allocations are counted: a word before each block holds its size. For each record it allocates and
 * frees a buffer and a few small blocks, so each thread keeps some of these for the next record. */
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

struct tls {
    /* const */
    const struct settings *settings;
    struct server_counters *counters;
    BIO_METHOD *wire;
    struct lock lock;
    /* under lock */
    SSL_CTX *context;
};

struct tls_stream {
    SSL *ssl;
    const struct tls *tls;
    int fd;
    bool greeted; /* the handshake is done */
    bool broken;
    bool ended;   /* the socket has nothing more */
    bool in_kernel; /* the kernel makes the records that are sent */
    char *sealing;  /* where what is written goes; NULL: to the socket */
    size_t sealed_bytes;
};

/* ---- memory ---- */

struct block {
    _Alignas(max_align_t) size_t bytes; /* that follow */
    struct block *next;                 /* spare */
};

/* Kinds of blocks that come and go with each record. */
enum kind { KIND_TINY, KIND_RECORD, KINDS };
enum {
    TINY_BYTES_MAX = 48,
    RECORD_BYTES_MIN = TLS_RECORD_BYTES,
    RECORD_BYTES_MAX = TLS_RECORD_BYTES + 1024,
#ifdef __SANITIZE_ADDRESS__
    KEEPS_SPARES = 0, /* so that it sees each block's end */
#else
    KEEPS_SPARES = 1,
#endif
    SPARES_MAX = 8 /* of a kind */
};

static_assert(RECORD_BYTES_MIN > TINY_BYTES_MAX, "a block is of one kind");

/* What one thread has allocated, less what it has freed; only the sum over all threads has a meaning. It outlives
 * its thread. */
struct account {
    _Atomic(uint64_t) bytes;
    struct account *next;
    struct {
        struct block *first;
        unsigned count;
    } spare[KINDS];
};

static _Atomic(struct account *) accounts;
static __thread struct account *account;

static struct account *open_account(void)
{
    account = calloc(1, sizeof(*account));
    if (!account)
        return NULL;
    account->next = atomic_load_explicit(&accounts, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&accounts, &account->next, account))
        ;
    return account;
}

/* KINDS: of none. */
static enum kind kind_of(size_t bytes)
{
    if (bytes <= TINY_BYTES_MAX)
        return KIND_TINY;
    return bytes >= RECORD_BYTES_MIN && bytes <= RECORD_BYTES_MAX ? KIND_RECORD : KINDS;
}

static void block_free(void *p, const char *file UNUSED, int line UNUSED)
{
    if (!p)
        return;
    struct account *a = likely(account) ? account : open_account();
    struct block *b = (struct block *)p - 1;
    enum kind kind = kind_of(b->bytes);
    DEBUG_ASSERT(b->bytes > 0);
    if (unlikely(!a)) { /* it stays counted */
        free(b);
        return;
    }
    add_own(&a->bytes, -(int64_t)b->bytes);
    if (!KEEPS_SPARES || kind == KINDS || a->spare[kind].count >= SPARES_MAX) {
        free(b);
        return;
    }
    b->next = a->spare[kind].first;
    a->spare[kind].first = b;
    a->spare[kind].count++;
}

static void *block_alloc(size_t bytes, const char *file UNUSED, int line UNUSED)
{
    static const size_t most[] = {[KIND_TINY] = TINY_BYTES_MAX, [KIND_RECORD] = RECORD_BYTES_MAX};
    struct account *a = likely(account) ? account : open_account();
    if (bytes == 0 || bytes > SIZE_MAX / 2 || !a)
        return NULL;
    enum kind kind = kind_of(bytes);
    struct block *b = kind == KINDS ? NULL : a->spare[kind].first;
    DEBUG_ASSERT(kind == KINDS || (b == NULL) == (a->spare[kind].count == 0));
    if (b) {
        a->spare[kind].first = b->next;
        a->spare[kind].count--;
    } else {
        b = malloc(sizeof(*b) + (!KEEPS_SPARES || kind == KINDS ? bytes : most[kind]));
        if (!b)
            return NULL;
    }
    b->bytes = bytes;
    add_own(&a->bytes, (int64_t)bytes);
    return b + 1;
}

static void *block_realloc(void *p, size_t bytes, const char *file, int line)
{
    if (bytes == 0) {
        block_free(p, file, line);
        return NULL;
    }
    void *fresh = block_alloc(bytes, file, line);
    if (fresh && p) {
        memcpy(fresh, p, min_u64(bytes, ((struct block *)p - 1)->bytes));
        block_free(p, file, line);
    }
    return fresh;
}

/* Must be set before the library allocates anything; afterwards it refuses. */
static void count_memory(void)
{
    static _Atomic(bool) counted;
    if (!atomic_exchange(&counted, true))
        (void)CRYPTO_set_mem_functions(block_alloc, block_realloc, block_free);
}

uint64_t tls_bytes(void)
{
    uint64_t sum = 0;
    for (struct account *a = atomic_load(&accounts); a; a = a->next)
        sum += atomic_load_explicit(&a->bytes, memory_order_relaxed);
    return (int64_t)sum > 0 ? sum : 0; /* frees of one thread may be seen before the allocations of another */
}

/* ---- the wire ---- */

static int wire_read(BIO *wire, char *to, size_t room, size_t *got)
{
    struct tls_stream *s = BIO_get_data(wire);
    ssize_t n = recv(s->fd, to, room, MSG_DONTWAIT);
    BIO_clear_retry_flags(wire);
    if (likely(n > 0)) {
        *got = (size_t)n;
        return 1;
    }
    s->ended = n == 0;
    if (n < 0 && may_come_later())
        BIO_set_retry_read(wire);
    return (int)n;
}

static int wire_write(BIO *wire, const char *p, size_t n, size_t *taken)
{
    struct tls_stream *s = BIO_get_data(wire);
    BIO_clear_retry_flags(wire);
    if (likely(s->sealing)) {
        DEBUG_ASSERT(s->sealed_bytes <= TLS_SEALED_BYTES_MAX);
        if (n > TLS_SEALED_BYTES_MAX - s->sealed_bytes)
            return -1;
        memcpy(s->sealing + s->sealed_bytes, p, n);
        s->sealed_bytes += n;
        *taken = n;
        return 1;
    }
    ssize_t sent = send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (may_come_later())
            BIO_set_retry_write(wire);
        return -1;
    }
    *taken = (size_t)sent;
    return 1;
}

static long wire_control(BIO *wire, int what, long n UNUSED, void *p UNUSED)
{
    const struct tls_stream *s = BIO_get_data(wire);
    if (what == BIO_CTRL_EOF)
        return s->ended;
    return what == BIO_CTRL_FLUSH; /* nothing is held back */
}

static BIO_METHOD *wire_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "wire");
    if (m && BIO_meth_set_read_ex(m, wire_read) == 1 && BIO_meth_set_write_ex(m, wire_write) == 1 &&
        BIO_meth_set_ctrl(m, wire_control) == 1)
        return m;
    BIO_meth_free(m);
    return NULL;
}

static BIO *wire_new(BIO_METHOD *method, struct tls_stream *s)
{
    BIO *wire = BIO_new(method);
    if (!wire)
        return NULL;
    BIO_set_data(wire, s);
    BIO_set_init(wire, 1);
    return wire;
}

/* ---- the context ---- */

/* The first error in the queue; clears the rest. */
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

/* A key with a passphrase is refused: there is nobody to ask. */
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
    atomic_fetch_add_explicit(&stream->tls->counters->tls_new_sessions, 1, memory_order_relaxed);
    return 0; /* it stays the library's */
}

/* Without the cache no session tickets are issued either. */
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

/* A context with all settings applied; NULL with a line in why[]. */
static SSL_CTX *context_create(const struct settings *s, char *why, size_t why_bytes)
{
    DEBUG_ASSERT(s->ssl_min_version <= s->ssl_max_version);
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
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    /* One read for a whole record, not first one for its header; the kernel's TLS returns whole records. */
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
    lock_assert_none_held(); /* it reads files */
    SSL_CTX *new_one = context_create(t->settings, why, why_bytes);
    if (!new_one)
        return -EINVAL;
    lock_take(&t->lock);
    SSL_CTX *old = t->context;
    t->context = new_one;
    lock_release(&t->lock);
    SSL_CTX_free(old); /* once its last stream is gone */
    certs_are_loaded(t->counters);
    return 0;
}

/* ---- streams ---- */

/* How it receives and sends at first. */
static bool connect_stream(const struct tls *t, struct tls_stream *s)
{
    if (t->settings->ssl_kernel_tls)
        return SSL_set_fd(s->ssl, s->fd) == 1;
    BIO *wire = wire_new(t->wire, s);
    if (wire)
        SSL_set_bio(s->ssl, wire, wire);
    return wire;
}

struct tls_stream *tls_open(struct tls *t, int fd, enum settings_tls mode)
{
    DEBUG_ASSERT(fd >= 0);
    struct tls_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    lock_take(&t->lock);
    SSL_CTX *ctx = t->context;
    SSL_CTX_up_ref(ctx);
    lock_release(&t->lock);
    s->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    s->fd = fd;
    s->tls = t;
    if (!s->ssl || !connect_stream(t, s)) {
        SSL_free(s->ssl);
        free(s);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_app_data(s->ssl, s);
    if (mode == SETTINGS_TLS_NO_CLIENT_CERT)
        SSL_set_verify(s->ssl, SSL_VERIFY_NONE, NULL);
    else if (mode == SETTINGS_TLS_CLIENT_CERT)
        SSL_set_verify(s->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return s;
}

/* The meaning of a failed call; why[] is set for TLS_BROKEN, to "" if the socket failed. */
static enum tls_result result_of(struct tls_stream *s, int rc, char *why, size_t why_bytes)
{
    DEBUG_ASSERT(rc <= 0);
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

/* After the handshake: the library no longer sends by itself, unless the kernel encrypts. */
static bool prepare_to_seal(struct tls_stream *s)
{
    DEBUG_ASSERT(s->greeted && !s->in_kernel);
    if (!s->tls->settings->ssl_kernel_tls)
        return true;
    s->in_kernel = BIO_get_ktls_send(SSL_get_wbio(s->ssl));
    if (s->in_kernel)
        return true;
    BIO *wire = wire_new(s->tls->wire, s);
    if (wire)
        SSL_set0_wbio(s->ssl, wire);
    return wire;
}

enum tls_result tls_handshake(struct tls_stream *s, char *why, size_t why_bytes)
{
    ASSERT(!s->greeted && !s->broken);
    int rc = SSL_accept(s->ssl);
    if (rc == 1) {
        s->greeted = true;
        s->broken = !prepare_to_seal(s);
        *why = '\0';
        ERR_clear_error();
        return s->broken ? TLS_BROKEN : TLS_OK;
    }
    enum tls_result r = result_of(s, rc, why, why_bytes);
    if (r == TLS_BROKEN || r == TLS_END)
        atomic_fetch_add_explicit(&s->tls->counters->tls_handshake_errors, 1, memory_order_relaxed);
    return r;
}

/* The same for a call on an open stream. */
static enum tls_result use_failed(struct tls_stream *s, int rc)
{
    char why[256];
    enum tls_result r = result_of(s, rc, why, sizeof(why));
    if (r == TLS_BROKEN && *why) {
        atomic_fetch_add_explicit(&s->tls->counters->tls_proto_errors, 1, memory_order_relaxed);
        log_info("TLS connection broken: %s", why);
    }
    return r;
}

enum tls_result tls_read(struct tls_stream *s, void *to, size_t room, size_t *got)
{
    ASSERT(s->greeted && room > 0);
    if (unlikely(s->broken))
        return TLS_BROKEN;
    int rc = SSL_read_ex(s->ssl, to, room, got);
    DEBUG_ASSERT(rc != 1 || (*got > 0 && *got <= room));
    return likely(rc == 1) ? TLS_OK : use_failed(s, rc);
}

bool tls_seal(struct tls_stream *s, const void *p, size_t n, char *to, size_t *sealed)
{
    size_t taken;
    ASSERT(s->greeted && n > 0 && n <= TLS_RECORD_BYTES);
    if (unlikely(s->broken))
        return false;
    if (s->in_kernel) {
        memcpy(to, p, n);
        *sealed = n;
        return true;
    }
    s->sealing = to;
    s->sealed_bytes = 0;
    int rc = SSL_write_ex(s->ssl, p, n, &taken);
    s->sealing = NULL;
    *sealed = s->sealed_bytes;
    DEBUG_ASSERT(*sealed <= TLS_SEALED_BYTES_MAX);
    if (likely(rc == 1))
        return true;
    use_failed(s, rc);
    s->broken = true;
    return false;
}

bool tls_has_input(const struct tls_stream *s)
{
    DEBUG_ASSERT(s->greeted);
    return SSL_has_pending(s->ssl);
}

void tls_close(struct tls_stream *s, bool all_sent)
{
    DEBUG_ASSERT(!s->sealing);
    if (s->greeted && !s->broken && all_sent)
        SSL_shutdown(s->ssl);
    SSL_free(s->ssl);
    ERR_clear_error();
    free(s);
}

/* ---- begin and end ---- */

struct tls *tls_create(const struct settings *s, struct server_counters *n, char *why,
                       size_t why_bytes)
{
    ASSERT(s->ssl_enabled && s->ssl_chain_cert); /* checked by operator/settings_check.c */
    count_memory();
    struct tls *t = calloc(1, sizeof(*t));
    snprintf(why, why_bytes, "out of memory");
    if (!t)
        return NULL;
    lock_init(&t->lock, LOCK_TLS);
    t->settings = s;
    t->counters = n;
    t->wire = wire_method();
    if (t->wire)
        t->context = context_create(s, why, why_bytes);
    if (!t->context) {
        tls_destroy(t);
        return NULL;
    }
    certs_are_loaded(n);
    if (s->ssl_kernel_tls)
        warn_without_kernel_tls();
    return t;
}

void tls_destroy(struct tls *t)
{
    if (!t)
        return;
    SSL_CTX_free(t->context);
    BIO_meth_free(t->wire);
    lock_destroy(&t->lock);
    free(t);
}
