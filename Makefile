# Builds, tests and installs mod_usp_storage_cache. `make help` lists the targets.

CARGO ?= cargo
APXS ?= apxs
INSTALL ?= install
DESTDIR ?=
PREFIX ?= /usr/local
DOCDIR ?= $(PREFIX)/share/doc/mod_usp_storage_cache
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions

MODULE := target/release/libmod_usp_storage_cache.so
CLI := target/release/uspcache
PAGES := target/pages
NOTICES := target/THIRD-PARTY-NOTICES
MANDIR = $(PREFIX)/share/man/man1
BASHDIR = $(PREFIX)/share/bash-completion/completions
FISHDIR = $(PREFIX)/share/fish/vendor_completions.d

# Where httpd takes its configuration from: what a2enmod links on Debian, what is included by itself on RHEL and
# Fedora, and elsewhere files for an Include of your own.
LIBEXECDIR = $(shell $(APXS) -q LIBEXECDIR)
SYSCONFDIR = $(shell $(APXS) -q SYSCONFDIR)
LAYOUT = $(if $(filter apache2,$(shell $(APXS) -q PROGNAME)),debian,$(if $(filter /etc/httpd/%,$(SYSCONFDIR)),rhel,plain))
LOAD_debian = $(SYSCONFDIR)/mods-available/usp_storage_cache.load
CONF_debian = $(SYSCONFDIR)/mods-available/usp_storage_cache.conf
LOAD_rhel = $(patsubst %/,%,$(dir $(SYSCONFDIR)))/conf.modules.d/10-usp_storage_cache.conf
CONF_rhel = $(patsubst %/,%,$(dir $(SYSCONFDIR)))/conf.d/usp_storage_cache.conf
LOAD_plain = $(SYSCONFDIR)/extra/usp_storage_cache.load
CONF_plain = $(SYSCONFDIR)/extra/usp_storage_cache.conf
LOAD = $(DESTDIR)$(LOAD_$(LAYOUT))
CONF = $(DESTDIR)$(CONF_$(LAYOUT))

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
DEB_VERSION ?= $(subst -,~,$(VERSION))-1
DEB_DIR ?= target/deb
PACKAGE := libapache2-mod-usp-storage-cache

.DEFAULT_GOAL := all
.PHONY: all run test test-deb check soak bench install uninstall deb clean help

all: ## Build the module and the command, optimised, the command's pages and the crates' notices (the default)
	tests/setup build
	$(CARGO) build --release
	CARGO=$(CARGO) apache-conf/third-party-notices >$(NOTICES).part
	mv $(NOTICES).part $(NOTICES)
	rm -rf $(PAGES)
	$(CLI) pages $(PAGES)

run: ## Show it at work: S3 server, httpd, a miss, a hit, a range and a film
	tests/run

test: ## Pass every test, against a real httpd and a real S3 server
	tests/setup
	$(MAKE) all
	$(CARGO) test --no-default-features
	$(CARGO) test --no-default-features --test media_tools
	tests/with-s3 $(CARGO) test --release --test httpd -- --test-threads=4
	tests/bench/run hit
	tests/install
	tests/sanitize
	tests/fuzz/run $(if $(USC_SOAK),300,10)
	tests/run </dev/null

test-deb: ## Install, upgrade under load, remove and purge the Debian package, on a fresh Debian in a chroot (as root)
	tests/setup
	tests/setup deb
	DEB_BUILD_OPTIONS=noautodbgsym $(MAKE) deb DEB_DIR=target/package/old
	DEB_BUILD_OPTIONS=noautodbgsym $(MAKE) deb DEB_DIR=target/package/new DEB_VERSION=$(DEB_VERSION)+next
	tests/package target/package/old/$(PACKAGE)_*.deb target/package/new/$(PACKAGE)_*.deb

soak: ## As test, with full counts, the status page in a browser, and test-deb
	USC_SOAK=1 $(MAKE) test
	tests/setup page
	tests/with-s3 $(CARGO) test --release --test httpd -- --ignored status_page
	$(MAKE) test-deb

