/* operator/parser.h: the parts of the options' parser: the syntax of numbers, refusals, and suggestions for misspelt words.
 * Only operator/command_line.c and operator/settings_check.c include it.
 *
 * Threads: settings_parse()'s. No locks; nothing sleeps.
 */
#ifndef EXTANT_PARSER_H
#define EXTANT_PARSER_H

#include "operator/settings.h"

/* ---- numbers ---- */

/* All of the text is one whole number of at most 2^53, with a sign only if negative ones are allowed. */
bool parse_whole(const char *text, bool negative_too, double *v);
bool parse_real(const char *text, double *v);
/* 2^10, 2^20 ... for k, m, g, t, p of either case; 0 for another letter. */
uint64_t suffix_bytes(char c);
/* A whole number in units of `scale` bytes, or with a suffix, then in that unit. */
bool parse_bytes(const char *text, uint64_t scale, double *v);

/* ---- the parser's state and refusals ---- */

struct parser {
    struct settings *s;
    FILE *out, *err;
    const char *program;
    const char *ext_word; /* a suboption that has no meaning without flash; NULL: none was given */
    const char *file; /* being read, and the line in it; NULL: the command line */
    unsigned line;
    bool is_set[SETTING_COUNT]; /* of some: the operator has set it */
    bool checks, prints; /* --check-config, --print-config */
    char *slab_sizes; /* as given; owned by the parser */
    char given[160], given_name[48], given_value[128]; /* the option being read, with its value; "": none */
};

/* Prints one line (or memcached's two) to err, preceded by the file and line with the error, if any, and
 * returns the exit code of a wrong file or a wrong command line. memcached's words often don't say which
 * option had which value; then the first line ends with it. (A value of one or two letters may be in the
 * text by chance.) */
int refuse(struct parser *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* What refuse() may have to tell; without a value the words of the refusal name the option. */
void note_given(struct parser *p, const char *before, const char *name, const char *between, const char *value);
/* Says so, and returns the exit code. */
int no_memory(struct parser *p);
/* Sets a text: SETTINGS_GO_ON, or as no_memory(). */
int take_text(struct parser *p, size_t id, const char *text);

/* ---- words that were meant ---- */

enum { WORD_MAX = 40 };

/* The best of several candidates so far. */
struct guess {
    const char *word; /* as given */
    const char *best; /* NULL: none is similar */
    unsigned distance;
};

void guess_from(struct guess *g, const char *candidate);
/* The end of a refusal: " (did you mean "WORD"?)" or where to look. */
const char *guess_text(const struct guess *g, char *out, size_t size);

#endif
