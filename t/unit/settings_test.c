/* operator/settings.h: the command line, its refusals, derived values, `stats settings`. */
#include "operator/command_line.h"
#include "operator/settings_check.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

static struct settings s;
static char out[32768], err[8192];

/* Parses a command line, cut at blanks; out and err then hold what was printed. */
static int parse(const char *line)
{
    char copy[2048], *argv[64] = {"extant"}, *rest = copy, *word;
    int argc = 1;
    snprintf(copy, sizeof(copy), "%s", line);
    while ((word = strsep(&rest, " ")) != NULL) {
        if (*word != '\0')
            argv[argc++] = word;
    }
    FILE *o = fmemopen(out, sizeof(out), "w"), *e = fmemopen(err, sizeof(err), "w");
    settings_free(&s);
    int code = settings_parse(&s, argc, argv, o, e);
    fputc('\0', o);
    fputc('\0', e);
    fclose(o);
    fclose(e);
    return code;
}

static void free_all(void)
{
    settings_free(&s);
}

TestSuite(settings, .fini = free_all);

#define accepted(line)                                                                             \
    do {                                                                                           \
        int code_ = parse(line);                                                                   \
        cr_assert_eq(code_, SETTINGS_GO_ON, "%s: code %d: %s", line, code_, err);                  \
        cr_assert_str_eq(err, "");                                                                 \
    } while (0)

/* err is `wanted`; if that doesn't name the wrong value, " (OPTION VALUE)" ends its first line. */
static bool says(const char *wanted, const char *line)
{
    size_t first = strcspn(wanted, "\n"), n = strlen(err);
    const char *given = err + first, *end = strchr(given, ')');
    if (strncmp(err, wanted, first) != 0 || n == 0 || err[n - 1] != '\n')
        return false;
    if (strncmp(given, " (", 2) != 0 || strncmp(wanted + first, given, 2) == 0)
        return strlen(wanted) == n - 1 && strncmp(wanted, err, n - 1) == 0;
    if (!end || end - given < 5)
        return false;
    char option[160];
    snprintf(option, sizeof(option), "%.*s", (int)(end - given - 2), given + 2);
    const char *value = option + strcspn(option, option[1] == 'o' ? "=" : " ") + 1;
    return strstr(line, value) && strlen(wanted + first) + 1 == strlen(end + 1) &&
           strncmp(wanted + first, end + 1, strlen(wanted + first)) == 0;
}

#define refused(line, want_code, want_err)                                                         \
    do {                                                                                           \
        int code_ = parse(line);                                                                   \
        cr_assert_eq(code_, want_code, "%s: code %d: %s", line, code_, err);                       \
        cr_assert(says(want_err, line), "%s said: %s", line, err);                                 \
    } while (0)

/* ---- defaults and flags ---- */

Test(settings, defaults)
{
    accepted("");
    cr_assert_eq(s.maxbytes, 64 * MiB);
    cr_assert_eq(s.port, 11211);
    cr_assert_eq(s.udpport, 0);
    cr_assert_eq(s.num_threads, 4);
    cr_assert_eq(s.maxconns, 1024);
    cr_assert_eq(s.item_size_max, MiB);
    cr_assert_eq(s.slab_chunk_max, 512 * KiB);
    cr_assert_eq(s.slab_automove_window, 10);
    cr_assert_eq(s.ext_item_age, UINT32_MAX);
    cr_assert(s.use_cas && s.evict_to_free && s.lru_segmented && s.flush_enabled);
    cr_assert_null(s.socketpath);
    cr_assert_str_eq(s.hash_algorithm, "murmur3");
    cr_assert_eq(s.listen_count, 0);
    cr_assert_eq(s.ext_file_count, 0);
}

Test(settings, every_short_flag)
{
    accepted("-p 1 -U 0 -a 755 -A -d -P /p -r -u nobody -m 128 -M -c 7 -k -vv -f 1.5 -n 64 -D . "
             "-t 2 -R 9 -C -b 5 -B ascii -I 2m -F -X -W -Y /a");
    cr_assert_eq(s.port, 1);
    cr_assert_eq(s.access_mask, 0755);
    cr_assert(s.shutdown_command && s.daemonize && s.max_core && s.lock_memory);
    cr_assert_str_eq(s.pid_file, "/p");
    cr_assert_str_eq(s.username, "nobody");
    cr_assert_eq(s.maxbytes, 128 * MiB);
    cr_assert_not(s.evict_to_free);
    cr_assert_eq(s.maxconns, 7);
    cr_assert_eq(s.verbosity, 2);
    cr_assert_eq(s.factor, 1.5);
    cr_assert_eq(s.chunk_size, 64);
    cr_assert_eq(s.prefix_delimiter, '.');
    cr_assert(s.detail_enabled);
    cr_assert_eq(s.num_threads, 2);
    cr_assert_eq(s.num_threads_per_udp, 2);
    cr_assert_eq(s.reqs_per_event, 9);
    cr_assert_not(s.use_cas);
    cr_assert_eq(s.backlog, 5);
    cr_assert_eq(s.binding_protocol, SETTINGS_PROTOCOL_ASCII);
    cr_assert_eq(s.item_size_max, 2 * MiB);
    cr_assert_not(s.flush_enabled);
    cr_assert_not(s.dump_enabled);
    cr_assert_not(s.watch_enabled);
    cr_assert_str_eq(s.auth_file, "/a");
    cr_assert(s.auth_ascii);
}

Test(settings, every_long_flag)
{
    accepted("--port=1 --udp-port=0 --unix-mask=755 --enable-shutdown --daemon --pidfile=/p "
             "--enable-coredumps --user=u --memory-limit=128 --disable-evictions --conn-limit=7 "
             "--lock-memory --verbose --slab-growth-factor=1.5 --slab-min-size=64 --threads=2 "
             "--max-reqs-per-event=9 --disable-cas --listen-backlog=5 --protocol=binary "
             "--max-item-size=2m --disable-flush-all --disable-dumping --disable-watch "
             "--enable-sasl --auth-file=/a --unix-socket=/s --listen=1.2.3.4 --extended=track_sizes");
    cr_assert_eq(s.port, 1);
    cr_assert_str_eq(s.socketpath, "/s");
    cr_assert_str_eq(s.inter, "1.2.3.4");
    cr_assert(s.track_sizes);
    cr_assert_eq(s.verbosity, 1);
}

Test(settings, parsing_again_forgets_the_first)
{
    accepted("-m 128 -l 1.2.3.4 -o ext_path=/f:64m");
    accepted("");
    cr_assert_eq(s.maxbytes, 64 * MiB);
    cr_assert_eq(s.listen_count, 0);
    cr_assert_eq(s.ext_file_count, 0);
}

Test(settings, ephemeral_port)
{
    accepted("-p -1");
    cr_assert_eq(s.port, -1);
}

Test(settings, memory_takes_suffixes)
{
    accepted("-m 2g");
    cr_assert_eq(s.maxbytes, 2 * GiB);
}

Test(settings, item_size_suffixes)
{
    accepted("-m 4096 -I 1g");
    cr_assert_eq(s.item_size_max, GiB);
    accepted("-I 2048K");
    cr_assert_eq(s.item_size_max, 2 * MiB);
    accepted("-I 1048576");
    cr_assert_eq(s.item_size_max, MiB);
}

Test(settings, refusals_of_flags)
{
    refused("-t 0", 64, "Number of threads must be greater than 0");
    refused("-t x", 64, "Number of threads must be greater than 0");
    cr_assert_str_eq(err, "Number of threads must be greater than 0 (-t x)\n");
    refused("-t 2000", 64, "-t 2000 is not a number from 1 to 1024");
    refused("-t 0", 64, "Number of threads must be greater than 0");
    cr_assert_str_eq(err, "Number of threads must be greater than 0 (-t 0)\n");
    refused("--memory-file=", 64, "-e needs a value");
    refused("-c 0", 64, "Maximum connections must be greater than 0");
    refused("-f 1", 64, "Factor must be greater than 1");
    refused("-f x", 64, "Factor must be greater than 1");
    refused("-n 0", 64, "Chunk size must be greater than 0");
    refused("-R 0", 64, "Number of requests per event must be greater than 0");
    refused("-m x", 64, "-m x is not a whole number of megabytes (or, with a suffix, such as 512k or 2g)");
    refused("-m 0", 64,
            "Cannot set item size limit higher than 1/2 of memory max. (-I 1024 KB, -m 0 MB)");
    refused("-p 70000", 64, "ERROR: Invalid port number 70000.");
    refused("-p x", 64, "ERROR: Invalid port number x.");
    refused("-p -2", 64, "ERROR: Invalid port number -2.");
    refused("-a 999", 64, "-a 999 is not an octal access mode, such as 0770");
    refused("-b 0", 64, "-b 0 is not a number from 1 to 2147483647");
    refused("-B foo", 64,
            "Invalid value for binding protocol: foo\n -- should be one of auto, binary, or ascii");
    refused("-z", 64, "extant: invalid option -- 'z' (-h lists all)");
    refused("-p", 64, "extant: option requires an argument -- 'p' (-h lists all)");
    refused("--nope", 64, "extant: unrecognized option '--nope' (-h lists all)");
    refused("foo", 64, "Illegal argument \"foo\": options begin with -");
}