check: ## Format, lints with and without httpd, tests without httpd, docs
	tests/setup build
	$(CARGO) fmt --check
	rustfmt --edition 2024 --config-path . --check tests/fuzz/targets/*.rs
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings
	$(CARGO) test --no-default-features
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

bench: ## Measure against the replaced recipe, nginx, Varnish and httpd's own files, with a page of plots (QUICK=1: in short)
	tests/setup
	$(CARGO) build --release --lib --bins --example make_store --example index_film
	tests/bench/run
	tests/bench/run passing
	tests/bench/run bad_days
	tests/bench/run index

$(MODULE) $(CLI) $(PAGES)/uspcache.1 $(NOTICES) &:
	$(MAKE) all

install: $(MODULE) $(CLI) $(PAGES)/uspcache.1 $(NOTICES) ## Install all of it (DESTDIR, PREFIX and APXS apply; a .conf that is there stays)
	$(INSTALL) -D -m 644 $(MODULE) "$(DESTDIR)$(LIBEXECDIR)/mod_usp_storage_cache.so"
	$(INSTALL) -d "$(dir $(LOAD))" "$(dir $(CONF))"
	sed 's|/usr/lib/apache2/modules|$(LIBEXECDIR)|' apache-conf/usp_storage_cache.load >"$(LOAD)"
	[ -e "$(CONF)" ] || $(INSTALL) -m 644 apache-conf/usp_storage_cache.conf "$(CONF)"
	$(INSTALL) -D -m 755 $(CLI) "$(DESTDIR)$(PREFIX)/bin/uspcache"
	$(INSTALL) -D -m 644 -t "$(DESTDIR)$(MANDIR)" $(PAGES)/*.1
	$(INSTALL) -D -m 644 $(PAGES)/uspcache.bash "$(DESTDIR)$(BASHDIR)/uspcache"
	$(INSTALL) -D -m 644 -t "$(DESTDIR)$(ZSHDIR)" $(PAGES)/_uspcache
	$(INSTALL) -D -m 644 -t "$(DESTDIR)$(FISHDIR)" $(PAGES)/uspcache.fish
	$(INSTALL) -D -m 644 -t "$(DESTDIR)$(DOCDIR)" README.md CHANGELOG.md $(NOTICES)
	$(INSTALL) -D -m 644 -t "$(DESTDIR)$(DOCDIR)/docs" docs/*.md
	$(INSTALL) -D -m 644 -t "$(DESTDIR)$(DOCDIR)/examples" apache-conf/examples/*.conf

uninstall: ## Remove what `make install` has put there, but for a .conf that was changed; first a2dismod
	rm -f "$(DESTDIR)$(LIBEXECDIR)/mod_usp_storage_cache.so" "$(LOAD)"
	! cmp -s apache-conf/usp_storage_cache.conf "$(CONF)" || rm "$(CONF)"
	rm -f "$(DESTDIR)$(PREFIX)/bin/uspcache" "$(DESTDIR)$(MANDIR)"/uspcache.1 "$(DESTDIR)$(MANDIR)"/uspcache-*.1
	rm -f "$(DESTDIR)$(BASHDIR)/uspcache" "$(DESTDIR)$(ZSHDIR)/_uspcache" "$(DESTDIR)$(FISHDIR)/uspcache.fish"
	rm -rf "$(DESTDIR)$(DOCDIR)"

deb: all ## Build the Debian package for this machine's apache2, into target/deb (DEB_VERSION, DEB_DIR)
	rm -rf $(DEB_DIR)/build $(DEB_DIR)/*mod-usp-storage-cache*
	mkdir -p $(DEB_DIR)/build
	cp -r apache-conf/debian $(DEB_DIR)/build
	printf 'mod-usp-storage-cache (%s) unstable; urgency=medium\n\n  * As CHANGELOG.md has it.\n\n -- %s  %s\n' \
	    '$(DEB_VERSION)' "$$(sed -n 's/^Maintainer: //p' apache-conf/debian/control)" "$$(date -R)" \
	    >$(DEB_DIR)/build/debian/changelog
	cd $(DEB_DIR)/build && TOP=$(CURDIR) dpkg-buildpackage --build=binary --no-sign

clean: ## Remove all that was built
	$(CARGO) clean
	rm -rf tests/fuzz/target

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
