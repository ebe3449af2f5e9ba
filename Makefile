# make demo | test | test-matrix | test-units | test-patroni | test-repmgr | test-pg-rewind | lint | cargo-deny | audit | bench (ARGS=...) | bench-kernels | install (PREFIX=/usr/local DESTDIR=)
PREFIX ?= /usr/local
CARGO ?= cargo

ifndef CARGO_TARGET_DIR
places = target
endif

# PostgreSQL refuses root: when root runs the tests, cargo starts the test binaries through a runner
# that gives root up. The binaries must then lie where that user can reach them.
ifeq ($(shell id -u),0)
host := $(shell rustc -vV 2> /dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export CARGO_TARGET_$(host)_RUNNER := $(CURDIR)/tests/run-as-unprivileged
ifndef CARGO_TARGET_DIR
ifneq ($(shell setpriv --reuid=65534 --regid=65534 --clear-groups test -x '$(CURDIR)' 2>/dev/null && echo reachable),reachable)
export CARGO_TARGET_DIR := /var/cache/pg_reseed/target
endif
endif
endif
target = $(or $(CARGO_TARGET_DIR),target)

# What a user has built is installed by root, who may have no cargo and builds elsewhere: the last one that was built
# counts, unless somebody says where it is.
built = $(shell ls -t $(addsuffix /release/pg_reseed,$(sort $(target) $(places))) 2> /dev/null | head -n 1)

.PHONY: build demo test test-units test-matrix test-patroni test-patroni-quick test-repmgr test-pg-rewind lint lint-sources lint-crates cargo-deny audit bench bench-kernels install

build:
	$(CARGO) build --release --locked

demo:
	demo/run

# Tests wait for servers most of the time: more of them than processors.
export RUST_TEST_THREADS ?= $(shell echo $$(( 3 * $$(nproc) )))

# Everything on the installed PostgreSQL, then what needs a server on the newest as well. What is tested keeps ignoring
# signals that are ignored at its start, as in the background of a script.
test:
	env --default-signal=HUP,INT,TERM $(CARGO) test --locked
	tests/matrix 18

# What needs a server on every major.
test-matrix:
	tests/matrix

# pg_reseed under managers that are not ours; what they need is brought. ARGS is for the rig: see its first lines.
test-patroni test-repmgr test-pg-rewind:
	@test -x /usr/bin/python3 || apt-get install -y --no-install-recommends python3
	tests/managers/$(@:test-%=%) $(ARGS)

# The part of it that every CI run has, with the program that the tests have built.
test-patroni-quick:
	$(CARGO) build --locked
	PG_RESEED_RIG_BINARY='$(target)/debug/pg_reseed' tests/managers/patroni quick

# Units, alert rules, dashboard and metrics, by the programs that will read them.
test-units:
	$(CARGO) build --locked
	tests/units

lint: lint-sources lint-crates

lint-sources:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps --document-private-items
	bash -n demo/run benches/peers/rsync-standby tests/pg-versions tests/matrix tests/journeys tests/units fuzz/run .ci/run
	sh -n tests/run-as-unprivileged
	/usr/bin/python3 -c 'import ast, sys; [ast.parse(open(name).read(), name) for name in sys.argv[1:]]' tests/managers/*

lint-crates: cargo-deny
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources

# Its own release profile has LTO over all crates and one unit: minutes, for a program that runs for two seconds. In a
# folder of its own, so that it can be built beside something else.
cargo-deny:
	$(CARGO) deny --version > /dev/null 2>&1 || { \
		CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug --target-dir '$(target)/cargo-deny' cargo-deny \
		&& rm -rf '$(target)/cargo-deny'; }

# Known vulnerabilities of what is linked in: needs their list, which is on GitHub, and so is no part of lint.
audit: cargo-deny
	$(CARGO) deny --locked check --hide-inclusion-graph advisories

# As root without the runner of the tests: the benchmark drops the page cache, and gives root up itself.
bench:
	$(if $(host),env -u CARGO_TARGET_$(host)_RUNNER) $(CARGO) bench --locked --bench peers -- $(ARGS)

bench-kernels:
	$(CARGO) bench --locked --bench kernels

# Needs no cargo.
install:
	@test -n '$(built)' || { \
		echo 'pg_reseed is not built in $(CURDIR): run "make" first, as the user who has cargo (and where' \
			'CARGO_TARGET_DIR is set there, say it here too: make install CARGO_TARGET_DIR=...)' >&2; exit 1; }
	@newer=$$(find src -name '*.rs' -newer '$(built)' | head -n 1); test -z "$$newer" || { \
		echo "$(built) is older than $$newer: run \"make\" first" >&2; exit 1; }
	install -D -m 0755 '$(built)' '$(DESTDIR)$(PREFIX)/bin/pg_reseed'
	for page in man/*.1; do \
		install -D -m 0644 "$$page" '$(DESTDIR)$(PREFIX)/share/man/man1'/"$${page##*/}" || exit; \
	done
