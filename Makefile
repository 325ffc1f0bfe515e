# make build | test | lint | fmt | bench

CARGO ?= cargo
PYTHON ?= python3

.PHONY: build test lint fmt bench

# The command, and the C library as a shared library and an archive.
build:
	$(CARGO) build --release -p gpushare-core --features cli
	$(CARGO) build --release -p gpushare-ffi

test:
	PYTHON=$(PYTHON) $(CARGO) test --workspace --all-features

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-features --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources are not checked"; fi

fmt:
	$(CARGO) fmt --all

bench:
	$(CARGO) bench -p gpushare-benches
