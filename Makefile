# make build | install | uninstall | test | lint | fmt | bench

CARGO ?= cargo
PYTHON ?= python3

# Where things go: GNU's names, absolute. Of the environment only DESTDIR counts: who builds other things has
# a LIB or an INCLUDE there that means something else. On the command line of make all of them do.
prefix = $(PREFIX)
exec_prefix = $(prefix)
bindir = $(exec_prefix)/$(BIN)
libdir = $(exec_prefix)/$(LIB)
includedir = $(prefix)/$(INCLUDE)
# Where systemd looks, below /usr and /usr/local.
unitdir = $(exec_prefix)/lib/systemd/system
DESTDIR ?=
# The short names of the same, the last three relative. Debian has LIB=lib/x86_64-linux-gnu, Fedora lib64.
PREFIX = /usr/local
BIN = bin
LIB = lib
INCLUDE = include

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# The soname's number, the major version: gpushare-ffi/build.rs gives it to the library.
SO := $(firstword $(subst ., ,$(VERSION)))
# What a program needs that links the archive. glibc before 2.34 has these as libraries of their own; the
# compiler adds libc and the unwinder, the shared or the static one.
NATIVE := -lutil -lrt -lpthread -lm -ldl

INSTALL = install
TARGET = $(or $(CARGO_TARGET_DIR),target)
to_bin = $(DESTDIR)$(bindir)
to_lib = $(DESTDIR)$(libdir)
to_include = $(DESTDIR)$(includedir)
to_unit = $(DESTDIR)$(unitdir)
# An installation can be moved as a whole: its files find each other from where they are.
way = $(shell realpath -s -m --relative-to=$(1) $(2))
# 2 for 64 bits, 1 for 32: the fifth byte of every ELF file.
class = $(shell od -An -j4 -N1 -tu1 $(TARGET)/release/libgpushare.so)
fill = sed -e 's|@FROM_PC@|$(call way,$(libdir)/pkgconfig,$(prefix))|g' \
	-e 's|@TO_INCLUDE@|$(call way,$(libdir),$(includedir))|g' \
	-e 's|@VERSION@|$(VERSION)|g' -e 's|@SO@|$(SO)|g' -e 's|@NATIVE@|$(NATIVE)|g' \
	-e 's|@POINTER@|$(if $(filter 1,$(class)),4,8)|g'

.PHONY: build install uninstall test lint fmt bench

# The command, and the C library as a shared library and an archive.
build:
	$(CARGO) build --release -p gpushare-core --features cli
	$(CARGO) rustc --release -p gpushare-ffi --crate-type cdylib,staticlib

# What `make build` made, as somebody who may write there: cargo is not run.
install:
	@test -f $(TARGET)/release/libgpushare.so || { echo "run 'make build' first" >&2; exit 1; }
	@for dir in '$(bindir)' '$(libdir)' '$(includedir)' '$(unitdir)'; do case $$dir in /*) ;; \
	*) echo "$$dir is no absolute path" >&2; exit 1;; esac; done
	$(INSTALL) -d $(to_bin) $(to_lib)/pkgconfig $(to_lib)/cmake/gpushare $(to_include) $(to_unit)
	$(INSTALL) -m 755 $(TARGET)/release/gpushare $(to_bin)/gpushare
	sed -e 's|/usr/local/bin/gpushare|$(bindir)/gpushare|' systemd/gpushare-restore.service > $(to_unit)/gpushare-restore.service
	$(INSTALL) -m 755 $(TARGET)/release/libgpushare.so $(to_lib)/libgpushare.so.$(VERSION)
	ln -sf libgpushare.so.$(VERSION) $(to_lib)/libgpushare.so.$(SO)
	ln -sf libgpushare.so.$(SO) $(to_lib)/libgpushare.so
	$(INSTALL) -m 644 $(TARGET)/release/libgpushare.a $(to_lib)/libgpushare.a
	$(INSTALL) -m 644 include/gpushare.h $(to_include)/gpushare.h
	$(fill) gpushare-ffi/packaging/gpushare.pc.in > $(to_lib)/pkgconfig/gpushare.pc
	$(fill) gpushare-ffi/packaging/gpushareConfig.cmake.in > $(to_lib)/cmake/gpushare/gpushareConfig.cmake
	$(fill) gpushare-ffi/packaging/gpushareConfigVersion.cmake.in > $(to_lib)/cmake/gpushare/gpushareConfigVersion.cmake

uninstall:
	rm -f $(to_unit)/gpushare-restore.service
	rm -f $(to_bin)/gpushare $(to_include)/gpushare.h $(to_lib)/libgpushare.a
	rm -f $(to_lib)/libgpushare.so $(to_lib)/libgpushare.so.$(SO) $(to_lib)/libgpushare.so.$(VERSION)
	rm -f $(to_lib)/pkgconfig/gpushare.pc
	rm -rf $(to_lib)/cmake/gpushare

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
