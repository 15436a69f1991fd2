# Whisker. `make run` is the first thing to try; README explains the rest.

# The first interpreter of the right version that really runs (a shim for one that is not installed does not).
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
# GPU=1 installs TensorFlow's GPU libraries, GPU=0 does not; without it the machine decides.
GPU ?= $(shell [ "$$(uname -s)" = Linux ] && nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && echo 1 || echo 0)
RUN_LOCK := requirements/$(if $(filter 1,$(GPU)),gpu,run).txt
IMAGE_REPOSITORY ?= whisker
IMAGE_TAG ?= latest

BIN := .venv/bin
PIP := -m pip --disable-pip-version-check --require-virtualenv
CHECK := .venv-check/bin

.PHONY: install run test test-long check format bench lock images

install: .venv/installed-run-gpu$(GPU)

run: install
	$(BIN)/python -m trainer.quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not long" --numprocesses=2 --dist=loadfile

test-long: .venv/installed-dev
	$(BIN)/python -m pytest -m long

check: .venv/installed-dev .venv-check/installed
	$(CHECK)/ruff check .
	$(CHECK)/ruff format --check .
	$(CHECK)/mypy --python-executable $(BIN)/python
	$(CHECK)/lint-imports
	$(CHECK)/yamllint --strict .
	$(CHECK)/hadolint infra/docker/*.Dockerfile
	$(CHECK)/kubernetes-validate --quiet --strict infra/kubernetes/*.yaml

format: .venv-check/installed
	$(CHECK)/ruff check --fix .
	$(CHECK)/ruff format .

# Measures what README quotes; needs the real pictures and weights: make bench DATA=folder WEIGHTS=file
bench: .venv/installed-dev .venv-bench/installed
	$(BIN)/python -m benchmarks.step_profile
	$(BIN)/python -m benchmarks.bench_training --data=$(DATA) --weights=$(WEIGHTS) \
		--whisker_transfer_flags=--recipe=fast
	$(BIN)/python -m benchmarks.bench_input --data=$(DATA)/train
	$(BIN)/python -m benchmarks.accuracy --data=$(DATA) --weights=$(WEIGHTS)
	$(BIN)/python -m benchmarks.bench_serving --data=$(DATA)
	$(BIN)/python -m benchmarks.bench_gate
	$(BIN)/python -m benchmarks.bench_client

images:
	docker build --file infra/docker/trainer.Dockerfile --tag $(IMAGE_REPOSITORY)/trainer:$(IMAGE_TAG) .
	docker build --file infra/docker/serving.Dockerfile --tag $(IMAGE_REPOSITORY)/serving:$(IMAGE_TAG) .

.venv/bin/python:
	@$(if $(PYTHON),,echo "Whisker needs Python 3.11, 3.12 or 3.13: install one, or name it: make install PYTHON=/path/to/python3.12" >&2; exit 2)
	$(PYTHON) infra/preflight.py
	$(PYTHON) -m venv .venv

.venv/installed-run-gpu$(GPU): $(RUN_LOCK) setup.py | .venv/bin/python
	$(BIN)/python $(PIP) install --quiet --require-hashes --requirement $(RUN_LOCK)
	$(BIN)/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: requirements/dev.txt | .venv/installed-run-gpu$(GPU)
	$(BIN)/python $(PIP) install --quiet --require-hashes --requirement requirements/dev.txt
	@touch $@

.venv-check/installed: requirements/check.txt | .venv/bin/python
	$(BIN)/python -m venv .venv-check
	$(CHECK)/python $(PIP) install --quiet --require-hashes --requirement requirements/check.txt
	@touch $@

# The servers that ours is measured against; they pin other packages than Whisker does.
.venv-bench/installed: requirements/bench.txt | .venv/bin/python
	$(BIN)/python -m venv .venv-bench
	.venv-bench/bin/python $(PIP) install --quiet --require-hashes --requirement requirements/bench.txt
	@touch $@

# The locks, for every platform and Python at once. `dev` is solved first, so that the others agree with it.
LOCK := $(CHECK)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header
lock: .venv-check/installed
	$(LOCK) --upgrade --extra train --extra cloud --extra identity --extra dev setup.py -o requirements/dev.txt
	$(LOCK) --upgrade --extra train --constraint requirements/dev.txt setup.py -o requirements/run.txt
	$(LOCK) --upgrade --extra train --extra gpu --constraint requirements/dev.txt setup.py -o requirements/gpu.txt
	$(LOCK) --upgrade requirements/check.in -o requirements/check.txt
	$(LOCK) --upgrade requirements/bench.in -o requirements/bench.txt