Test(settings, refusals_of_item_size)
{
    refused("-I 0", 64, "Item max size cannot be less than 1024 bytes.");
    refused("-I 1.5m", 64, "-I 1.5m is not a size, such as 512k or 2m");
    refused("-I 40m", 64,
            "Cannot set item size limit higher than 1/2 of memory max. (-I 40960 KB, -m 64 MB)");
    refused("-m 4096 -I 1025m", 64, "Cannot set item size limit higher than a gigabyte.");
    refused("-I 1500k", 64,
            "-I (item_size_max: 1536000) must be evenly divisible by slab_chunk_max (bytes: "
            "524288)");
    refused("-I 256k", 64,
            "slab_chunk_max (bytes: 524288) cannot be larger than -I (item_size_max 262144)");
}

Test(settings, sasl_users_may_be_named_by_the_environment)
{
    setenv("MEMCACHED_SASL_PWDB", "/from/environment", 1);
    accepted("-S");
    cr_assert_str_eq(s.auth_file, "/from/environment");
    cr_assert(s.auth_sasl && !s.auth_ascii);
    accepted("-S -Y /from/flag");
    cr_assert_str_eq(s.auth_file, "/from/flag");
    accepted(""); /* without -S it means nothing */
    cr_assert_null(s.auth_file);
    cr_assert_not(s.auth_ascii);
}

Test(settings, unsupported_is_refused_by_name)
{
#ifndef EXTANT_TLS
    refused("-Z", 64, "This server is not built with TLS support.");
    refused("-o ssl_key=/x", 64, "Illegal suboption \"ssl_key=/x\" (-h lists all)");
#endif
    unsetenv("MEMCACHED_SASL_PWDB");
    refused("-S", 64, "-S needs a file of user:password lines: -Y <file>, or its name in MEMCACHED_SASL_PWDB");
    setenv("MEMCACHED_SASL_PWDB", "", 1);
    refused("-S", 64, "-S needs a file of user:password lines: -Y <file>, or its name in MEMCACHED_SASL_PWDB");
    refused("-S -Y /x -U 11211", 64, "Cannot enable UDP while using binary SASL authentication.");
    refused("-S -Y /x -B auto", 64, "You cannot allow the ASCII protocol while using SASL.");
    refused("-S -Y /x -B binary -B ascii", 64, "You cannot allow the ASCII protocol while using SASL.");
    refused("-Y /x -B auto", 64,
            "You cannot allow the BINARY protocol while using ascii authentication tokens.");
    refused("-o proxy_config=/x", 64, "Illegal suboption \"proxy_config=/x\" (-h lists all)");
    refused("-N 5", 64, "Number of napi_ids(5) cannot be greater than number of threads(4)");
    refused("-N 0", 64, "Maximum number of NAPI IDs must be greater than 0");
}

Test(settings, udp_and_auth_exclude_each_other)
{
    refused("-Y /x -U 1234", 64,
            "Cannot use UDP with ascii authentication enabled (-U 0 to disable)");
}

Test(settings, udp_and_flash_exclude_each_other)
{
    refused("-U 1234 -o ext_path=/f:64m", 64,
            "Cannot use UDP with extstore enabled (-U 0 to disable)");
}

Test(settings, udp_port_alone_is_the_tcp_port_too)
{
    parse("-U 1234");
    cr_assert_eq(s.port, 1234);
    parse("-U 1234 -p 5");
    cr_assert_eq(s.port, 5);
}

Test(settings, sasl_forces_binary)
{
    accepted("-S -Y /x");
    cr_assert_eq(s.binding_protocol, SETTINGS_PROTOCOL_BINARY);
    cr_assert(s.auth_sasl);
    cr_assert_not(s.auth_ascii);
    accepted("-B binary -Y /x -S");
    cr_assert_str_eq(s.auth_file, "/x");
}

Test(settings, auth_forces_ascii)
{
    accepted("-Y /x");
    cr_assert_eq(s.binding_protocol, SETTINGS_PROTOCOL_ASCII);
}

Test(settings, binary_protocol_alone)
{
    accepted("-B binary");
    cr_assert_eq(s.binding_protocol, SETTINGS_PROTOCOL_BINARY);
}

Test(settings, options_of_flash_without_flash_warn)
{
    cr_assert_eq(parse("-o ext_threads=3"), SETTINGS_GO_ON);
    cr_assert_str_eq(err, "WARNING: ext_threads has no effect without flash (-o ext_path=FILE:SIZE)\n");
    accepted("-o ext_threads=3,ext_path=/f:1g");
    accepted("-o slab_automove_freeratio=0.1");
}

Test(settings, many_threads_warn)
{
    cr_assert_eq(parse("-t 65"), SETTINGS_GO_ON);
    cr_assert_eq(strncmp(err, "WARNING: Setting a high number of worker threads", 48), 0);
}

Test(settings, root_needs_a_user)
{
    accepted("");
    FILE *e = fmemopen(err, sizeof(err), "w");
    cr_assert_eq(settings_check_root(&s, true, e), 64);
    fclose(e);
    cr_assert_str_eq(err, "must add '-u root' to start as root, or -u USER to run as that user\n");
    cr_assert_eq(settings_check_root(&s, false, stderr), SETTINGS_GO_ON);
    accepted("-u root");
    cr_assert_eq(settings_check_root(&s, true, stderr), SETTINGS_GO_ON);
}

/* ---- what charts and services start ---- */

static int parse_vector(const char *const *args)
{
    char *argv[32] = {"memcached"};
    int argc = 1;
    for (; args[argc - 1] != NULL; argc++)
        argv[argc] = (char *)args[argc - 1];
    FILE *o = fmemopen(out, sizeof(out), "w"), *e = fmemopen(err, sizeof(err), "w");
    settings_free(&s);
    int code = settings_parse(&s, argc, argv, o, e);
    fputc('\0', o);
    fputc('\0', e);
    fclose(o);
    fclose(e);
    return code;
}

#define accepted_vector(...)                                                                       \
    do {                                                                                           \
        static const char *const args_[] = {__VA_ARGS__, NULL};                                    \
        cr_assert_eq(parse_vector(args_), SETTINGS_GO_ON, "%s", err);                              \
        cr_assert_str_eq(err, "");                                                                 \
    } while (0)

Test(settings, loki_chunks_cache)
{
    accepted_vector("-m 8192", "--extended=modern,track_sizes", "-I 5m", "-c 16384", "-v",
                    "-u 11211");
    cr_assert_eq(s.maxbytes, 8192 * MiB);
    cr_assert_eq(s.item_size_max, 5 * MiB);
    cr_assert_eq(s.maxconns, 16384);
    cr_assert_eq(s.verbosity, 1);
    cr_assert_str_eq(s.username, "11211");
    cr_assert(s.track_sizes);
}

Test(settings, loki_with_persistence)
{
    accepted_vector("-m 8192",
                    "--extended=modern,track_sizes,ext_path=/data/file:9G,ext_wbuf_size=16", "-I 5m",
                    "-c 1024", "-v", "-u 11211");
    cr_assert_eq(s.ext_wbuf_size, 16 * MiB);
    cr_assert_eq(s.ext_files[0].bytes, 9 * GiB);
    accepted_vector("-m 8192", "--extended=modern,track_sizes,ext_path=/data/file:10G", "-I 5m",
                    "-c 1024", "-v", "-u 11211");
    cr_assert_eq(s.ext_wbuf_size, 8 * MiB);
}

Test(settings, loki_of_memcacheds_wiki)
{
    accepted_vector("-m", "6000", "-I", "2m", "-o",
                    "ext_path=/disk/file:50G,ext_wbuf_size=32,ext_threads=10,ext_max_sleep=10000,"
                    "slab_automove_freeratio=0.10,ext_recache_rate=0");
    cr_assert_eq(s.ext_wbuf_size, 32 * MiB);
    cr_assert_eq(s.ext_recache_rate, 0);
}

Test(settings, mimir)
{
    accepted_vector("-m 8192", "--extended=modern", "-I 5m", "-c 16384", "-v", "-u 11211");
    accepted_vector("-m 8192",
                    "--extended=modern,ext_path=/data/file:9G,ext_wbuf_size=8,ext_threads=10,"
                    "ext_max_sleep=10000,slab_automove_freeratio=0.10,ext_recache_rate=0",
                    "-I 5m", "-c 16384", "-v", "-u 11211");
    cr_assert_eq(s.ext_threads, 10);
    cr_assert_eq(s.slab_automove_freeratio, 0.10);
}

Test(settings, jsonnet_libs)
{
    accepted_vector("-m 1024", "-I 5m", "-c 1024", "-v", "--extended=track_sizes");
    cr_assert_eq(s.maxbytes, GiB);
}

Test(settings, bitnami)
{
    accepted_vector("-m 256 ");
    cr_assert_eq(s.maxbytes, 256 * MiB);
    accepted_vector("-m 64", "-c 1024");
    accepted_vector("-m", "64", "-o", "");
    accepted_vector("-o", "modern,", "--extended=", "--extended=track_sizes,");
    cr_assert(s.track_sizes);
    accepted_vector("-o", "");
}

