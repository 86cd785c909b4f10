# make demo and make test set up what they need; the other targets expect one of them to have run.

SHELL := bash
export PATH := $(CURDIR)/.tools/bin:$(PATH)

# Tests share two cores with the plugin servers that they start.
TEST_THREADS ?= 4
FUZZ_SECONDS ?= 10
SOAK_SECONDS ?= 600
INSTRUCTIONS := cargo run --profile instructions --locked --package silverback-instructions --

.PHONY: help demo test unit e2e lint fmt deny build bench instructions instructions-record chaos soak upgrades fuzz clean

help: ## these lines
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 26

demo: ## set up, build, start the gateway with four plugins, show what each of them does
	scripts/setup demo
	cargo build --release --locked --package silverback
	scripts/demo

test: ## set up and run everything that must pass: format, lints, licences, unit tests, end-to-end tests, instructions
	scripts/setup test
	$(MAKE) --no-print-directory lint deny
	cargo build --locked --workspace
	cargo test --locked --workspace -- --test-threads=$(TEST_THREADS)
	cd bench && python3 -m unittest discover --top-level-directory . --start-directory harness/tests
	$(MAKE) --no-print-directory instructions

unit: ## unit tests only
	cargo test --locked --workspace --exclude silverback-e2e
	cd bench && python3 -m unittest discover --top-level-directory . --start-directory harness/tests

e2e: ## end-to-end tests only
	scripts/setup test
	cargo build --locked --package silverback
	cargo test --locked --package silverback-e2e -- --test-threads=$(TEST_THREADS)

lint: ## rustfmt and clippy, without a change
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings

fmt: ## format all Rust code
	cargo fmt --all

deny: ## licences and sources of the dependencies
	cargo deny --locked --log-level error check --hide-inclusion-graph licenses bans sources

build: ## the optimised executable: target/release/silverback
	cargo build --release --locked --package silverback

bench: ## the gateway beside nginx and other proxies, as tables and curves (bench/results); about 30 minutes. BENCH=plain: only that
	scripts/setup bench
	cargo build --release --locked --package silverback
	bench/run $(BENCH)

instructions: ## the instructions of the hot paths, which may be no more than were recorded (bench/instructions)
	scripts/setup instructions
	$(INSTRUCTIONS) check

instructions-record: ## counts them, and records what they are now
	scripts/setup instructions
	$(INSTRUCTIONS) record

chaos: ## the chaos table: every fault in every language under both policies; about 15 minutes
	scripts/setup test
	cargo build --release --locked --package silverback --package silverback-e2e
	target/release/chaos $(CHAOS)

soak: ## load with random faults for SOAK_SECONDS
	scripts/setup test
	cargo build --release --locked --package silverback --package silverback-e2e
	target/release/chaos --soak $(SOAK_SECONDS)

upgrades: ## 20 upgrades of plugin servers in each language, under load
	scripts/setup test
	cargo build --locked --package silverback
	SILVERBACK_UPGRADES=20 cargo test --locked --package silverback-e2e --test e2e -- is_upgraded_under_load --test-threads=1

fuzz: ## every fuzz target for FUZZ_SECONDS; needs cargo-fuzz and a nightly toolchain
	fuzz/run $(FUZZ_SECONDS)

clean: ## remove what was built and set up
	cargo clean
	rm -rf .tools examples/servroot examples/node/node_modules
