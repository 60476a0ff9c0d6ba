# Everything a person or a machine does with this repository. Each target installs what it needs.

SHELL := /bin/bash
CARGO ?= cargo
TARGET := x86_64-unknown-linux-musl
export CORACLE_BIN := $(CURDIR)/target/release/coracle

.PHONY: help build quick demo test bench soak fuzz check fix images deps test-deps clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

deps: ## Install what the build needs (Debian packages, the musl target)
	@hack/install build

test-deps: deps ## Install what the tests need
	@hack/install test

build: deps ## Build target/release/coracle, one self-contained static binary
	$(CARGO) rustc --release --locked --package coracle --bin coracle --target $(TARGET) -- -C relocation-model=static
	@mkdir -p target/release
	@install -m 0755 target/$(TARGET)/release/coracle target/release/coracle.new
	@mv target/release/coracle.new target/release/coracle
	@ls -l target/release/coracle | awk '{ printf "target/release/coracle: %.1f MiB\n", $$5 / 1048576 }'

demo: build ## From nothing to pods that serve traffic, and back to nothing
	@hack/install demo
	@hack/demo

test: test-deps build ## Run every test, the end-to-end ones included
	@hack/test

bench: build ## Print what coracle costs, beside the peers that Debian has
	@hack/install bench
	$(CARGO) run --release --locked --package xtask --target $(TARGET) -- bench

soak: test-deps build ## What takes longer than a test should
	$(CARGO) test --locked --package tests -- --ignored

FUZZ_SECONDS ?= 60

fuzz: ## Feed garbage to every decoder of outside bytes, FUZZ_SECONDS (60) each
	@hack/install fuzz
	@hack/fuzz $(FUZZ_SECONDS)

check: deps ## Read-only: format, lints, docs
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

fix: ## May write: format, apply what clippy is sure of
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

clean: ## Remove what was built
	$(CARGO) clean