Test(settings, blanks_around_every_value)
{
    accepted_vector("-p 1", "-U 0", "-a 755 ", "-l 127.0.0.1 ", "-m\t128", "-c 7 ", "-f 1.5 ",
                    "-n 64", "-D :", "-t 2", "-R 9", "-b 5", "-B ascii", "-I 2m ", "-u nobody ",
                    "-N 1 ", "-o track_sizes , ext_path=/f:1g , ext_threads = 3 ",
                    "-U 0", " ");
    cr_assert_eq(s.port, 1);
    cr_assert_eq(s.access_mask, 0755);
    cr_assert_str_eq(s.listen[0].host, "127.0.0.1");
    cr_assert_eq(s.maxbytes, 128 * MiB);
    cr_assert_eq(s.prefix_delimiter, ':');
    cr_assert_eq(s.item_size_max, 2 * MiB);
    cr_assert_eq(s.ext_threads, 3);
    cr_assert_str_eq(s.username, "nobody");
    accepted_vector("-D", " ");
    cr_assert_eq(s.prefix_delimiter, ' ', "a blank alone is meant");
    accepted_vector("-s", " /a b ");
    cr_assert_str_eq(s.socketpath, " /a b ", "names of files are taken as they are");
}

/* ---- files of options ---- */

/* Writes text to a file; *path is its name until the next call. */
static const char *config(const char *text)
{
    static char path[64];
    if (*path != '\0')
        unlink(path);
    strcpy(path, "/tmp/extant-settings-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static int parse_with_config(const char *text, const char *before, const char *after)
{
    char line[512];
    const char *path = config(text);
    snprintf(line, sizeof(line), "%s --config %s %s", before, path, after);
    int code = parse(line);
    unlink(path);
    return code;
}

static const char debian_conf[] =
    "# memcached default config file\n"
    "# 2003 - Jay Bonci <jaybonci@debian.org>\n"
    "\n"
    "# Run memcached as a daemon. This command is implied, and is not needed for the\n"
    "-d\n"
    "logfile /var/log/memcached.log   # not the journal\n"
    "# -v\n"
    "-m 640\n"
    "-p 11212\n"
    "-u memcache\n"
    "-l 127.0.0.1\n"
    "-l ::1\r\n"
    "-P /var/run/memcached/memcached.pid\n";

Test(settings, memcached_conf_of_debian)
{
    cr_assert_eq(parse_with_config(debian_conf, "", ""), SETTINGS_GO_ON, "%s", err);
    cr_assert(s.daemonize);
    cr_assert_str_eq(s.log_file, "/var/log/memcached.log");
    cr_assert_eq(s.verbosity, 0);
    cr_assert_eq(s.maxbytes, 640 * MiB);
    cr_assert_eq(s.port, 11212);
    cr_assert_str_eq(s.username, "memcache");
    cr_assert_eq(s.listen_count, 2);
    cr_assert_str_eq(s.pid_file, "/var/run/memcached/memcached.pid");
}

Test(settings, the_command_line_wins_wherever_it_stands)
{
    cr_assert_eq(parse_with_config(debian_conf, "-m 128", "-p 5"), SETTINGS_GO_ON);
    cr_assert_eq(s.maxbytes, 128 * MiB);
    cr_assert_eq(s.port, 5);
}

Test(settings, every_form_of_a_line)
{
    cr_assert_eq(parse_with_config("-vv\n-m64\n--threads=3\n--conn-limit 9\nlisten = 1.2.3.4\n"
                                   "max-item-size 2m\n-o ext_path=/f:1g,track_sizes\n"
                                   "extended=ext_threads=2\nenable-shutdown",
                                   "", ""),
                 SETTINGS_GO_ON, "%s", err);
    cr_assert_eq(s.verbosity, 2);
    cr_assert_eq(s.maxbytes, 64 * MiB);
    cr_assert_eq(s.num_threads, 3);
    cr_assert_eq(s.maxconns, 9);
    cr_assert_str_eq(s.listen[0].host, "1.2.3.4");
    cr_assert_eq(s.item_size_max, 2 * MiB);
    cr_assert_eq(s.ext_file_count, 1);
    cr_assert_eq(s.ext_threads, 2);
    cr_assert(s.shutdown_command && s.track_sizes);
}

static void config_refused(const char *text, const char *said)
{
    char want[512];
    int code = parse_with_config(text, "", "");
    cr_assert_eq(code, 78, "%s: %d", text, code);
    const char *after = strchr(err, ':'); /* the name of the file is another each time */
    cr_assert_not_null(after, "%s", err);
    snprintf(want, sizeof(want), ":%s\n", said);
    cr_assert_str_eq(after, want);
}

Test(settings, errors_name_the_file_and_the_line)
{
    config_refused("-m 64\n\n-t 0\n", "3: Number of threads must be greater than 0 (-t 0)");
    config_refused("-o ext_pth=/f:1g", "1: Illegal suboption \"ext_pth=/f:1g\" (did you mean \"ext_path\"?)");
    config_refused("thread 4", "1: unknown option \"thread\" (did you mean \"threads\"?)");
    config_refused("zzzzzzz 4", "1: unknown option \"zzzzzzz\" (-h lists all)");
    config_refused("-m", "1: -m needs a value");
    config_refused("-d yes", "1: -d takes no value");
    config_refused("-z", "1: there is no option \"-z\" in a file");
    config_refused("-h", "1: there is no option \"-h\" in a file");
    config_refused("logfile", "1: logfile needs a value");
    char text[5200] = "-m 64\n\n";
    memset(text + strlen(text), 'x', 5000);
    config_refused(text, "3: the line is longer than 4096 bytes");
    refused("--config /tmp", 71, "--config /tmp: Is a directory");
    refused("--config /nonexistent/x", 71, "--config /nonexistent/x: No such file or directory");
    refused("--config", 64, "--config needs a file");
}

Test(settings, check_config)
{
    cr_assert_eq(parse("--check-config -m 64"), 0);
    cr_assert_str_eq(out, "the configuration is valid\n");
    cr_assert_eq(parse("--check-config -m x"), 64);
    cr_assert_eq(parse_with_config("-m x", "--check-config", ""), 78);
}

/* Printed settings, read again, are the same. */
Test(settings, print_config_comes_back_as_it_was)
{
    static char first[sizeof(out)];
    static const char *const lines[] = {
        "",
        "-p 1 -a 755 -A -d -P /p -r -u nobody -m 128 -M -c 7 -k -vv -f 1.5 -n 64 -D . -t 2 -R 9 -C "
        "-b 5 -I 2m -F -X -W -Y /a -e /dev/shm/x -L -l 1.2.3.4,::1 --logfile /log",
        "-o ext_path=/a:9g:compact,ext_path=/b:64m,ext_persist=scan,ext_io_engine=threads,"
        "ext_write_limit=10m,ext_buffer_mem=200,ext_item_age=5,temporary_ttl=61,no_lru_crawler,"
        "hash_algorithm=xxh3,slab_automove=0,ext_max_frag=0.25,idle_timeout=5 -I 5m",
        "-Z -l 127.0.0.1 -o ssl_chain_cert=/c,ssl_key=/k,ssl_keyformat=2,ssl_verify_mode=2,ssl_ciphers=x,ssl_ca_cert=/a,"
        "ssl_wbuf_size=32,ssl_session_cache,ssl_min_version=1,ssl_max_version=2 --http 8080",
        "-o ext_path=/a:64m,ext_format=/a,trust_memory_file -e /dev/shm/x",
        "-o no_modern,slab_sizes=100-200-400,drop_privileges,no_hashexpand -B ascii -m 3000k",
    };
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++) {
        char line[1024];
        snprintf(line, sizeof(line), "--print-config %s", lines[i]);
        cr_assert_eq(parse(line), 0, "%s", err);
        strcpy(first, out);
        cr_assert_eq(parse_with_config(first, "--print-config", ""), 0, "%s\n%s", err, first);
        cr_assert_str_eq(out, first);
    }
    cr_assert_not_null(strstr(first, "\n-o slab_sizes=100-200-400\n"));
    cr_assert_not_null(strstr(first, "\n# -t 4\n"));
}

/* Each word of -o has its line there, but for those that are another's opposite, or several in one. */
Test(settings, print_config_names_every_word_of_the_help)
{
    static const char *const others[] = {
        "no_maxconns_fast", "hashpower",   "maxconns_fast", "slab_reassign",   "no_slab_automove", "lru_crawler",
        "lru_maintainer",   "slab_sizes",  "modern",        "no_modern",       "no_chunked_items", "ext_path",
        "no_drop_privileges", "ext_format", "ssl_chain_cert", "ssl_key",       "ssl_ciphers",      "ssl_ca_cert",
        "http"};
    static char help[sizeof(out)];
    unsigned seen = 0;
    cr_assert_eq(parse("-h"), 0);
    strcpy(help, out);
    cr_assert_eq(parse("--print-config"), 0);
    for (const char *p = help; (p = strstr(p, "\n   - ")) != NULL; seen++) {
        char name[64], line[80];
        p += strlen("\n   - ");
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, ":"), p);
        bool other = false;
        for (size_t i = 0; i < ARRAY_COUNT(others); i++)
            other = other || strcmp(name, others[i]) == 0;
        snprintf(line, sizeof(line), "-o %s", name);
        cr_assert(other || strstr(out, line), "%s", name);
    }
    cr_assert_gt(seen, 50);
}

/* ---- wrong words ---- */

