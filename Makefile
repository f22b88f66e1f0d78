# Every target does its own set-up: `make demo` and `make test` work right after the clone.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHON CPU
# PYTHONDONTWRITEBYTECODE, where it is set, would have each of the hundred processes compile what it imports
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal --durations=20

.PHONY: help setup demo test test-seconds test-slow test-versions test-aarch64 check format docs release clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: ## Make .venv with the package and all extras (PYTHON=python3.13: by that one; CPU=1: without CUDA)
	@scripts/setup.sh

demo: setup ## Train, evaluate, predict, export and report on synthetic scenes, in a few minutes; predict photographs
	@rm -rf demo
	@featherseg demo
	featherseg predict road examples/photos/road-*.jpg -o demo/road
	featherseg predict indoor examples/photos/indoor-*.jpg -o demo/indoor

test: check ## Run the checks and all quick tests
	@scripts/test_tools.sh
	$(PYTEST) -m "not seconds and not slow and not gpu"

test-seconds: setup ## Run the tests that take seconds
	@scripts/test_tools.sh
	$(PYTEST) -m "seconds and not slow and not gpu"

test-slow: setup ## Run the tests that take minutes
	python -m pytest -m slow

test-versions: setup ## Run the quick tests with the newest and the lowest versions, and those of other packages
	@scripts/test_tools.sh
	@scripts/versions.sh

test-aarch64: setup ## Test the wheel for Linux on ARM on an emulated board, in hours (as root)
	@scripts/aarch64.sh

check: setup ## Lint, formatting, types, layers, licences and known holes of what is needed
	ruff check .
	ruff format --check .
	lint-imports
	@# side by side: each takes one core for 20 s and more
	python scripts/supply_chain.py & mypy; types=$$?; wait $$! && exit $$types

format: setup ## Format the code and mend what the linter can
	ruff format .
	ruff check --fix .

docs: setup ## Build the documents as a site with search: build/site/index.html
	@rm -rf build/site
	@sphinx-build -W --keep-going -q -c docs . build/site

release: setup ## Build sdist and wheels into dist/, check them, and use them without compiler and checkout
	@scripts/release.sh

clean: ## Remove .venv, caches and the demo's output
	rm -rf .venv demo dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
