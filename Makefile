# `make demo` and `make test` do all the set-up on a fresh machine; a second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-all lint docs bench pictures clean

$(VENV)/.demo: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot]'
	touch $@

$(VENV)/.dev: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot,checkpoints,diffusers,lm-eval,serve,federated,recommend,dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# The tests of a file stay together, since they share what is expensive; files go out in the order they are collected in,
# which ends with short ones. `make test WORKERS=0` is one process.
WORKERS ?= 2
test test-all: export OMP_NUM_THREADS = 1
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

$(VENV)/.all: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot,checkpoints,diffusers,lm-eval,serve,federated,recommend,ray,dev]'
	touch $@

test-all: $(VENV)/.all
	$(BIN)/python -m pytest -m ''

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks -q --benchmark-only -o addopts= -o python_files='bench_*.py' -o python_functions='bench_*' \
		--benchmark-columns=min,median,max,rounds --benchmark-sort=name --benchmark-group-by=func -W ignore

pictures: $(VENV)/.demo
	$(BIN)/python docs/pictures.py

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
