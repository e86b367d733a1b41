# Extant's build. `make` needs a compiler and the libraries below; `make serve`
# and `make test` install what is missing first (scripts/install-deps.sh), so
# nothing here may call the compiler while this file is being read.
#
# Every *.c at the top and in the rooms below belongs to the library, except server.c, which has main.
# Each variant is compiled into its own directory:
#   build/release  ./extant        -O3, asserts on
#   build/debug    ./extant-debug  lock order and other costly checks, debug commands
#   build/asan     build/extant-asan   as debug, with ASan, LSan and UBSan
#   build/tsan     build/extant-tsan   as debug, with TSan
#   build/nolock   build/extant-nolock  as release, but no lock in the extent map; for bench
#   build/clang    the same sources through clang, only to see them compile
#   build/cov      as release, with gcov's counters; for make coverage
#   build/notls/server  as debug, without TLS, for a test
#   build/fuzz     as asan, through clang with libFuzzer: a fuzzer for each t/fuzz/fuzz_*.c
#
# Settable: CC=clang, MARCH=native, LTO= (none), V=1 (show commands), TESTS="t/unit/a_test.c t/live/b.sh".

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(shell uname -m),x86_64)
MARCH ?= x86-64-v2
endif
PREFIX ?= /usr/local
DESTDIR ?=
IS_CLANG := $(findstring clang,$(CC))
LTO ?= $(if $(IS_CLANG),,1)
JOBS ?= $(shell nproc)

Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $(2)")

# ---- sources -------------------------------------------------------------------------

