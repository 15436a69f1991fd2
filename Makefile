# Whisker. `make run` is the first thing to try; README and docs/ explain the rest.

# The first interpreter of the right version that really runs (a shim for one that is not installed does not).
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
# GPU=1 installs TensorFlow's GPU libraries, GPU=0 does not; without it the machine decides.
GPU ?= $(shell [ "$$(uname -s)" = Linux ] && nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && echo 1 || echo 0)
RUN_LOCK := requirements/$(if $(filter 1,$(GPU)),gpu,run).txt
IMAGE_REPOSITORY ?= whisker
IMAGE_TAG ?= latest
TRAINER := $(IMAGE_REPOSITORY)/trainer:$(IMAGE_TAG)
SERVING := $(IMAGE_REPOSITORY)/serving:$(IMAGE_TAG)
# A registry's repository that keeps layers from build to build, of all stages (docs.docker.com/build/cache/backends/
# registry), for which buildx needs a builder of its own; empty: this machine's docker alone.
CACHE_REPOSITORY ?=
# Of the machines that jobs and pods run on, also where the image is built on another kind (Apple silicon).
PLATFORM := --platform=linux/amd64
# Runs such a builder; buildx would take the newest. The newest release in the project's repository on 2026-08-21.
BUILDKIT := moby/buildkit:v0.32.2
DOCKERFILES := infra/docker/serving.Dockerfile infra/docker/trainer.Dockerfile

BIN := .venv/bin
PIP := -m pip --disable-pip-version-check --require-virtualenv
CHECK := .venv-check/bin

.PHONY: install run test test-long format docs bench lock rehearse-images pin-images \
	require-pinned check images test-image smoke scan push submit-job

install: .venv/installed-run-gpu$(GPU)

run: install
	$(BIN)/python -m trainer.quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not long" --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-long: .venv/installed-dev
	$(BIN)/python -m pytest -m long --numprocesses=2 --dist=loadfile

check: .venv/installed-dev .venv-check/installed .venv-checkov/installed docs
	$(CHECK)/ruff check .
	$(CHECK)/ruff format --check .
	$(CHECK)/mypy --python-executable $(BIN)/python
	$(CHECK)/lint-imports
	$(CHECK)/yamllint --strict .
	$(CHECK)/hadolint infra/docker/*.Dockerfile
	$(CHECK)/kubernetes-validate --quiet --strict infra/kubernetes/*.yaml
	$(CHECK)/python infra/check_terraform.py infra/terraform .venv-checkov/provider/*.whl
	.venv-checkov/bin/checkov --config-file=infra/checkov.yaml --skip-download --directory=infra

format: .venv-check/installed
	$(CHECK)/ruff check --fix .
	$(CHECK)/ruff format .

# The site of README and docs/, in build/site; a link that leads nowhere ends it.
PAGES := README.md CHANGELOG.md CONTRIBUTING.md LICENSE SECURITY.md docs examples infra benchmarks
docs: .venv-check/installed
	rm -rf build/pages
	mkdir -p build/pages
	ln -s $(PAGES:%=$(CURDIR)/%) build/pages
	$(CHECK)/mkdocs build --strict

# Measures what docs/benchmarks.md quotes; needs the real pictures and weights: make bench DATA=folder WEIGHTS=file
bench: .venv/installed-dev .venv-bench/installed
	$(BIN)/python -m benchmarks.bench_training --data=$(DATA) --weights=$(WEIGHTS) \
		--whisker_transfer_flags=--recipe=fast
	$(BIN)/python -m benchmarks.accuracy --data=$(DATA) --weights=$(WEIGHTS)
	$(BIN)/python -m benchmarks.bench_serving --data=$(DATA)
	$(BIN)/python -m benchmarks.bench_client

# Writes the digests that the base images' tags stand for now into the Dockerfiles; needs docker and the network.
pin-images:
	python3 infra/pin_images.py Makefile $(DOCKERFILES)

require-pinned:
	@python3 infra/pin_images.py --check Makefile $(DOCKERFILES)

images: image-trainer image-serving

# With CUDA's libraries unless GPU=0 is given: what builds an image seldom has a GPU. DOCKER_FLAGS: more for docker build.
comma := ,
image-%:
	$(if $(CACHE_REPOSITORY),docker buildx inspect whisker || docker buildx create --name=whisker --driver=docker-container --driver-opt=image=$(BUILDKIT))
	docker $(if $(CACHE_REPOSITORY),buildx )build $(PLATFORM) --file infra/docker/$*.Dockerfile \
	--tag $(IMAGE_REPOSITORY)/$*:$(IMAGE_TAG) $(if $(filter trainer,$*),--build-arg=GPU=$(if $(filter file,$(origin GPU)),1,$(GPU)) )\
	$(if $(CACHE_REPOSITORY),--builder=whisker --load \
	--cache-from=type=registry$(comma)ref=$(CACHE_REPOSITORY)/$*:cache \
	--cache-to=type=registry$(comma)ref=$(CACHE_REPOSITORY)/$*:cache$(comma)mode=max )\
	$(DOCKER_FLAGS) .

# The following work on the images that `make images` has made.
test-image:
	docker build $(PLATFORM) --file infra/docker/tests.Dockerfile --build-arg=TRAINER=$(TRAINER) --tag whisker/tests \
		$(DOCKER_FLAGS) .
	docker run --rm whisker/tests

# All of that on one Linux machine, with an engine and base images of its own where there are none.
rehearse-images:
	infra/rehearse_images.sh $(PYTHON) $(if $(filter file,$(origin GPU)),0,$(GPU))

smoke:
	infra/smoke.sh $(TRAINER) $(SERVING)

scan:
	infra/scan.sh $(TRAINER) $(SERVING)

push: require-pinned
	docker push $(TRAINER)
	docker push $(SERVING)
	@mkdir -p build
	docker image inspect --format='{{index .RepoDigests 0}}' $(TRAINER) > build/trainer.image

# The run that SUBMIT_FLAGS describes, with the image that was pushed last; no flags: no run.
submit-job: $(if $(SUBMIT_FLAGS),.venv/installed-dev)
	$(if $(SUBMIT_FLAGS),$(BIN)/python -m trainer.submit --detach --image_uri="$$(cat build/trainer.image)" $(SUBMIT_FLAGS),\
		@echo "no job asked for")

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

# checkov pins more packages than all the other checks together; the provider's wheel is read, not installed.
.venv-checkov/installed: requirements/checkov.txt requirements/provider.txt | .venv/bin/python
	$(BIN)/python -m venv .venv-checkov
	.venv-checkov/bin/python $(PIP) install --quiet --require-hashes --requirement requirements/checkov.txt
	.venv-checkov/bin/python $(PIP) download --quiet --require-hashes --no-deps --dest .venv-checkov/provider \
		--requirement requirements/provider.txt
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
	$(LOCK) --upgrade --extra rehearsal --extra identity --extra dev setup.py -o requirements/dev.txt
	$(LOCK) --upgrade --extra train --constraint requirements/dev.txt setup.py -o requirements/run.txt
	$(LOCK) --upgrade --extra train --extra gpu --constraint requirements/dev.txt setup.py -o requirements/gpu.txt
	$(LOCK) --upgrade requirements/check.in -o requirements/check.txt
	$(LOCK) --upgrade requirements/checkov.in -o requirements/checkov.txt
	$(LOCK) --upgrade --no-deps requirements/provider.in -o requirements/provider.txt
	$(LOCK) --upgrade requirements/bench.in -o requirements/bench.txt