Test(settings, the_nearest_right_word_is_told)
{
    refused("-o ext_pth=/f:1g", 64,
            "Illegal suboption \"ext_pth=/f:1g\" (did you mean \"ext_path\"?)");
    refused("-o slab_reasign", 64, "Illegal suboption \"slab_reasign\" (did you mean \"slab_reassign\"?)");
    refused("-o lru_cralwer", 64, "Illegal suboption \"lru_cralwer\" (did you mean \"lru_crawler\"?)");
    refused("--thread=4x", 64, "Number of threads must be greater than 0"); /* an abbreviation */
    refused("--treads=4", 64,
            "extant: unrecognized option '--treads=4' (did you mean \"threads\"?)");
    refused("--chekc-config", 64,
            "extant: unrecognized option '--chekc-config' (did you mean \"check-config\"?)");
    refused("-o ext_path=/f:64m:colcompact", 64,
            "Unknown extstore bucket: colcompact (did you mean \"coldcompact\"?)\n"
            "failed to parse ext_path argument");
}

/* ---- listening ---- */

Test(settings, listen_forms)
{
    accepted("-l 1.2.3.4,localhost:11 -l [::1]:12 -l ::1 -l *:13 -l tag[web]:proto[x]:9.9.9.9:14");
    cr_assert_eq(s.listen_count, 6);
    cr_assert_str_eq(s.listen[0].host, "1.2.3.4");
    cr_assert_eq(s.listen[0].port, SETTINGS_PORT_DEFAULT);
    cr_assert_str_eq(s.listen[1].host, "localhost");
    cr_assert_eq(s.listen[1].port, 11);
    cr_assert_str_eq(s.listen[2].host, "::1");
    cr_assert_eq(s.listen[2].port, 12);
    cr_assert_str_eq(s.listen[3].host, "::1");
    cr_assert_eq(s.listen[3].port, SETTINGS_PORT_DEFAULT);
    cr_assert_str_eq(s.listen[4].host, "");
    cr_assert_eq(s.listen[4].port, 13);
    cr_assert_str_eq(s.listen[5].host, "9.9.9.9");
}

Test(settings, listen_shows_as_it_was_given)
{
    accepted("-l 1.2.3.4 -l 5.6.7.8:9");
    cr_assert_str_eq(s.inter, "1.2.3.4,5.6.7.8:9");
}

Test(settings, listen_refusals)
{
    refused("-l 1.2.3.4:x", 64, "Invalid port number: \"x\"");
    refused("-l 1.2.3.4:70000", 64, "Invalid port number: \"70000\"");
    refused("-l [::1:11", 64, "Invalid IPV6 address: \"[::1:11\"");
    refused("-l ,", 64, "-l \",\" names no address");
    refused("-l []", 64, "-l \"[]\" has an empty address");
    refused("-l tag[x]:", 64, "-l \"tag[x]:\" has an empty address");
    refused("-l 1.2.3.4,tag[a]:", 64, "-l \"1.2.3.4,tag[a]:\" has an empty address");
    static const char *const nothing[] = {"-l", "", NULL};
    cr_assert_eq(parse_vector(nothing), 64);
    cr_assert_str_eq(err, "-l \"\" names no address\n");
}

Test(settings, port_0_of_an_address_is_any_free_one)
{
    accepted("-l 127.0.0.1:0,::1 -p 0");
    cr_assert_eq(s.listen[0].port, SETTINGS_PORT_ANY);
    cr_assert_eq(s.listen[1].port, SETTINGS_PORT_DEFAULT);
}

/* ---- suboptions ---- */

Test(settings, switches)
{
    accepted("-o no_maxconns_fast,no_hashexpand,no_slab_reassign,no_lru_crawler,track_sizes,"
             "ext_path=/f:1g,ext_drop_unread");
    cr_assert(!s.maxconns_fast && !s.hash_expand && !s.slab_reassign && !s.lru_crawler);
    cr_assert(s.track_sizes && s.ext_drop_unread);
}

Test(settings, numbers)
{
    accepted("-o hashpower=14,slab_automove=2,slab_automove_ratio=0.3,slab_automove_window=20,"
             "slab_automove_freeratio=0.1,tail_repair_time=30,lru_crawler_sleep=7 "
             "-o lru_crawler_tocrawl=8,hot_lru_pct=10,warm_lru_pct=30,hot_max_factor=0.5,"
             "warm_max_factor=3,idle_timeout=9,watcher_logbuf_size=1,worker_logbuf_size=2,"
             "read_buf_mem_limit=3,slab_chunk_max=256,sock_cookie_id=4");
    cr_assert_eq(s.hashpower_init, 14);
    cr_assert_eq(s.slab_automove, 2);
    cr_assert_eq(s.slab_automove_ratio, 0.3);
    cr_assert_eq(s.slab_automove_window, 20);
    cr_assert_eq(s.slab_automove_freeratio, 0.1);
    cr_assert_eq(s.tail_repair_time, 30);
    cr_assert_eq(s.lru_crawler_sleep, 7);
    cr_assert_eq(s.lru_crawler_tocrawl, 8);
    cr_assert_eq(s.hot_lru_pct, 10);
    cr_assert_eq(s.warm_lru_pct, 30);
    cr_assert_eq(s.hot_max_factor, 0.5);
    cr_assert_eq(s.warm_max_factor, 3);
    cr_assert_eq(s.idle_timeout, 9);
    cr_assert_eq(s.watcher_logbuf_size, 1024);
    cr_assert_eq(s.worker_logbuf_size, 2048);
    cr_assert_eq(s.read_buf_mem_limit, 3 * MiB);
    cr_assert_eq(s.slab_chunk_max, 256 * KiB);
    cr_assert_eq(s.sock_cookie_id, 4);
}

Test(settings, flash_numbers)
{
    accepted("-o ext_path=/f:9g,ext_item_size=100,ext_item_age=5,ext_low_ttl=6,ext_recache_rate=7,ext_wbuf_size=8,"
             "ext_page_size=32,ext_threads=3,ext_io_depth=4,ext_compact_under=9,ext_drop_under=10,"
             "ext_max_sleep=11,ext_max_frag=0.5,ext_io_engine=threads,ext_write_limit=10m,ext_daily_writes=2t,ext_rated_writes=0.3,"
             "ext_buffer_mem=100,ext_verify_writes");
    cr_assert_eq(s.ext_item_size, 100);
    cr_assert_eq(s.ext_item_age, 5);
    cr_assert_eq(s.ext_low_ttl, 6);
    cr_assert_eq(s.ext_recache_rate, 7);
    cr_assert_eq(s.ext_wbuf_size, 8 * MiB);
    cr_assert_eq(s.ext_page_size, 32 * MiB);
    cr_assert_eq(s.ext_threads, 3);
    cr_assert_eq(s.ext_io_depth, 4);
    cr_assert_eq(s.ext_compact_under, 9);
    cr_assert_eq(s.ext_drop_under, 10);
    cr_assert_eq(s.ext_max_sleep, 11);
    cr_assert_eq(s.ext_max_frag, 0.5);
    cr_assert_eq(s.ext_io_engine, SETTINGS_ENGINE_THREADS);
    cr_assert_eq(s.ext_write_limit, 10 * MiB);
    cr_assert_eq(s.ext_daily_writes, 2048 * GiB);
    cr_assert_eq(s.ext_rated_writes, 0.3);
    cr_assert_eq(s.ext_buffer_mem, 100 * MiB);
    cr_assert(s.ext_verify_writes);
}

Test(settings, admission_and_reclaim)
{
    accepted("-m 64");
    cr_assert_eq(s.ext_admission, SETTINGS_ADMISSION_LEARN);
    cr_assert_eq(s.ext_stay_pct, 33);
    cr_assert_eq(s.ext_rewrite_pct, 10);
    cr_assert_eq(s.ext_ttl_groups, 16);
    accepted("-o ext_path=/f:64m,ext_admission=all,ext_stay_pct=0,ext_rewrite_pct=0,ext_ttl_groups=0");
    cr_assert_eq(s.ext_ttl_groups, 0);
    cr_assert_eq(s.ext_admission, SETTINGS_ADMISSION_ALL);
    cr_assert_eq(s.ext_stay_pct, 0);
    cr_assert_eq(s.ext_rewrite_pct, 0);
    accepted("-o ext_path=/f:64m,ext_admission=strict,ext_stay_pct=100,ext_rewrite_pct=25");
    cr_assert_eq(s.ext_admission, SETTINGS_ADMISSION_STRICT);
    refused("-o ext_admission=some", 64, "ext_admission must be all, strict or learn");
    refused("-o ext_ttl_groups=33", 64, "ext_ttl_groups must be between 0 and 32");
    refused("-o ext_stay_pct=101", 64, "ext_stay_pct must be between 0 and 100");
    refused("-o ext_rewrite_pct=x", 64, "could not parse argument to ext_rewrite_pct: \"x\" is not a whole number");
}

Test(settings, persist_without_value_is_on)
{
    accepted("-o ext_path=/x/f:1g");
    cr_assert_eq(s.ext_persist, SETTINGS_PERSIST_OFF);
    accepted("-o ext_path=/x/f:1g,ext_persist");
    cr_assert_eq(s.ext_persist, SETTINGS_PERSIST_ON);
    accepted("-o ext_path=/x/f:1g,ext_persist=scan");
    cr_assert_eq(s.ext_persist, SETTINGS_PERSIST_SCAN);
    accepted("-o ext_path=/x/f:1g,ext_persist,ext_persist=off");
    cr_assert_eq(s.ext_persist, SETTINGS_PERSIST_OFF);
}

Test(settings, automove_without_value_is_one)
{
    accepted("-o no_slab_automove,slab_automove");
    cr_assert_eq(s.slab_automove, 1);
}