SERVER_SRC := $(wildcard server.c)
ROOMS := base space proto operator flash upkeep items restart command net
# TLS needs OpenSSL; without its headers it is left out. TLS= leaves it out in any case.
TLS ?= $(if $(wildcard /usr/include/openssl/ssl.h /usr/local/include/openssl/ssl.h),1)
LIB_SRC := $(sort $(filter-out server.c $(if $(TLS),,net/tls.c net/tls_conn.c), \
               $(wildcard *.c) $(wildcard $(ROOMS:%=%/*.c))))
HEADERS := $(sort $(wildcard *.h $(ROOMS:%=%/*.h)))
TEST_SRC := $(sort $(wildcard t/unit/*_test.c))
TEST_AID_SRC := $(sort $(filter-out t/aid/plain_runner.c t/aid/sys_faults.c,$(wildcard t/aid/*.c)) \
                  $(wildcard t/fuzz/fuzz_*.c))
# sys_faults.c has a malloc and a fcntl of its own: only for tests that name it. In an archive it
# would come along with any test that calls one of them, and TSan can't start under it.
FAULTY_TESTS := $(if $(TEST_SRC),$(shell grep -l 'sys_faults.h"' $(TEST_SRC)))
TEST_SCRIPTS := $(sort $(shell find t -name node_modules -prune -o -type f -perm -u+x \
                  '(' -name '*.sh' -o -name '*.t' -o -name '*.py' ')' -print))
# Tests that start threads, or say "run under TSan", run under TSan too.
TSAN_TESTS := $(if $(TEST_SRC),$(shell grep -liE 'pthread_create|run under TSan' $(TEST_SRC)))

# ---- flags ---------------------------------------------------------------------------

BASE_FLAGS := -std=gnu11 -Wall -Wextra -Werror -D_GNU_SOURCE -pthread \
              $(if $(MARCH),-march=$(MARCH)) -I. $(if $(TLS),-DEXTANT_TLS)
LIBS := $(if $(TLS),-lssl -lcrypto) -levent_core -levent_extra -levent_pthreads -luring -lisal -lblkid \
        -lm -pthread
EXTRA_CFLAGS ?=

cflags_release := -O3 -g -fno-omit-frame-pointer $(if $(LTO),-flto$(if $(IS_CLANG),,=auto))
cflags_nolock := $(cflags_release) -DEXTMAP_NO_LOCK
cflags_debug := -O1 -g -fno-omit-frame-pointer -DEXTANT_DEBUG
cflags_asan := $(cflags_debug) -fsanitize=address,undefined -fno-sanitize-recover=all
cflags_cov := -O1 -g --coverage -fprofile-update=atomic
cflags_tsan := $(cflags_debug) -fsanitize=thread $(if $(IS_CLANG),,-Wno-tsan)
# The linker drops a library that nothing names (--as-needed is the default of many systems, and with LTO
# malloc doesn't seem to be used), so this tells it to keep jemalloc.
JEMALLOC := -Wl,--push-state,--no-as-needed -ljemalloc -Wl,--pop-state
libs_release := $(JEMALLOC) $(LIBS)
libs_nolock := $(libs_release)
libs_debug := $(JEMALLOC) $(LIBS)
libs_asan := $(LIBS)
libs_tsan := $(LIBS)
libs_cov := $(LIBS)

# ---- plain make ----------------------------------------------------------------------

.PHONY: all
all: build/release/libextant.a build/debug/libextant.a
ifneq ($(SERVER_SRC),)
all: extant extant-debug
endif

.PHONY: FORCE
FORCE:

# Names what is missing in one line, before a compiler error says it worse.
build/.checked: scripts/install-deps.sh
	$(Q)CC=$(CC) TLS=$(TLS) scripts/install-deps.sh check
	$(Q)mkdir -p $(@D) && touch $@

# $(1) variant: objects, archive, the server, and the tests built on them.
define variant
build/$(1)/flags: FORCE | build/.checked
	@mkdir -p build/$(1)
	@echo '$(CC) $(BASE_FLAGS) $(cflags_$(1)) $(EXTRA_CFLAGS)' | cmp -s - $$@ || \
	 echo '$(CC) $(BASE_FLAGS) $(cflags_$(1)) $(EXTRA_CFLAGS)' >$$@

build/$(1)/%.o: %.c build/$(1)/flags
	$$(call say,CC,$$@)
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(CC) $(BASE_FLAGS) $(cflags_$(1)) $(EXTRA_CFLAGS) -MMD -MP -c -o $$@ $$<

# Rebuilt from nothing each time, so that an object whose source is gone goes too; q, because r takes
# two members of one name for the same.
build/$(1)/net/status.o: net/status.html

build/$(1)/libextant.a: $(LIB_SRC:%.c=build/$(1)/%.o) build/$(1)/flags
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $(if $(LTO),gcc-ar,ar) qcs $$@ $$(filter %.o,$$^)

build/$(1)/libtest.a: $(TEST_AID_SRC:%.c=build/$(1)/%.o) build/$(1)/flags Makefile
	$$(Q)rm -f $$@ && ar qcs $$@ $$(filter %.o,$$^)

$(FAULTY_TESTS:%.c=build/$(1)/%): build/$(1)/t/aid/sys_faults.o

build/$(1)/t/unit/%_test: build/$(1)/t/unit/%_test.o build/$(1)/t/aid/plain_runner.o \
                     build/$(1)/libtest.a build/$(1)/libextant.a
	$$(call say,LD,$$@)
	$$(Q)$(CC) $(cflags_$(1)) $(LDFLAGS) -o $$@ $$(filter %.o,$$^) build/$(1)/libtest.a \
	    build/$(1)/libextant.a -lcriterion $(libs_$(1))

build/$(1)/server: build/$(1)/server.o build/$(1)/libextant.a
	$$(call say,LD,$$@)
	$$(Q)$(CC) $(cflags_$(1)) $(LDFLAGS) -o $$@ $$< build/$(1)/libextant.a $(libs_$(1))

-include $(wildcard $(addprefix build/$(1)/,$(addsuffix /*.d,. $(ROOMS) t/unit t/aid t/fuzz)))
endef
$(foreach v,release nolock debug asan tsan cov,$(eval $(call variant,$(v))))
.SECONDARY:

# The build without the OpenSSL headers: three files differ, two are left out.
NO_TLS_SRC := server.c operator/settings.c operator/command_line.c
$(NO_TLS_SRC:%.c=build/notls/%.o): build/notls/%.o: %.c build/debug/flags
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -DEXTANT_TLS,$(BASE_FLAGS)) $(cflags_debug) $(EXTRA_CFLAGS) -MMD -MP -c -o $@ $<
build/notls/server: $(NO_TLS_SRC:%.c=build/notls/%.o) \
                    $(patsubst %.c,build/debug/%.o,$(filter-out net/tls.c net/tls_conn.c $(NO_TLS_SRC),$(LIB_SRC)))
	$(call say,LD,$@)
	$(Q)$(CC) $(cflags_debug) $(LDFLAGS) -o $@ $^ $(filter-out -lssl -lcrypto,$(libs_debug))
-include $(NO_TLS_SRC:%.c=build/notls/%.d)

# Copied and renamed, so that a running server's binary can be replaced.
extant: build/release/server
extant-debug: build/debug/server
build/extant-asan: build/asan/server
build/extant-tsan: build/tsan/server
build/extant-nolock: build/nolock/server
extant extant-debug build/extant-asan build/extant-tsan build/extant-nolock:
	$(Q)cp $< $@.new && mv -f $@.new $@

.PHONY: asan tsan
asan: build/extant-asan
tsan: build/extant-tsan

build/clang/net/status.o build/fuzz/net/status.o: net/status.html

# ---- clang, and headers that stand alone ---------------------------------------------

CLANG ?= clang
build/clang/%.o: %.c | build/.checked
	$(call say,CLANG,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(BASE_FLAGS) -O1 $(EXTRA_CFLAGS) -MMD -MP -c -o $@ $<

build/clang/%.h.ok: %.h | build/.checked
	$(Q)mkdir -p $(@D)
	$(Q)echo '#include "$<"' | \
	    $(CLANG) $(BASE_FLAGS) -fsyntax-only -MMD -MP -MF $@.d -MT $@ -x c -
	$(Q)touch $@

.PHONY: clang-check
clang-check: $(patsubst %.c,build/clang/%.o,$(LIB_SRC) $(SERVER_SRC) $(wildcard t/*/*.c)) \
             $(HEADERS:%=build/clang/%.ok)
-include $(wildcard $(addprefix build/clang/,$(addsuffix /*.d,. $(ROOMS) t/unit t/aid t/fuzz)))

# ---- tests ---------------------------------------------------------------------------

# What `make test` runs; TESTS narrows it to the named sources and scripts.
PICK_SRC := $(if $(TESTS),$(filter $(TESTS),$(TEST_SRC)),$(TEST_SRC))
PICK_TSAN := $(if $(TESTS),$(filter $(TESTS),$(TSAN_TESTS)),$(TSAN_TESTS))
PICK_SCRIPTS := $(if $(TESTS),$(filter $(TESTS),$(TEST_SCRIPTS)),$(TEST_SCRIPTS))
TEST_BINS := $(PICK_SRC:%.c=build/asan/%) $(PICK_TSAN:%.c=build/tsan/%)
# Named tests get the servers that they run: a unit test those of its sanitizers if it spawns any (the
# harness does), a script all. Without names everything is built, also through clang.
ifneq ($(TESTS),)
SPAWNS := $(if $(PICK_SRC),$(shell grep -l 'harness.h"' $(PICK_SRC)))
SERVES := $(if $(PICK_SCRIPTS),$(shell grep -lE 'EXTANT|clients_lib' $(PICK_SCRIPTS)))
TEST_SERVERS := $(if $(SPAWNS),build/extant-asan $(if $(filter $(SPAWNS),$(PICK_TSAN)),build/extant-tsan)) \
                $(if $(SERVES),all build/extant-asan build/extant-tsan build/notls/server)
else
TEST_SERVERS := all build/extant-asan build/extant-tsan build/notls/server clang-check
endif

.PHONY: test test-build test-run
test:
	@scripts/install-deps.sh test
	@$(MAKE) --no-print-directory -k -j$(JOBS) test-build || echo 'test: the build failed' >&2
	@$(MAKE) --no-print-directory test-run

test-build: $(TEST_BINS) $(sort $(TEST_SERVERS))

# Says "compile" when an object of some compiler is missing; missing test programs fail too.
test-run:
	@EXTANT="$(CURDIR)/extant" EXTANT_DEBUG_BIN="$(CURDIR)/extant-debug" \
	 EXTANT_ASAN_BIN="$(CURDIR)/build/extant-asan" \
	 EXTANT_TSAN_BIN="$(CURDIR)/build/extant-tsan" \
	 EXTANT_NO_TLS_BIN="$(CURDIR)/build/notls/server" \
	 scripts/run-tests.sh compile $(TEST_BINS) $(PICK_SCRIPTS)

# Fails when anything that test-build makes is missing or out of date.
.PHONY: compiled
compiled:
	@$(MAKE) --no-print-directory -k -j$(JOBS) test-build

# ---- coverage ------------------------------------------------------------------------

.PHONY: coverage coverage-build
coverage-build: $(TEST_SRC:%.c=build/cov/%) build/cov/server
coverage:
	@scripts/install-deps.sh test
	@scripts/coverage.sh

# ---- fuzzers -------------------------------------------------------------------------

FUZZERS := $(patsubst t/fuzz/fuzz_%.c,build/fuzz/bin/%,$(wildcard t/fuzz/fuzz_*.c))
FUZZ_FLAGS := -O2 -g -fno-omit-frame-pointer -DEXTANT_DEBUG -DFUZZER -fno-sanitize-recover=all
build/fuzz/%.o: %.c | build/.checked
	$(call say,FUZZ,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(BASE_FLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined \
	    -MMD -MP -c -o $@ $<

# Walks over a whole index: watching each comparison costs too much and tells nothing.
build/fuzz/restart/attach.o build/fuzz/index.o build/fuzz/items/lru.o: \
    FUZZ_FLAGS += -fno-sanitize-coverage=trace-cmp
build/fuzz/libextant.a: $(LIB_SRC:%.c=build/fuzz/%.o) build/fuzz/t/aid/cache_fixture.o build/fuzz/t/aid/life.o build/fuzz/t/aid/stepped.o
	$(Q)rm -f $@ && ar qcs $@ $^

$(FUZZERS): build/fuzz/bin/%: build/fuzz/t/fuzz/fuzz_%.o build/fuzz/libextant.a
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< \
	    build/fuzz/libextant.a $(LIBS)
-include $(wildcard $(addprefix build/fuzz/,$(addsuffix /*.d,. $(ROOMS) t/aid t/fuzz)))

# Searches: each fuzzer for FUZZ_SECONDS from where the last search ended, with another seed each time.
# What they find is left in build/fuzz/found. (In `make test` each has a fixed seed and number of runs.)
FUZZ_SECONDS ?= 60
.PHONY: fuzzers fuzz
fuzzers: $(FUZZERS)
fuzz:
	@scripts/install-deps.sh test
	@FUZZ_SECONDS=$(FUZZ_SECONDS) t/fuzz/fuzz.sh

# ---- running, measuring, installing --------------------------------------------------

SERVE_ARGS ?= -l 127.0.0.1 -p 11211 -m 64 -o ext_path=data/extant.flash:1g,ext_persist
# Where tmpfs has room, memory survives a kill as well. SERVE_MEMORY= leaves it out.
SERVE_MEMORY ?= /dev/shm/extant-$(shell id -u).memory
.PHONY: serve
serve:
	@scripts/install-deps.sh build
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@mkdir -p data
	@if [ "$$(id -u)" = 0 ]; then args='-u root'; fi; \
	 free=$$(df --output=avail -k $(dir $(SERVE_MEMORY)) 2>/dev/null | tail -n 1); \
	 if [ -n '$(SERVE_MEMORY)' ] && [ "$${free:-0}" -gt 131072 ]; then args="$$args -e $(SERVE_MEMORY)"; fi; \
	 echo "extant: ./extant $$args $(SERVE_ARGS)"; exec ./extant $$args $(SERVE_ARGS)

# The load generator stands alone; the benches of a module are built on the library.
build/load: scripts/load.c scripts/load_gen.h scripts/load_hist.h scripts/load_tls.h | build/.checked
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror $(if $(TLS),-DEXTANT_TLS) $(LDFLAGS) -o $@ $< \
	    -levent_core -lm $(if $(TLS),-lssl -lcrypto)

REPLAY_SRC := scripts/replay.c scripts/replay_trace.c scripts/replay_sim.c scripts/replay_policy.c \
    items/ghost.c items/admission.c
build/replay: $(REPLAY_SRC) $(wildcard scripts/replay_*.h) items/ghost.h items/admission.h | build/.checked
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -I. $(LDFLAGS) -o $@ $(REPLAY_SRC) -lm

build/bench_%: scripts/bench_%.c build/release/libextant.a build/release/flags
	$(call say,LD,$@)
	$(Q)$(CC) $(BASE_FLAGS) $(cflags_release) $(EXTRA_CFLAGS) $(LDFLAGS) -o $@ $< \
	    build/release/libextant.a $(libs_release)

ifneq ($(wildcard scripts/bench.sh),)
.PHONY: bench
bench:
	@scripts/install-deps.sh bench
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@EXTANT="$(CURDIR)/extant" scripts/bench.sh
endif

# Kills a server under load; CYCLES=1000 SEED=7 and scripts/torture.py --help for more.
CYCLES ?= 30
.PHONY: torture
torture:
	@scripts/install-deps.sh build python3
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@scripts/torture.py --server ./extant --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))

# The program, its pages, completion, units, users and a directory on tmpfs; extant.conf only if there is
# none yet. Nothing is started.
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
SYSTEMD ?= $(PREFIX)/lib/systemd/system
SHARE := $(PREFIX)/share
INSTALLED := $(PREFIX)/bin/extant $(PREFIX)/bin/extant-top $(SHARE)/man/man1/extant.1 \
             $(SHARE)/man/man1/extant-top.1 $(SHARE)/bash-completion/completions/extant \
             $(SYSTEMD)/extant.service $(SYSTEMD)/extant.socket $(PREFIX)/lib/sysusers.d/extant.conf \
             $(PREFIX)/lib/tmpfiles.d/extant.conf $(SHARE)/extant/alerts.yml \
             $(SHARE)/extant/grafana.json $(SHARE)/extant/loki-values.yaml $(SHARE)/extant/mimir-values.yaml

build/extant.1: extant packaging/man-page.py
	$(Q)command -v python3 >/dev/null || \
	 { echo 'extant: no python3, which writes extant(1): apt-get install python3-minimal' >&2; exit 1; }
	$(Q)packaging/man-page.py ./extant >$@

put = install -D -m $(1) $(2) '$(DESTDIR)$(3)'
.PHONY: install uninstall
install: extant build/extant.1
	$(call put,755,extant,$(PREFIX)/bin/extant)
	$(call put,755,scripts/extant-top,$(PREFIX)/bin/extant-top)
	$(call put,644,build/extant.1,$(SHARE)/man/man1/extant.1)
	$(call put,644,packaging/extant-top.1,$(SHARE)/man/man1/extant-top.1)
	$(call put,644,packaging/extant.bash,$(SHARE)/bash-completion/completions/extant)
	sed 's|@BINDIR@|$(PREFIX)/bin|; s|@SYSCONFDIR@|$(SYSCONFDIR)|' packaging/systemd/extant.service >build/extant.service
	$(call put,644,build/extant.service,$(SYSTEMD)/extant.service)
	$(call put,644,packaging/systemd/extant.socket,$(SYSTEMD)/extant.socket)
	$(call put,644,packaging/extant.sysusers,$(PREFIX)/lib/sysusers.d/extant.conf)
	$(call put,644,packaging/extant.tmpfiles,$(PREFIX)/lib/tmpfiles.d/extant.conf)
	$(call put,644,packaging/prometheus/alerts.yml,$(SHARE)/extant/alerts.yml)
	$(call put,644,packaging/grafana/extant.json,$(SHARE)/extant/grafana.json)
	$(call put,644,packaging/kubernetes/loki-values.yaml,$(SHARE)/extant/loki-values.yaml)
	$(call put,644,packaging/kubernetes/mimir-values.yaml,$(SHARE)/extant/mimir-values.yaml)
	test -e '$(DESTDIR)$(SYSCONFDIR)/extant.conf' || $(call put,644,packaging/extant.conf,$(SYSCONFDIR)/extant.conf)

# Removes all of it, except a changed extant.conf.
uninstall:
	rm -f $(INSTALLED:%='$(DESTDIR)%')
	cmp -s packaging/extant.conf '$(DESTDIR)$(SYSCONFDIR)/extant.conf' && rm -f '$(DESTDIR)$(SYSCONFDIR)/extant.conf' || true
	rmdir --ignore-fail-on-non-empty '$(DESTDIR)$(SHARE)/extant'

# A Debian package, in build/deb, from the files that git tracks.
.PHONY: deb
deb:
	@packaging/deb.sh

# The package in a fresh chroot: installed, upgraded, purged. As root.
.PHONY: deb-check
deb-check: deb
	@packaging/deb-check.sh

.PHONY: clean
clean:
	rm -rf build extant extant-debug
