# Targets are documented by the comment behind their name; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test test-postgres test-host crash soak fuzz lint bench deb setup clean build

# Tests end their output with this list: what was not run, and why.
NOT_RUN := $(CURDIR)/target/not-run.txt
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
# `make demo ARGS="--nodes 5"`
ARGS ?=
# `make soak SECONDS=600 SEED=2 LIVES=2000`
SECONDS ?= 600
SEED ?= 1
LIVES ?= 2000

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## Build every program (debug)
	cargo build --workspace --bins --locked

demo: build ## Start the whole system on this machine; Ctrl-C stops it
	@./target/debug/ez-demo $(ARGS)

test: ## Build, then run every test this machine can run
	@mkdir -p target && rm -f $(NOT_RUN)
	cargo build --workspace --bins --locked
ifeq ($(NEXTEST),yes)
	EZ_NOT_RUN=$(NOT_RUN) cargo nextest run --workspace --locked --no-fail-fast
else
	EZ_NOT_RUN=$(NOT_RUN) cargo test --workspace --locked --no-fail-fast
endif
	cargo test --workspace --doc --locked --quiet
	@packaging/not-run $(NOT_RUN)

fuzz: ## Throw bytes at what reads bytes: make fuzz SECONDS=20 (for each target)
	packaging/fuzz $(if $(filter file,$(origin SECONDS)),20,$(SECONDS))

crash: ## Kill every program at every write and commit of a purchase (an hour or so)
	cargo build --workspace --bins --locked
	EZ_CRASH_EVERY=1 EZ_CRASH_SHARDS=4 cargo nextest run --workspace --locked --no-capture --profile long -E 'test(crash_points) or test(purging)'

soak: ## Random faults over 20 nodes and 500 purchases, and ten lives told 2,000 times: make soak SECONDS=600 SEED=1
	cargo build --workspace --bins --locked
	EZ_SOAK_SECONDS=$(SECONDS) EZ_SOAK_SEED=$(SEED) EZ_SOAK_NODES=20 EZ_SOAK_PURCHASES=500 \
		cargo nextest run --workspace --locked --no-capture --profile long -E 'test(soak)'
	EZ_LIVES=$(LIVES) cargo nextest run -p ez-control-plane --locked --profile long -E 'test(money::lives::)'

# Those whose names end in a database have been told on both by `make test`.
test-postgres: ## The stories end to end that `make test` tells on SQLite alone, on PostgreSQL (TEST_POSTGRES_URL)
	EZ_E2E_DATABASE=postgres cargo nextest run --workspace --locked --no-fail-fast \
		-E 'package(ez-simulator) and kind(test) and not (test(crash_points) or test(scenarios) or test(torn) or test(purging) or test(soak) or test(/_on_(sqlite|postgres)$$/))'

deb: ## The agent's package into target/debian/ (another architecture: TARGET=aarch64-unknown-linux-gnu)
	packaging/make-deb $(TARGET)

test-host: ## Checks that need root or Debian tools: units, the package and its life in a fresh Debian
	packaging/test-host

lint: ## Formatting, clippy, licences (with cargo-deny, if installed)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed; licences are not checked (make setup)"; fi

bench: ## Numbers of the system against its own disk and cores (release build, the agent as packaged; ARGS="--only pages")
	cargo build --release --workspace --bins --locked
	cargo build --profile deb -p ez-node-agent --locked
	@mkdir -p target/bench/bin && cp -f target/release/ez-bench target/release/ez-demo target/release/ez-control-plane \
		target/release/ez-simulator target/deb/ez-node-agent target/bench/bin/
	@./target/bench/bin/ez-bench $(ARGS)

setup: ## Install what tests and lints use beside Rust and a C compiler (Debian)
	packaging/setup-dev

clean: ## Remove everything that was built, and the demo's state
	cargo clean
