/* load_tls.h: --tls of the load generator: a connection's bytes go through OpenSSL. The server's
 * certificate is not checked. Without the OpenSSL headers it is left out, and --tls is refused.
 */
#ifndef LOAD_TLS_H
#define LOAD_TLS_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#ifdef EXTANT_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

/* The handshake of a connected, blocking socket; ends the program when it fails. */
static void *tls_connect(int fd)
{
    static SSL_CTX *context;
    if (!context) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_read_ahead(context, 1);
    }
    SSL *ssl = SSL_new(context);
    if (!ssl || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1) {
        ERR_print_errors_fp(stderr);
        exit(3);
    }
    return ssl;
}

/* -1 with errno as the socket's own calls. */
static ssize_t tls_failed(SSL *ssl, int rc)
{
    int error = SSL_get_error(ssl, rc);
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
    return -1;
}

static ssize_t tls_send(void *tls, const void *p, size_t n)
{
    size_t taken;
    int rc = SSL_write_ex(tls, p, n, &taken);
    return rc == 1 ? (ssize_t)taken : tls_failed(tls, rc);
}

/* Reads all available bytes that fit: the socket doesn't signal bytes that OpenSSL holds. */
static ssize_t tls_recv(void *tls, char *to, size_t room)
{
    size_t total = 0, got = 0;
    int rc = 1;
    while (total < room && (total == 0 || SSL_has_pending(tls)) &&
           (rc = SSL_read_ex(tls, to + total, room - total, &got)) == 1)
        total += got;
    if (rc == 1)
        return (ssize_t)total;
    ssize_t failed = tls_failed(tls, rc);
    return total > 0 ? (ssize_t)total : failed;
}
#else
static void *tls_connect(int fd)
{
    (void)fd;
    fprintf(stderr, "load: built without TLS\n");
    exit(2);
}

static ssize_t tls_send(void *tls, const void *p, size_t n)
{
    (void)tls, (void)p, (void)n;
    errno = ENOTSUP;
    return -1;
}

static ssize_t tls_recv(void *tls, char *to, size_t room)
{
    (void)tls, (void)to, (void)room;
    errno = ENOTSUP;
    return -1;
}
#endif

/* As send() and recv(); tls NULL: in the clear. */
static ssize_t wire_send(int fd, void *tls, const void *p, size_t n)
{
    return tls ? tls_send(tls, p, n) : send(fd, p, n, MSG_NOSIGNAL);
}

static ssize_t wire_recv(int fd, void *tls, char *to, size_t room)
{
    return tls ? tls_recv(tls, to, room) : recv(fd, to, room, 0);
}

#endif