Test(settings, temporary_ttl_turns_temp_on)
{
    accepted("-o temporary_ttl=100");
    cr_assert(s.temp_lru);
    cr_assert_eq(s.temporary_ttl, 100);
}

Test(settings, no_lru_maintainer_makes_it_flat)
{
    accepted("-o no_lru_maintainer");
    cr_assert(!s.lru_maintainer && !s.lru_segmented);
    accepted("-o no_lru_maintainer,lru_maintainer");
    cr_assert(s.lru_maintainer && s.lru_segmented);
}

Test(settings, no_modern)
{
    accepted("-o no_modern");
    cr_assert(!s.maxconns_fast && !s.slab_reassign && s.slab_automove == 0 && !s.lru_crawler);
    cr_assert(!s.lru_maintainer && !s.lru_segmented);
    cr_assert_eq(s.slab_chunk_max, MiB);
    cr_assert_str_eq(s.hash_algorithm, "jenkins");
}

Test(settings, dead_suboptions_are_accepted)
{
    accepted("-o modern,inline_ascii_resp,no_inline_ascii_resp,resp_obj_mem_limit=5");
}

Test(settings, privileges_are_dropped_if_asked)
{
    accepted("");
    cr_assert(!s.drop_privileges && !s.relaxed_privileges);
    accepted("-o drop_privileges");
    cr_assert(s.drop_privileges);
#ifdef EXTANT_DEBUG
    accepted("-o relaxed_privileges");
    cr_assert(s.relaxed_privileges);
#else
    refused("-o relaxed_privileges", 64,
            "-o relaxed_privileges: only debug builds relax drop_privileges");
#endif
    accepted("-o drop_privileges,no_drop_privileges");
    cr_assert(!s.drop_privileges);
}

Test(settings, slab_sizes)
{
    accepted("-o slab_sizes=100-200-400");
    cr_assert_eq(s.slab_size_count, 3);
    cr_assert_eq(s.slab_sizes[0], 100);
    cr_assert_eq(s.slab_sizes[2], 400);
}

Test(settings, slab_sizes_refusals)
{
    refused("-o slab_sizes=a", 64, "slab size a is out of valid range");
    refused("-o slab_sizes=1-2", 64, "slab size 1 is out of valid range");
    refused("-o slab_sizes=100-64", 64,
            "slab size 64 cannot be lower than or equal to a previous class size");
    refused("-o slab_sizes=100-105", 64,
            "slab size 105 must be at least 8 bytes larger than previous class");
    refused("-o slab_sizes=100-2000000", 64, "slab size 2000000 is out of valid range");
    refused("-o slab_sizes", 64, "Missing slab_sizes argument");
}

Test(settings, unknown_suboptions)
{
    refused("-o foo", 64, "Illegal suboption \"foo\" (-h lists all)");
    refused("-o foo=1", 64, "Illegal suboption \"foo=1\" (-h lists all)");
    refused("-o ,track_sizes", 64, "Illegal suboption \"(null)\" (the list has an entry without a name)");
    refused("-o track_sizes,,modern", 64, "Illegal suboption \"(null)\" (the list has an entry without a name)");
}

Test(settings, suboption_refusals)
{
    refused("-o hashpower", 64, "Missing numeric argument for hashpower");
    refused("-o hashpower=5", 64, "Initial hashtable multiplier of 5 is too low");
    refused("-o hashpower=x", 64, "Initial hashtable multiplier of 0 is too low");
    refused("-o hashpower=40", 64,
            "Initial hashtable multiplier of 40 is too high\n"
            "Choose a value based on \"STAT hash_power_level\" from a running instance");
    refused("-o slab_automove=3", 64, "slab_automove must be between 0 and 2");
    refused("-o slab_automove_ratio=0", 64, "slab_automove_ratio must be > 0 and < 1");
    refused("-o slab_automove_ratio=2", 64, "slab_automove_ratio must be > 0 and < 1");
    refused("-o slab_automove_ratio", 64, "Missing slab_automove_ratio argument");
    refused("-o slab_automove_window=1", 64, "slab_automove_window must be > 2 and < 1800");
    refused("-o tail_repair_time=1", 64, "Cannot set tail_repair_time to less than 10 seconds");
    refused("-o tail_repair_time", 64, "Missing numeric argument for tail_repair_time");
    refused("-o hash_algorithm=foo", 64, "Unknown hash_algorithm option (jenkins, murmur3, xxh3)");
    refused("-o hash_algorithm", 64, "Missing hash_algorithm argument");
    refused("-o lru_crawler_sleep=2000000", 64, "LRU crawler sleep must be between 0 and 1 second");
    refused("-o lru_crawler_sleep", 64, "Missing lru_crawler_sleep value");
    refused("-o lru_crawler_tocrawl=x", 64, "lru_crawler_tocrawl takes a numeric 32bit value");
    refused("-o hot_lru_pct=90", 64, "hot_lru_pct must be > 1 and < 80");
    refused("-o hot_lru_pct=50,warm_lru_pct=50", 64,
            "hot_lru_pct + warm_lru_pct cannot be more than 80% combined");
    refused("-o hot_max_factor=0", 64, "hot_max_factor must be > 0");
    refused("-o warm_max_factor=0", 64, "warm_max_factor must be > 0");
    refused("-o temporary_ttl", 64, "Missing temporary_ttl argument");
    refused("-o idle_timeout", 64, "Missing numeric argument for idle_timeout");
    refused("-o watcher_logbuf_size=x", 64, "could not parse argument to watcher_logbuf_size: \"x\" is not a whole number");
    refused("-o slab_chunk_max=0", 64, "slab_chunk_max must be >= 0");
    refused("-o slab_chunk_max=7000", 64, "slab_chunk_max must be specified in kilobytes.");
    refused("-o slab_chunk_max=3", 64,
            "-I (item_size_max: 1048576) must be evenly divisible by slab_chunk_max (bytes: 3072)");
    refused("-o slab_chunk_max=300 -I 900k", 64,
            "slab_chunk_max (bytes: 307200) must divide evenly into 1048576 (slab_page_size)");
    refused("-o read_buf_mem_limit=-1", 64, "could not parse argument to read_buf_mem_limit: \"-1\" is not a whole number");
    refused("-o lru_crawler=0", 64, "lru_crawler takes no value");
    refused("-o ext_max_frag=x", 64, "could not parse argument to ext_max_frag: \"x\" is not a number");
    refused("-o ext_rated_writes=0", 64, "ext_rated_writes must be between 0.001 and 1000");
    refused("-o ext_path=/f:64m,ext_write_limit=2000t", 64, "ext_write_limit is too large");
    refused("-o ext_max_frag=1.5", 64, "ext_max_frag must be between 0 and 1");
    refused("-o ext_threads=0", 64, "ext_threads must be greater than 0");
    refused("-o ext_threads", 64, "Missing ext_threads argument");
    refused("-o ext_io_engine=aio", 64, "ext_io_engine must be auto, uring or threads");
    refused("-o ext_persist=maybe", 64, "ext_persist must be off, on or scan");
    refused("-o ext_persist", 64, "ext_persist needs flash (-o ext_path=FILE:SIZE)");
    refused("-o ext_item_age=1.5", 64, "could not parse argument to ext_item_age: \"1.5\" is not a whole number");
    refused("-o ext_item_age=4294967296", 64, "ext_item_age must be between 0 and 4294967295");
}

/* ---- flash files ---- */

Test(settings, ext_path_units)
{
    accepted("-o ext_path=/a:64m -o ext_path=/b:2G,ext_path=/c:1t");
    cr_assert_eq(s.ext_file_count, 3);
    cr_assert_str_eq(s.ext_files[0].path, "/a");
    cr_assert_eq(s.ext_files[0].bytes, 64 * MiB);
    cr_assert_eq(s.ext_files[1].bytes, 2 * GiB);
    cr_assert_eq(s.ext_files[2].bytes, 1024 * GiB);
    cr_assert_eq(s.ext_files[2].bucket, SETTINGS_BUCKET_DEFAULT);
}

Test(settings, ext_path_buckets)
{
    accepted("-o ext_path=/a:64m:default,ext_path=/b:64m:compact,ext_path=/c:64m:lowttl,"
             "ext_path=/d:64m:chunked,ext_path=/e:64m:coldcompact,ext_path=/f:64m:old");
    cr_assert_eq(s.ext_files[1].bucket, SETTINGS_BUCKET_COMPACT);
    cr_assert_eq(s.ext_files[2].bucket, SETTINGS_BUCKET_LOWTTL);
    cr_assert_eq(s.ext_files[3].bucket, SETTINGS_BUCKET_CHUNKED);
    cr_assert_eq(s.ext_files[4].bucket, SETTINGS_BUCKET_COLDCOMPACT);
    cr_assert_eq(s.ext_files[5].bucket, SETTINGS_BUCKET_OLD);
}

Test(settings, ext_path_with_colons_in_its_name)
{
    accepted("-o ext_path=/dev/by:id:64m");
    cr_assert_str_eq(s.ext_files[0].path, "/dev/by:id");
}

#define NEED_SIZE                                                                                  \
    "must supply size to ext_path, ie: ext_path=/f/e:64m (m|g|t|p supported)\n"                    \
    "failed to parse ext_path argument"

#define FOUR_PAGES(page)                                                                               \
    "ext_path needs room for at least 4 pages of bucket default; a page has " page " here (ext_page_size): " \
    "enlarge the files or make pages smaller"

