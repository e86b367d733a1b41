/* life.h: one process's life: its storage, opened from arguments as server.c opens it, and a fixture over it to run ops.
 * One thread. */
#ifndef EXTANT_T_LIFE_H
#define EXTANT_T_LIFE_H

#include "restart/restart.h"
#include "t/aid/cache_fixture.h"

struct life {
    struct restart r;
    struct fixture f;
};

/* A life with the settings of these arguments; its flash is reclaimed early. */
void life_parse(struct life *l, int argc, char **argv, FILE *out);
/* The same, from a text of blanks between words, without the program's name. */
void life_parse_words(struct life *l, const char *words);
/* Opens the storage; ops: of the device, NULL: the usual ones. 0, or restart_open's error and a line in why. */
int life_begin(struct life *l, unsigned readers, const struct ext_device_ops *ops, char *why, size_t why_bytes);
/* After life_begin(). */
void life_add_worker(struct life *l);

#endif
