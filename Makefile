# make demo   set up .venv and run the main job on the embedded default
# make test   set up .venv and pass the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch goes first: with it in place, pip takes this build and no other.
TORCH := $(shell grep '^torch==' constraints.txt)
INSTALLED := $(VENV)/.installed

VIDEO := .venv-video
# Two processes of one thread each; more would need more memory than they save time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: setup demo test test-all twins test-video fault check format rebuild-world clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "rlaifv needs Python 3.11, 3.12 or 3.13"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

# The main job: RLAIF-V on a small real LLaVA, offline, in minutes on two CPU cores.
demo: setup
	$(BIN)/python train.py

test: setup
	$(PYTEST)

# Also the slow tests: three seeds of the whole demo, rebuilding the embedded weights.
test-all: setup
	$(PYTEST) -m ''

# Every experiment file on a small model of its family, by the command that its users type.
twins: setup
	$(PYTEST) -m '' tests/twins

# The twins of Qwen-VL with their whole processors, whose part for videos needs torchvision: 4.7 GB in a place of its own.
test-video: $(VIDEO)/.installed
	$(VIDEO)/bin/python -m pytest -q -m '' tests/twins -k qwen

$(VIDEO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VIDEO)
	$(VIDEO)/bin/python -m pip install --quiet --disable-pip-version-check "torch===2.13.0" "torchvision==0.28.0"
	grep -v '^torch==' constraints.txt > $(VIDEO)/constraints.txt
	$(VIDEO)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VIDEO)/constraints.txt -e '.[dev]'
	touch $(VIDEO)/.installed

# Breaks runs in every way, resumes them, and compares what they end with; RLAIF-V alone takes 8 minutes on two cores.
fault: setup
	$(BIN)/python -m tools.dev.fault

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Train the embedded world's model anew, from random weights.
rebuild-world: setup
	$(BIN)/python tools/dev/pretrain_shapes.py

clean:
	rm -rf $(VENV) $(VIDEO) outputs multirun .pytest_cache .ruff_cache .mypy_cache
