# The chores of KVM Backup. `make` alone lists them.
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PY := .venv/bin/python
PACKAGES := scripts/packages
LAB_PACKAGES := $(wildcard lab/packages.txt)
# How many tests run side by side: one more than cores, since those on virtual machines and servers mostly wait.
JOBS ?= $(shell expr $$(nproc) + 1)
# One file's tests stay on one worker: they share the virtual machine that the file starts. tests/conftest.py has
# the order of the files.
PYTEST := $(PY) -m pytest --dist loadfile --no-loadscope-reorder
WORKERS := -n $(JOBS)
WORKERS_WITH_LIBVIRT := --tx '$(JOBS)*popen//python=scripts/with-own-libvirt $(PY)'
# Without bytecode every one of the thousands of processes that tests start would compile the whole product anew.
unexport PYTHONDONTWRITEBYTECODE

##@ Try it
demo: needs-lab ## Back up a real VM, verify, restore, boot what was restored
	@scripts/as-root env PYTHONPATH=. $(PY) -m lab.demo $(ARGS)

run: ARGS ?= serve
run: needs-host ## Run this tree: the dashboard, or what ARGS says
	@scripts/as-root .venv/bin/kvm-backup $(ARGS)

install: ## Install kvm-backup on this host, in /opt/kvm-backup
	@scripts/install

##@ Work on it
test: needs-lab needs-test ## Run all tests, those on real VMs too
	@scripts/as-root env PYTHONPATH=. $(PYTEST) $(WORKERS_WITH_LIBVIRT) $(ARGS)

test-unit: needs-python needs-test ## Run the tests that need no VM (minutes)
	@$(PYTEST) $(WORKERS) $(wildcard tests/unit tests/contract) -m "not vm" $(ARGS)

lint: needs-python needs-lint ## Check format, rules, types, layers and scripts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	shellcheck --external-sources .ci/run $(filter-out $(PACKAGES),$(wildcard scripts/*))

format: needs-python ## Format the code and repair what ruff can repair
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

bench: needs-lab needs-bench ## Measure beside virtnbdbackup and qemu-img
	@scripts/as-root env PYTHONPATH=. $(PY) -m bench $(ARGS)

bench-pages: needs-python ## Measure the dashboard on 10,000 VMs, made first (1.5 GB)
	@PYTHONPATH=. $(PY) -m bench.pages $(ARGS)

bench-shipping: needs-test ## Measure shipping over ssh beside rsync and scp
	@PYTHONPATH=. $(PY) -m bench.shipping $(ARGS)

screenshots: needs-host needs-test ## Take the README's pictures anew (docs/images)
	@scripts/as-root env PYTHONPATH=. $(PY) -m bench.screenshots $(ARGS)

lock: needs-python ## Rewrite the lock files; ARGS=--upgrade: newer versions
	@scripts/lock $(ARGS)

clean: ## Remove this tree's environment and caches; never a backup
	@scripts/as-root rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache src/*.egg-info
	@scripts/as-root find src tests lab bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

help: ## Show this list
	@echo 'KVM Backup: each command installs what it needs when it is missing.'
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n%s\n' 'ARGS="..." hands options on: make run ARGS="vm list", make test ARGS="-x"'

# What the commands above need. Each takes milliseconds when nothing is missing.
needs-python:
	@scripts/ensure-packages $(PACKAGES)/python.txt
	@scripts/ensure-venv .venv requirements-dev.lock --editable

needs-lint:
	@scripts/ensure-packages $(PACKAGES)/lint.txt

needs-host: needs-python
	@scripts/ensure-packages $(PACKAGES)/runtime.txt
	@scripts/start-libvirt

needs-lab: needs-python
	@scripts/ensure-packages $(PACKAGES)/runtime.txt $(LAB_PACKAGES)
	@scripts/start-libvirt

needs-test:
	@scripts/ensure-packages $(PACKAGES)/test.txt

needs-bench:
	@scripts/ensure-packages $(PACKAGES)/bench.txt

.PHONY: demo run install test test-unit lint format bench bench-pages bench-shipping screenshots lock clean help \
	needs-python needs-lint needs-host needs-lab needs-test needs-bench
