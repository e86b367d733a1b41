/* t/aid/packets.c: see t/aid/packets.h. */
#include "t/aid/packets.h"

enum { HEAD_BYTES = 24, MAGIC_ASK = 0x80, MAGIC_ANSWER = 0x81 };

static void put_number(char *to, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (char)(v >> (8 * (bytes - 1 - i)));
}

size_t packet_put(char *out, const struct packet *p)
{
    size_t body = p->extras_bytes + p->key_bytes + p->value_bytes;
    put_number(out, p->magic ? p->magic : MAGIC_ASK, 1);
    put_number(out + 1, p->opcode, 1);
    put_number(out + 2, p->lies ? p->said_key : p->key_bytes, 2);
    put_number(out + 4, p->lies ? p->said_extras : p->extras_bytes, 1);
    put_number(out + 5, 0, 1);
    put_number(out + 6, p->status, 2);
    put_number(out + 8, p->lies ? p->said_body : body, 4);
    put_number(out + 12, p->opaque, 4);
    put_number(out + 16, p->cas, 8);
    memcpy(out + HEAD_BYTES, p->extras_bytes ? p->extras : "", p->extras_bytes);
    memcpy(out + HEAD_BYTES + p->extras_bytes, p->key_bytes ? p->key : "", p->key_bytes);
    memcpy(out + HEAD_BYTES + p->extras_bytes + p->key_bytes, p->value_bytes ? p->value : "",
           p->value_bytes);
    return HEAD_BYTES + body;
}

static char *packet_make(const struct packet *p, size_t *bytes)
{
    char *out = malloc(HEAD_BYTES + p->extras_bytes + p->key_bytes + p->value_bytes);
    ASSERT(out);
    *bytes = packet_put(out, p);
    return out;
}

void packet_send(struct client *c, const struct packet *p)
{
    size_t bytes;
    char *out = packet_make(p, &bytes);
    client_send_bytes(c, out, bytes);
    free(out);
}

void packet_expect(struct client *c, const struct packet *p)
{
    struct packet answer = *p;
    size_t bytes;
    answer.magic = p->magic ? p->magic : MAGIC_ANSWER;
    char *out = packet_make(&answer, &bytes);
    client_expect_bytes(c, out, bytes);
    free(out);
}
