# Builds, tests and installs mod_usp_storage_cache. `make help` lists the targets.

CARGO ?= cargo
APXS ?= apxs
INSTALL ?= install
DESTDIR ?=

MODULE := target/release/libmod_usp_storage_cache.so
LIBEXECDIR = $(shell $(APXS) -q LIBEXECDIR)
MODS_AVAILABLE = $(shell $(APXS) -q SYSCONFDIR)/mods-available

.DEFAULT_GOAL := all
.PHONY: all run test check soak bench install clean help

all: ## Build the module, optimised (the default)
	tests/setup build
	$(CARGO) build --release

run: ## Show it at work: S3 server, httpd, a miss, a hit, a range and a film
	tests/run

test: ## Pass every test, against a real httpd and a real S3 server
	tests/setup
	$(CARGO) build --release
	$(CARGO) test --no-default-features
	$(CARGO) test --no-default-features --test media_tools
	tests/with-s3 $(CARGO) test --release --test httpd -- --test-threads=4
	tests/sanitize
	tests/fuzz/run $(if $(USC_SOAK),300,10)
	tests/run </dev/null

soak: ## As test, with full counts, and the status page in a browser
	USC_SOAK=1 $(MAKE) test
	tests/setup page
	tests/with-s3 $(CARGO) test --release --test httpd -- --ignored status_page

check: ## Format, lints with and without httpd, tests without httpd, docs
	tests/setup build
	$(CARGO) fmt --check
	rustfmt --edition 2024 --config-path . --check tests/fuzz/targets/*.rs
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings
	$(CARGO) test --no-default-features
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

bench: ## Measure against the replaced recipe and httpd's own files (QUICK=1: in short)
	tests/setup
	$(CARGO) build --release --lib --example make_store --example index_film
	tests/bench/run
	tests/bench/run passing
	tests/bench/run bad_days
	tests/bench/run index

$(MODULE):
	$(MAKE) all

install: $(MODULE) ## Install the module and its .load and .conf (DESTDIR applies; a .conf that is there stays)
	$(INSTALL) -d "$(DESTDIR)$(LIBEXECDIR)" "$(DESTDIR)$(MODS_AVAILABLE)"
	$(INSTALL) -m 644 $(MODULE) "$(DESTDIR)$(LIBEXECDIR)/mod_usp_storage_cache.so"
	sed 's|/usr/lib/apache2/modules|$(LIBEXECDIR)|' apache-conf/usp_storage_cache.load \
	    >"$(DESTDIR)$(MODS_AVAILABLE)/usp_storage_cache.load"
	[ -e "$(DESTDIR)$(MODS_AVAILABLE)/usp_storage_cache.conf" ] || \
	    $(INSTALL) -m 644 apache-conf/usp_storage_cache.conf "$(DESTDIR)$(MODS_AVAILABLE)"

clean: ## Remove all that was built
	$(CARGO) clean
	rm -rf tests/fuzz/target

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