Test(settings, ext_path_refusals)
{
    refused("-o ext_path", 64, "missing argument to ext_path, ie: ext_path=/d/file:5G");
    refused("-o ext_path=/f", 64, NEED_SIZE);
    refused("-o ext_path=/f:64", 64, NEED_SIZE);
    refused("-o ext_path=/f:1GB", 64, NEED_SIZE);
    refused("-o ext_path=/f:64k", 64, NEED_SIZE);
    refused("-o ext_path=/f:0m", 64, "supplied ext_path has zero size, cannot use");
    refused("-o ext_path=/f:1.5g", 64,
            "ext_path size \"1.5g\" is not a whole number followed by m, g, t or p");
    refused("-o ext_path=/f:64m:foo", 64,
            "Unknown extstore bucket: foo (-h lists all)\nfailed to parse ext_path argument");
    refused("-o ext_path=:64m", 64, "ext_path has no file name: :64m");
    refused("-o ext_path=/f:2m", 64, FOUR_PAGES("2 MB"));
    refused("-o ext_path=/f:32m,ext_page_size=64", 64,
            "ext_path /f is smaller than one page (ext_page_size, 64 MB)");
    refused("-m 2 -I 512k -o ext_path=/f:64m", 64, "-m must be at least 3 with flash: less leaves no memory for its index");
    refused("-m 3071k -I 512k -o ext_path=/f:64m", 64, "-m must be at least 3 with flash: less leaves no memory for its index");
    accepted("-m 3 -I 512k -o ext_path=/f:64m");
}

Test(settings, ext_format_names_files_of_flash)
{
    accepted("-o ext_path=/f:64m,ext_format=/g,ext_path=/g:64m");
    cr_assert(!s.ext_files[0].format);
    cr_assert(s.ext_files[1].format);
    refused("-o ext_path=/f:64m,ext_format", 64,
            "missing argument to ext_format, ie: ext_format=/dev/sdb");
    refused("-o ext_path=/f:64m,ext_format=", 64,
            "missing argument to ext_format, ie: ext_format=/dev/sdb");
    refused("-o ext_path=/f:64m,ext_format=/g", 64, "ext_format names /g, which no ext_path and no -e does");
    accepted("-o ext_path=/f:64m,ext_format=/m -e /m");
    cr_assert(s.format_memory_file && !s.ext_files[0].format);
    accepted("-o ext_path=/f:64m,ext_format=/f -e /m");
    cr_assert(!s.format_memory_file && s.ext_files[0].format);
}

Test(settings, ext_path_twice)
{
    refused("-o ext_path=/f:64m,ext_path=/f:64m", 64, "ext_path names the file /f twice");
}

Test(settings, ext_path_twice_by_a_link)
{
    char dir[] = "/tmp/extant-settings-XXXXXX", a[64], b[64], line[256];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(a, sizeof(a), "%s/a", dir);
    snprintf(b, sizeof(b), "%s/b", dir);
    close(open(a, O_CREAT | O_WRONLY, 0600));
    cr_assert_eq(symlink("a", b), 0);
    snprintf(line, sizeof(line), "-o ext_path=%s:64m,ext_path=%s:64m", a, b);
    int code = parse(line);
    unlink(a);
    unlink(b);
    rmdir(dir);
    cr_assert_eq(code, 64);
    cr_assert_not_null(strstr(err, "twice"));
}

Test(settings, page_size_refusals)
{
    refused("-o ext_path=/f:64m,ext_page_size=0", 64, "ext_page_size must be between 64k and 1024m");
    refused("-o ext_path=/f:64m,ext_page_size=4096", 64, "ext_page_size must be between 64k and 1024m");
    refused("-o ext_path=/f:64m,ext_page_size=x", 64, "could not parse argument to ext_page_size: \"x\" is not a size, such as 512k or 64m");
    refused("-o ext_path=/f:64m,ext_page_size=7", 64,
            "Failed to initialize external storage: page_size must be divisible by wbuf_size (ext_page_size is 7 MB, ext_wbuf_size 2 MB)");
    refused("-o ext_path=/f:99m,ext_page_size=9,ext_wbuf_size=3", 64,
            "Failed to initialize external storage: page_size and wbuf_size must be divisible by "
            "1024*1024*2 (ext_page_size is 9 MB, ext_wbuf_size 3 MB)");
    refused("-o ext_path=/f:64m,ext_page_size=63k", 64, "ext_page_size must be between 64k and 1024m");
    refused("-I 64k -o slab_chunk_max=64,ext_path=/f:64m,ext_page_size=96k,ext_wbuf_size=96k", 64,
            "Failed to initialize external storage: page_size and wbuf_size must be divisible by "
            "1024*1024*2, or below that by 1024*64 (ext_page_size is 96 KB, ext_wbuf_size 96 KB)");
    refused("-I 512k -o ext_path=/f:1m,ext_page_size=1536k,ext_wbuf_size=512k", 64,
            "ext_path /f is smaller than one page (ext_page_size, 1536 KB)");
    refused("-o ext_path=/f:64m,ext_wbuf_size=0", 64, "ext_wbuf_size must be between 64k and 1024m");
}

Test(settings, small_caches_have_small_pages)
{
    accepted("-I 128k -o slab_chunk_max=64,ext_path=/f:16m,ext_page_size=512k,ext_wbuf_size=128k");
    cr_assert_eq(s.ext_page_size, 512 * KiB);
    cr_assert_eq(s.ext_wbuf_size, 128 * KiB);
    cr_assert_eq(settings_ext_page_count(&s), 32);
    accepted("-I 64k -o slab_chunk_max=64,ext_path=/f:2m,ext_wbuf_size=64k"); /* two write buffers each */
    cr_assert_eq(settings_ext_page_count(&s), 16);
    accepted("-o ext_path=/f:64m,ext_page_size=4m,ext_wbuf_size=2m");
    cr_assert_eq(s.ext_page_size, 4 * MiB);
}

Test(settings, page_size_after_path_counts)
{
    accepted("-o ext_path=/f:64m,ext_page_size=8");
    cr_assert_eq(settings_ext_page_count(&s), 8);
}

Test(settings, small_files_get_small_pages)
{
    accepted("-o ext_path=/f:64m");
    cr_assert_eq(s.ext_page_size, 4 * MiB);
    cr_assert_eq(s.ext_wbuf_size, 2 * MiB);
    accepted("-o ext_path=/f:16m");
    cr_assert_eq(s.ext_page_size, 2 * MiB);
    cr_assert_eq(s.ext_wbuf_size, 2 * MiB);
    accepted("-o ext_path=/f:8m");
    cr_assert_eq(s.ext_page_size, 2 * MiB);
    cr_assert_eq(s.ext_wbuf_size, 2 * MiB);
    refused("-o ext_path=/f:7m", 64, FOUR_PAGES("2 MB")); /* a write buffer is larger than -I */
    accepted("-I 512k -o ext_path=/f:4m");
    cr_assert_eq(s.ext_page_size, MiB);
    cr_assert_eq(s.ext_wbuf_size, MiB);
    accepted("-o ext_path=/f:64m,ext_path=/g:9g:compact");
    cr_assert_eq(s.ext_page_size, 16 * MiB);
    accepted("-o ext_path=/f:1g"); /* as many as groups of values that expire together need */
    cr_assert_eq(s.ext_page_size, 8 * MiB);
    accepted("-o ext_path=/f:8g");
    cr_assert_eq(s.ext_page_size, 64 * MiB);
    cr_assert_eq(s.ext_wbuf_size, 2 * MiB);
}

static char kept_line[400];

static bool keeps(const char *words, uint64_t page, uint64_t wbuf)
{
    accepted(words);
    return settings_keep_sizes(&s, page, wbuf, kept_line, sizeof(kept_line));
}

Test(settings, sizes_of_what_is_on_flash_replace_the_defaults)
{
    cr_assert(keeps("-o ext_path=/f:64m,ext_path=/g:64m", 8 * MiB, 4 * MiB));
    cr_assert_str_eq(kept_line, "flash: pages of 8 MB and write buffers of 4 MB stay as its content was made with them; the "
                                "defaults are 4 MB and 2 MB now (ext_page_size and ext_wbuf_size would change them, and "
                                "empty flash)");
    cr_assert_eq(s.ext_page_size, 8 * MiB);
    cr_assert_eq(s.ext_wbuf_size, 4 * MiB);
    cr_assert_eq(s.ext_buffer_mem, 32 * MiB);
    cr_assert(keeps("-o ext_path=/f:1g", 64 * MiB, 2 * MiB));
    cr_assert_eq(s.ext_buffer_mem, 34 * MiB); /* one for groups: 1/32 of -m 64 */
    cr_assert(keeps("-o ext_path=/f:4g", MiB, MiB));
    cr_assert_eq(s.ext_compact_under, 40);
    cr_assert_eq(s.ext_drop_under, 40);
    cr_assert(keeps("-o ext_path=/f:4g,ext_compact_under=3,ext_drop_under=2,ext_buffer_mem=50,ext_wbuf_size=2", 8 * MiB, 2 * MiB));
    cr_assert_eq(s.ext_page_size, 8 * MiB);
    cr_assert_eq(s.ext_compact_under, 3);
    cr_assert_eq(s.ext_drop_under, 2);
    cr_assert_eq(s.ext_buffer_mem, 50 * MiB);
    cr_assert(!keeps("-o ext_path=/f:4g", 32 * MiB, 2 * MiB));
    cr_assert_str_eq(kept_line, "", "they are the defaults");
}

