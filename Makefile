# Two commands matter: `make selfplay` and `make test`. Both make the environment if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is played: mm_zero, vision_zero, or mixed; or any config with CONFIG=.
RECIPE ?= mm_zero
CONFIG ?= launch/configs/$(if $(filter mm_zero,$(RECIPE)),quickstart,$(RECIPE)).yaml
# The name of the run: the first free one of quickstart, quickstart-2, ... unless given.
RUN ?=
SET ?=

export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: selfplay test lint types suite test-sglang venv-sglang selfplay-sglang test-gpu venv-gpu heldout ablations bench-learner clean

selfplay: $(VENV)/.installed
	$(if $(RESUME),$(if $(RUN),,$(error RESUME needs the name of the run: make selfplay RUN=quickstart RESUME=1)))
	$(BIN)/python launch/async_selfplay.py $(CONFIG) $(if $(RUN),run.name=$(RUN),--new-name) $(if $(RESUME),--resume) $(SET)

test: lint types suite

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

# Two files at a time; then, one by one, the tests that measure time.
WORKERS ?= 2
suite: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

# The contract suite against a real SGLang server on this machine's CPU, in an environment of its own.
SGLANG := .venv-sglang
test-sglang: $(VENV)/.installed $(SGLANG)/.installed
	$(BIN)/python -m pytest -m sglang tests/contract

venv-sglang: $(SGLANG)/.installed

# The quickstart on real SGLang servers: slowly.
selfplay-sglang: $(VENV)/.installed $(SGLANG)/.installed
	$(BIN)/python launch/async_selfplay.py launch/configs/quickstart_sglang.yaml $(if $(RUN),run.name=$(RUN),--new-name) $(if $(RESUME),--resume) $(SET)

$(SGLANG)/.installed: $(wildcard launch/sglang_cpu/*.txt launch/sglang_cpu/*.py launch/sglang_cpu/sgl_kernel/*.py)
	test -x $(SGLANG)/bin/python || $(PYTHON) -m venv $(SGLANG)
	$(SGLANG)/bin/pip install --quiet torch==2.13.0
	$(SGLANG)/bin/pip install --quiet -r launch/sglang_cpu/requirements.txt
	$(SGLANG)/bin/pip install --quiet --no-deps -r launch/sglang_cpu/requirements-no-deps.txt
	$(SGLANG)/bin/python launch/sglang_cpu/finish.py
	touch $@

# What needs a GPU (or two): NCCL, bf16 shards, flash attention, SGLang's CUDA build. In an
# environment of its own, of the versions that go together there: several GB. PyTorch's CPU index,
# which the README has for machines without a GPU, would give it the CPU build.
GPU := .venv-gpu
test-gpu: $(GPU)/.installed
	$(GPU)/bin/python -m pytest -m gpu tests/gpu

venv-gpu: $(GPU)/.installed

$(GPU)/.installed: pyproject.toml
	test -x $(GPU)/bin/python || $(PYTHON) -m venv $(GPU)
	env -u PIP_EXTRA_INDEX_URL $(GPU)/bin/pip install --quiet -e '.[gpu,dev]'
	touch $@

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

# A run of that name goes on where it stopped, so that what was interrupted can be called again.
RESUMED = $$(test -e runs/$(1)/config.yaml && echo --resume)

# The held-out table of the README: three seeds of the quickstart, a quarter of an hour.
heldout: $(VENV)/.installed
	for seed in 0 1 2; do \
	  $(BIN)/python launch/async_selfplay.py $(CONFIG) run.seed=$$seed run.name=seed$$seed \
	    $(call RESUMED,seed$$seed) || exit 1; \
	done
	$(BIN)/python launch/result.py runs/seed0 runs/seed1 runs/seed2

# What single mechanisms of MM-Zero are worth: three seeds each, an hour in all.
ABLATIONS := full no_cap no_diversity random_labels released
full :=
no_cap := recipe.reward.solvability_cap=1
no_diversity := recipe.diversity.window_scale=0 recipe.diversity.type_penalty=0
random_labels := recipe.label=random
released := recipe.preset=mm_zero_code
ablations: $(VENV)/.installed
	$(foreach name,$(ABLATIONS),for seed in 0 1 2; do \
	  $(BIN)/python launch/async_selfplay.py $(CONFIG) run.seed=$$seed run.name=$(name)$$seed \
	    $($(name)) $(call RESUMED,$(name)$$seed) || exit 1; \
	done;)
	$(BIN)/python launch/result.py \
	  $(foreach name,$(ABLATIONS),$(name)=runs/$(name)0,runs/$(name)1,runs/$(name)2)

# The learner against TRL's GRPO trainer, which gets an environment of its own: ten quiet minutes.
TRL := .venv-trl
bench-learner: $(VENV)/.installed $(TRL)/.installed
	$(BIN)/python launch/bench.py learner --trl-python $(TRL)/bin/python

$(TRL)/.installed:
	test -x $(TRL)/bin/python || $(PYTHON) -m venv $(TRL)
	$(TRL)/bin/pip install --quiet torch==2.13.0
	$(TRL)/bin/pip install --quiet trl==1.16.0 transformers==5.19.0 pillow
	touch $@

clean:
	rm -rf $(VENV) $(TRL) $(SGLANG) $(GPU) build *.egg-info

# A run under kills, pauses and a failing network, against an undisturbed one: 25 minutes in all.
MINUTES ?= 15
SEED ?= 0
.PHONY: chaos
chaos: $(VENV)/.installed
	$(BIN)/python -m tests.e2e.chaos --minutes $(MINUTES) --seed $(SEED)
