# make build | install | uninstall | test | lint | fmt | bench

CARGO ?= cargo
PYTHON ?= python3

PREFIX ?= /usr/local
DESTDIR ?=
# Relative to PREFIX. Debian has lib/x86_64-linux-gnu, Fedora lib64.
BIN ?= bin
LIB ?= lib
INCLUDE ?= include

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# The soname's number, which gpushare-ffi/build.rs gives.
SO := 0
# What a program needs that links the archive (rustc --print native-static-libs).
NATIVE := -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc

INSTALL ?= install
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
root = $(DESTDIR)$(PREFIX)
# From the directory of libraries to that of headers, wherever the one is.
to_include = $(shell realpath -s -m --relative-to=/$(LIB) /$(INCLUDE))
# From the directory of gpushare.pc to PREFIX: an installation can be moved as a whole.
from_pc = $(shell realpath -s -m --relative-to=/$(LIB)/pkgconfig /)
fill = sed -e 's|@FROM_PC@|$(from_pc)|g' -e 's|@LIB@|$(LIB)|g' -e 's|@INCLUDE@|$(INCLUDE)|g' \
	-e 's|@VERSION@|$(VERSION)|g' -e 's|@SO@|$(SO)|g' -e 's|@NATIVE@|$(NATIVE)|g' \
	-e 's|@TO_INCLUDE@|$(to_include)|g'

.PHONY: build install uninstall test lint fmt bench

# The command, and the C library as a shared library and an archive.
build:
	$(CARGO) build --release -p gpushare-core --features cli
	$(CARGO) rustc --release -p gpushare-ffi --crate-type cdylib,staticlib

# What `make build` made, as somebody who may write there: cargo is not run.
install:
	@test -f $(TARGET)/release/libgpushare.so || { echo "run 'make build' first" >&2; exit 1; }
	$(INSTALL) -d $(root)/$(BIN) $(root)/$(LIB)/pkgconfig $(root)/$(LIB)/cmake/gpushare $(root)/$(INCLUDE)
	$(INSTALL) -m 755 $(TARGET)/release/gpushare $(root)/$(BIN)/gpushare
	$(INSTALL) -m 755 $(TARGET)/release/libgpushare.so $(root)/$(LIB)/libgpushare.so.$(VERSION)
	ln -sf libgpushare.so.$(VERSION) $(root)/$(LIB)/libgpushare.so.$(SO)
	ln -sf libgpushare.so.$(SO) $(root)/$(LIB)/libgpushare.so
	$(INSTALL) -m 644 $(TARGET)/release/libgpushare.a $(root)/$(LIB)/libgpushare.a
	$(INSTALL) -m 644 include/gpushare.h $(root)/$(INCLUDE)/gpushare.h
	$(fill) gpushare-ffi/packaging/gpushare.pc.in > $(root)/$(LIB)/pkgconfig/gpushare.pc
	$(fill) gpushare-ffi/packaging/gpushareConfig.cmake.in > $(root)/$(LIB)/cmake/gpushare/gpushareConfig.cmake
	$(fill) gpushare-ffi/packaging/gpushareConfigVersion.cmake.in > $(root)/$(LIB)/cmake/gpushare/gpushareConfigVersion.cmake

uninstall:
	rm -f $(root)/$(BIN)/gpushare $(root)/$(INCLUDE)/gpushare.h $(root)/$(LIB)/libgpushare.a
	rm -f $(root)/$(LIB)/libgpushare.so $(root)/$(LIB)/libgpushare.so.$(SO) $(root)/$(LIB)/libgpushare.so.$(VERSION)
	rm -f $(root)/$(LIB)/pkgconfig/gpushare.pc
	rm -rf $(root)/$(LIB)/cmake/gpushare

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
