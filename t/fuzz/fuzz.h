/* fuzz.h: a fuzz target NAME is a function of bytes in t/fuzz/fuzz_NAME.c. It must return for any bytes;
 * an ASSERT or a sanitizer reports errors.
 *
 * Built with -DFUZZER the function is libFuzzer's entry (t/fuzz/fuzz.sh, `make fuzz`); otherwise it is
 * fuzz_NAME(), which fuzz_corpus_test.c runs over the inputs kept in t/fuzz/corpus/NAME/. */
#ifndef EXTANT_T_FUZZ_H
#define EXTANT_T_FUZZ_H

#include "base/base.h"

#ifdef FUZZER
#define FUZZ_TARGET(name)                                                                          \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);                                  \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
#else
#define FUZZ_TARGET(name) int fuzz_##name(const uint8_t *data, size_t size)
#endif

int fuzz_proto(const uint8_t *data, size_t size);
int fuzz_bin(const uint8_t *data, size_t size);
int fuzz_meta(const uint8_t *data, size_t size);
int fuzz_record(const uint8_t *data, size_t size);
int fuzz_attach(const uint8_t *data, size_t size);
int fuzz_settings(const uint8_t *data, size_t size);
int fuzz_auth(const uint8_t *data, size_t size);
int fuzz_flash(const uint8_t *data, size_t size);

/* The bytes not yet used of an input; each reader takes from the front, zeroes once it is empty. */
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

static inline void fuzz_take(struct fuzz_input *in, void *to, size_t bytes)
{
    size_t have = in->size < bytes ? in->size : bytes;
    memset(to, 0, bytes);
    if (have > 0)
        memcpy(to, in->data, have);
    in->data += have;
    in->size -= have;
}

static inline uint64_t fuzz_number(struct fuzz_input *in, size_t bytes)
{
    uint64_t v = 0;
    fuzz_take(in, &v, bytes);
    return v;
}

/* A copy in memory of its own, so that a sanitizer notices any access beyond it. */
static inline char *fuzz_copy(const void *data, size_t size)
{
    char *copy = calloc(1, size ? size : 1);
    ASSERT(copy);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

#endif