Test(settings, sizes_that_were_given_or_do_not_fit_are_not_kept)
{
    static const struct {
        const char *words;
        uint64_t page, wbuf;
        const char *why; /* NULL: nothing is said here */
    } cases[] = {
        {"-o ext_path=/f:4g,ext_page_size=8", 4 * MiB, 2 * MiB, NULL},
        {"-o ext_path=/f:4g,ext_wbuf_size=4", 4 * MiB, 2 * MiB, NULL},
        {"-o ext_path=/f:4g -I 4m", 4 * MiB, 2 * MiB, "items of -I need larger write buffers"},
        {"-o ext_path=/f:4g,ext_buffer_mem=20", 64 * MiB, 8 * MiB, "ext_buffer_mem has no room for such write buffers"},
        {"-o ext_path=/f:64m", 32 * MiB, 4 * MiB, "there would be too few pages"},
        {"-o ext_path=/f:64m,ext_path=/g:9m", 16 * MiB, 4 * MiB, "there would be too few pages"},
        {"-o ext_path=/f:1t", 4 * MiB, 2 * MiB, "there would be too many pages"},
        {"-o ext_path=/f:4g", 0, 2 * MiB, "they make no sense"},
        {"-o ext_path=/f:4g", 4 * MiB, 0, "they make no sense"},
        {"-o ext_path=/f:4g", 4 * MiB, 3 * MiB, "they make no sense"},
        {"-o ext_path=/f:4g", 4 * MiB + 4096, 2 * MiB, "they make no sense"},
        {"-o ext_path=/f:4g", UINT64_MAX, 2 * MiB, "they make no sense"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        cr_assert(!keeps(cases[i].words, cases[i].page, cases[i].wbuf), "%zu", i);
        const char *why = strstr(kept_line, "can't stay: ");
        cr_assert_str_eq(why ? why + 12 : kept_line, cases[i].why ? cases[i].why : "", "%zu: %s", i, kept_line);
    }
}

Test(settings, too_many_pages)
{
    refused("-o ext_path=/f:1t,ext_page_size=8", 64,
            "Failed to initialize external storage: page_count must total to < 65536. Increase "
            "page_size or lower path sizes (ext_path adds up to 131072 pages of 8 MB)");
}

Test(settings, too_many_bytes)
{
    refused("-o ext_path=/f:17t,ext_page_size=1024", 64, "ext_path sizes add up to more than 16 TB");
}

Test(settings, item_size_above_wbuf)
{
    refused("-I 8m -o ext_path=/f:64m,ext_wbuf_size=4", 64,
            "-I (item_size_max: 8388608) cannot be larger than ext_wbuf_size: 4194304");
}

Test(settings, the_write_buffer_grows_with_the_largest_item)
{
    accepted("-I 5m -o ext_path=/f:9G");
    cr_assert_eq(s.ext_wbuf_size, 8 * MiB);
    cr_assert_eq(s.ext_page_size, 64 * MiB);
    cr_assert_eq(s.ext_buffer_mem, 64 * MiB);
    accepted("-I 4m -o ext_path=/f:9G");
    cr_assert_eq(s.ext_wbuf_size, 4 * MiB);
    cr_assert_eq(s.ext_buffer_mem, 32 * MiB);
    accepted("-I 1536k -o ext_path=/f:9G"); /* two of the largest have room in it */
    cr_assert_eq(s.ext_wbuf_size, 4 * MiB);
    accepted("-I 1m -o ext_path=/f:9G");
    cr_assert_eq(s.ext_wbuf_size, 2 * MiB);
    accepted("-m 1024 -I 128m -o ext_path=/f:9G");
    cr_assert_eq(s.ext_wbuf_size, 128 * MiB);
    cr_assert_eq(s.ext_page_size, 128 * MiB);
    accepted("-I 5m -o ext_path=/f:9G,ext_page_size=12");
    cr_assert_eq(s.ext_wbuf_size, 6 * MiB);
    refused("-I 16m -o ext_path=/f:9G,ext_page_size=12", 64,
            "Failed to initialize external storage: page_size must be divisible by wbuf_size (ext_page_size is 12 MB, ext_wbuf_size 16 MB)");
    accepted("-I 5m");
    cr_assert_eq(s.ext_wbuf_size, 2 * MiB, "without flash there is none");
}

Test(settings, compact_under_is_one_percent_of_all)
{
    accepted("-o ext_path=/a:64g,ext_path=/b:64g");
    cr_assert_eq(s.ext_compact_under, 20);
    cr_assert_eq(s.ext_drop_under, 20);
}

Test(settings, compact_under_is_at_least_one)
{
    accepted("-o ext_path=/a:64m");
    cr_assert_eq(s.ext_compact_under, 1);
}

Test(settings, compact_under_as_given)
{
    accepted("-o ext_path=/a:64g,ext_compact_under=0,ext_drop_under=3");
    cr_assert_eq(s.ext_compact_under, 0);
    cr_assert_eq(s.ext_drop_under, 3);
}

Test(settings, buffer_memory_default)
{
    accepted("-m 63 -o ext_path=/a:64m");
    cr_assert_eq(s.ext_buffer_mem, 32 * MiB);
    accepted("-m 63 -o ext_path=/a:32m"); /* half of flash, */
    cr_assert_eq(s.ext_buffer_mem, 16 * MiB);
    accepted("-m 63 -o ext_path=/a:16m"); /* but at least eight buffers, */
    cr_assert_eq(s.ext_buffer_mem, 16 * MiB);
    accepted("-m 63 -o ext_path=/a:64m,ext_wbuf_size=1"); /* and just these if their size was given */
    cr_assert_eq(s.ext_buffer_mem, 9 * MiB);
    accepted("-m 512 -o ext_path=/a:64m"); /* a 32nd of -m for groups of values that expire together, */
    cr_assert_eq(s.ext_buffer_mem, 48 * MiB);
    accepted("-m 65536 -o ext_path=/a:64m"); /* up to one buffer for each */
    cr_assert_eq(s.ext_buffer_mem, 64 * MiB);
    accepted("-m 1024 -o ext_path=/a:64m,ext_ttl_groups=0");
    cr_assert_eq(s.ext_buffer_mem, 32 * MiB);
}

/* The engine needs four, and one for reclaim. */
Test(settings, buffer_memory_holds_five_write_buffers)
{
    refused("-o ext_path=/a:64m,ext_buffer_mem=19,ext_wbuf_size=4", 64,
            "ext_buffer_mem must be at least 20: 5 write buffers of 4 MB (ext_wbuf_size)");
    accepted("-o ext_path=/a:64m,ext_buffer_mem=20,ext_wbuf_size=4");
    cr_assert_eq(s.ext_buffer_mem, 20 * MiB);
    accepted("-o ext_path=/a:64m,ext_buffer_mem=21");
    refused("-o ext_path=/a:64m,ext_wbuf_size=2,ext_buffer_mem=9", 64,
            "ext_buffer_mem must be at least 10: 5 write buffers of 2 MB (ext_wbuf_size)");
    accepted("-o ext_path=/a:64m,ext_wbuf_size=2,ext_buffer_mem=10");
}

Test(settings, four_pages_of_class_default)
{
    refused("-o ext_path=/a:15m,ext_page_size=4", 64, FOUR_PAGES("4 MB"));
    accepted("-o ext_path=/a:16m,ext_page_size=4");
    accepted("-o ext_path=/a:17m,ext_page_size=4");
    accepted("-o ext_path=/a:8m,ext_path=/b:8m,ext_page_size=4");
    refused("-o ext_path=/a:8m,ext_path=/b:64m:compact,ext_page_size=4", 64, FOUR_PAGES("4 MB"));
}

Test(settings, threads_of_flash)
{
    refused("-o ext_path=/a:64m,ext_threads=0", 64, "ext_threads must be greater than 0");
    accepted("-o ext_path=/a:64m,ext_threads=1");
    accepted("-o ext_path=/a:64m,ext_threads=64");
    refused("-o ext_path=/a:64m,ext_threads=65", 64, "ext_threads must be between 1 and 64");
}

/* ---- help, version, licence ---- */

Test(settings, version)
{
    cr_assert_eq(parse("-V"), 0);
    cr_assert_str_eq(out, "extant 0.1.0 (memcached 1.6.45 protocol)\n");
    cr_assert_eq(parse("--version"), 0);
    cr_assert_str_eq(out, "extant 0.1.0 (memcached 1.6.45 protocol)\n");
}

Test(settings, licence)
{
    cr_assert_eq(parse("-i"), 0);
    cr_assert_not_null(strstr(out, "BSD"));
}

Test(settings, help_names_what_is_there)
{
    cr_assert_eq(parse("-h"), 0);
    const char *const words[] = {"ext_path",        "unix-socket",    "--threads",
                                 "slab_sizes",      "ext_io_engine",  "(default: 64)",
                                 "ext_write_limit", "ext_buffer_mem", "no_drop_privileges",
                                 "ext_verify_writes", "ext_daily_writes", "ext_admission", "ext_stay_pct",
                                 "ext_rewrite_pct", "ext_ttl_groups"};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        cr_assert_not_null(strstr(out, words[i]), "%s", words[i]);
}

Test(settings, help_is_grouped_and_begins_with_examples)
{
    static const char *const order[] = {"\nExamples\n",   "ext_path=/ssd",  "\nWhere clients connect\n",
                                        "\n-p, --port=",   "\nMemory and items\n", "\n--config=<file>",
                                        "\n-o: Flash\n",  "   - ext_path:", "\n-o: Memory and slabs\n",
                                        "   - slab_sizes:", "\n-o: LRU and expiry\n", "   - maxconns_fast:",
                                        "\nExit codes: "};
    cr_assert_eq(parse("--help"), 0);
    const char *at = out;
    for (size_t i = 0; i < ARRAY_COUNT(order); i++) {
        at = strstr(at, order[i]);
        cr_assert_not_null(at, "%s", order[i]);
    }
}

Test(settings, help_is_silent_on_what_is_not)
{
    cr_assert_eq(parse("-h"), 0);
    const char *const words[] = {"proxy_config",
#ifndef EXTANT_TLS
                                 "enable-ssl", "ssl_",
#endif
    };
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        cr_assert_null(strstr(out, words[i]), "%s", words[i]);
}

/* ---- what `stats settings` shows, as text ---- */

struct text {
    char bytes[8192];
    size_t len;
};

static void emit(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void emit(void *ctx, const char *name, const char *fmt, ...)
{
    struct text *t = ctx;
    va_list ap;
    t->len += (size_t)snprintf(t->bytes + t->len, sizeof(t->bytes) - t->len, "%s ", name);
    va_start(ap, fmt);
    t->len += (size_t)vsnprintf(t->bytes + t->len, sizeof(t->bytes) - t->len, fmt, ap);
    va_end(ap);
    t->len += (size_t)snprintf(t->bytes + t->len, sizeof(t->bytes) - t->len, "\n");
}

/* ---- TLS ---- */

#ifdef EXTANT_TLS
Test(settings, tls_settings_are_memcacheds)
{
    static struct text t;
    accepted("-Z -o ssl_chain_cert=/c,ssl_key=/k,ssl_verify_mode=2,ssl_keyformat=2,ssl_ciphers=A:B,"
             "ssl_ca_cert=/a,ssl_wbuf_size=64,ssl_session_cache,ssl_kernel_tls,ssl_min_version=3");
    settings_print_stats(&s, emit, &t);
    cr_assert_not_null(
        strstr(t.bytes, "\nssl_enabled yes\nssl_chain_cert /c\nssl_key /k\nssl_verify_mode 3\n"
                        "ssl_keyformat 2\nssl_ciphers A:B\nssl_ca_cert /a\nssl_wbuf_size 65536\n"
                        "ssl_session_cache yes\nssl_kernel_tls yes\nssl_min_version tlsv1.3\n"
                        "num_napi_ids 0\n"));
}

Test(settings, tls_words_for_the_key_and_bounds_for_versions)
{
    accepted("-o ssl_keyformat=PEM");
    cr_assert_eq(s.ssl_keyformat, SETTINGS_KEY_PEM);
    accepted("-o ssl_keyformat=DER,ssl_verify_mode=3,ssl_min_version=1,ssl_max_version=2");
    cr_assert_eq(s.ssl_keyformat, SETTINGS_KEY_DER);
    cr_assert_eq(s.ssl_verify_mode, 7);
    cr_assert_eq(s.ssl_min_version, 1);
    cr_assert_eq(s.ssl_max_version, 2);
}

Test(settings, tls_refusals)
{
    refused("-Z", 64, "-Z needs a certificate: -o ssl_chain_cert=FILE");
    refused("-o ssl_chain_cert", 64, "Missing ssl_chain_cert argument");
    refused("-o ssl_key", 64, "Missing ssl_key argument");
    refused("-o ssl_ciphers", 64, "Missing ssl_ciphers argument");
    refused("-o ssl_ca_cert", 64, "Missing ssl_ca_cert argument");
    refused("-o ssl_verify_mode", 64, "Missing ssl_verify_mode argument");
    refused("-o ssl_verify_mode=x", 64, "could not parse argument to ssl_verify_mode");
    refused("-o ssl_verify_mode=4", 64,
            "Invalid ssl_verify_mode. Use help to see valid options.");
    refused("-o ssl_keyformat=3", 64,
            "could not parse argument to ssl_keyformat (1 or PEM, 2 or DER)");
    refused("-o ssl_min_version=x", 64, "could not parse argument to ssl_min_version: \"x\" is not a whole number");
    refused("-o ssl_min_version=4", 64,
            "Invalid ssl_min_version. Use help to see valid options.");
    refused("-o ssl_max_version=4", 64,
            "Invalid ssl_max_version. Use help to see valid options.");
    refused("-o ssl_max_version=1", 64, "ssl_min_version cannot be larger than ssl_max_version");
    refused("-o ssl_wbuf_size=x", 64, "could not parse argument to ssl_wbuf_size: \"x\" is not a whole number");
    refused("-o ssl_wbuf_size=0", 64, "ssl_wbuf_size must be greater than 0");
    refused("-l notls:1.2.3.4", 64, "'notls' option is valid only when SSL is enabled (-Z)");
    refused("-l mtls:1.2.3.4", 64, "'mtls' option is valid only when SSL is enabled (-Z)");
}

Test(settings, tls_of_each_listener)
{
    accepted("-Z -o ssl_chain_cert=/c -l 1.2.3.4,notls:1.2.3.5,tag[a]:mtls:1.2.3.6,btls:1.2.3.7:9");
    static const enum settings_tls want[] = {SETTINGS_TLS_DEFAULT, SETTINGS_TLS_NONE,
                                             SETTINGS_TLS_CLIENT_CERT, SETTINGS_TLS_NO_CLIENT_CERT};
    cr_assert_eq(s.listen_count, 4);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(s.listen[i].tls, want[i], "listener %u", i);
    accepted("-l 1.2.3.4");
    cr_assert_eq(s.listen[0].tls, SETTINGS_TLS_NONE);
}
#endif

/* ---- stats settings ---- */

Test(settings, stats_are_memcacheds)
{
    static struct text t;
    accepted("-s /sock");
    settings_print_stats(&s, emit, &t);
    cr_assert_str_eq(
        t.bytes,
        "maxbytes 67108864\nmaxconns 1024\ntcpport 11211\nudpport 0\ninter NULL\nverbosity 0\n"
        "oldest 0\nevictions on\ndomain_socket /sock\numask 700\nshutdown_command no\n"
        "growth_factor 1.25\nchunk_size 48\nnum_threads 4\nnum_threads_per_udp 4\n"
        "stat_key_prefix :\ndetail_enabled no\nreqs_per_event 20\ncas_enabled yes\n"
        "tcp_backlog 1024\nbinding_protocol auto-negotiate\nauth_enabled_sasl no\n"
        "auth_enabled_ascii no\nitem_size_max 1048576\nmaxconns_fast yes\nhashpower_init 0\n"
        "slab_reassign yes\nslab_automove 1\nslab_automove_ratio 0.80\nslab_automove_window 10\n"
        "slab_chunk_max 524288\nlru_crawler yes\nlru_crawler_sleep 100\nlru_crawler_tocrawl 0\n"
        "tail_repair_time 0\nflush_enabled yes\ndump_enabled yes\nhash_algorithm murmur3\n"
        "lru_maintainer_thread yes\nlru_segmented yes\nhot_lru_pct 20\nwarm_lru_pct 40\n"
        "hot_max_factor 0.20\nwarm_max_factor 2.00\ntemp_lru no\ntemporary_ttl 61\n"
        "idle_timeout 0\nwatcher_logbuf_size 262144\nworker_logbuf_size 65536\n"
        "read_buf_mem_limit 0\ntrack_sizes no\ninline_ascii_response no\n"
        "drop_privileges no\next_item_size 512\n"
        "ext_item_age 4294967295\next_low_ttl 0\next_recache_rate 2000\next_wbuf_size 2097152\n"
        "ext_compact_under 0\next_drop_under 0\next_max_sleep 1000000\next_max_frag 0.80\n"
        "slab_automove_freeratio 0.010\next_drop_unread no\n"
#ifdef EXTANT_TLS
        "ssl_enabled no\nssl_chain_cert NULL\nssl_key NULL\nssl_verify_mode 0\nssl_keyformat 1\n"
        "ssl_ciphers NULL\nssl_ca_cert NULL\nssl_wbuf_size 16384\nssl_session_cache no\n"
        "ssl_kernel_tls no\nssl_min_version tlsv1.2\n"
#endif
        "num_napi_ids 0\n"
        "memory_file (null)\nclient_flags_size 4\n");
}

Test(settings, stats_show_changes)
{
    static struct text t;
    accepted("-M -a 755 -D . -B ascii -C");
    settings_print_stats(&s, emit, &t);
    cr_assert_not_null(strstr(t.bytes, "evictions off\n"));
    cr_assert_not_null(strstr(t.bytes, "umask 755\n"));
    cr_assert_not_null(strstr(t.bytes, "stat_key_prefix .\ndetail_enabled yes\n"));
    cr_assert_not_null(strstr(t.bytes, "binding_protocol ascii\n"));
    cr_assert_not_null(strstr(t.bytes, "cas_enabled no\n"));
}

Test(settings, bucket_names)
{
    cr_assert_str_eq(settings_bucket_name(SETTINGS_BUCKET_LOWTTL), "lowttl");
}
