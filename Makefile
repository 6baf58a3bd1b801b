# What people and machines run. On a fresh Debian with a Rust toolchain, `make demo` and `make test`
# need nothing else: they install what is missing, and start no service that they do not end.

.POSIX:
.SUFFIXES:
.PHONY: help build man demo test screenshots simulate killed exhaustive fuzz lint advisories

# A C compiler and linker, for the crate ring, for SQLite and for Rust itself.
BUILDS = gcc libc6-dev
DEMO = $(BUILDS) git haproxy monitoring-plugins-basic
TEST = $(DEMO) argon2 ca-certificates chromium fonts-dejavu-core groff-base iproute2 mosquitto mosquitto-clients openssl \
	prometheus prometheus-alertmanager python3 python3-aiosmtpd python3-jsonschema strace tmux
# A node that is not Debian's brings its npm along, and the two packages do not go together.
NODE = command -v npm >/dev/null || sh scripts/packages.sh nodejs npm; sh scripts/page-tests.sh

help:
	@echo 'make demo         a fleet on this machine, upgraded before your eyes'
	@echo 'make test         every test, on real parts'
	@echo 'make screenshots  the pictures of the page in docs/'
	@echo 'make simulate     500 seeds of the fault simulator, or SEEDS=10000'
	@echo 'make killed       controller and agents killed at every single effect of a rollout, not only at some'
	@echo 'make exhaustive   every interleaving of the cores, as far as a machine can in about an hour'
	@echo 'make fuzz         a search for input that evenkeel cannot take, SECONDS=60 for each kind; needs a nightly compiler'
	@echo 'make lint         format, clippy, licenses and sources of dependencies'
	@echo 'make advisories   known vulnerabilities of dependencies (asks github.com)'
	@echo 'make build        target/release/evenkeel'
	@echo 'make man          its manual pages, in target/man'

build:
	@sh scripts/packages.sh $(BUILDS)
	cargo build --release --locked

man: build
	target/release/evenkeel man target/man

# ARGS="--help" shows what it can do.
demo:
	@sh scripts/packages.sh $(DEMO)
	cargo build --release --locked
	target/release/evenkeel demo $(ARGS)

# cargo-nextest runs tests faster where it is installed; it is not needed.
test:
	@sh scripts/packages.sh $(TEST)
	@$(NODE)
	cargo test --locked --profile simulate --test sim --test exhaustive
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --locked; \
	else set -x; cargo test --locked; fi

# The pictures of the page in docs/, taken of a fleet in mid-rollout.
screenshots:
	@sh scripts/packages.sh $(TEST)
	@$(NODE)
	EVENKEEL_SCREENSHOTS=$(CURDIR)/docs cargo test --locked --test e2e screenshots

SEEDS = 500
FIRST = 0

# SEEDS=10000 plays that many, FIRST=500 others than the first ones.
simulate:
	@sh scripts/packages.sh $(BUILDS)
	SEEDS=$(SEEDS) FIRST=$(FIRST) cargo test --locked --profile simulate --test sim seeds -- --nocapture

# Some minutes with Mosquitto (PLACES=at_every_effect::mosquitto); more than an hour with the embedded broker, which
# dies with the controller, so that every agent has to come back.
PLACES = effect

killed:
	@sh scripts/packages.sh $(TEST)
	EVENKEEL_EVERY_PLACE=1 cargo test --locked --test e2e $(PLACES) -- --nocapture

exhaustive:
	@sh scripts/packages.sh $(BUILDS)
	EXHAUSTIVE=1 cargo test --locked --profile simulate --test exhaustive -- --nocapture --test-threads 1

SECONDS = 60

fuzz:
	@sh scripts/packages.sh $(BUILDS) g++
	sh scripts/fuzz.sh $(SECONDS)

lint:
	@sh scripts/packages.sh $(BUILDS)
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	sh scripts/cargo-deny.sh --all-features check --hide-inclusion-graph bans licenses sources
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --no-default-features -- -D warnings

advisories:
	sh scripts/cargo-deny.sh --all-features check advisories
