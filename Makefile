# make run    train, export, report (sets everything up first)
# make test   the fast tests;  make test-slow  the long ones
# make check  lint, format and types
# make lock   resolve the dependencies anew and write the lock files
PYTHON ?= python3
BIN := .venv/bin

run: .venv/ready data/fashion_mnist
	$(BIN)/python -m trainer.main --workdir=runs/seed --data_dir=data

test: .venv/ready .cache/test-tools
	$(BIN)/python -m pytest -m 'not slow'

test-slow: .venv/ready .cache/test-tools
	$(BIN)/python -m pytest -m slow

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/ready
	for extra in '' dev gpu; do \
	  $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	    --custom-compile-command 'make lock' $${extra:+--extra $$extra --constraint requirements.lock} \
	    --output-file requirements$${extra:+-$$extra}.lock || exit; \
	done

.venv/ready: requirements-dev.lock pyproject.toml scripts/venv.sh
	scripts/venv.sh $(PYTHON) requirements-dev.lock
	touch $@

data/fashion_mnist: | .venv/ready
	$(BIN)/python scripts/prepare_data.py data

# What the tests look at: the published files, and a real browser for the reports (libatomic1 is for its driver).
.cache/test-tools: scripts/debian_packages.sh
	scripts/debian_packages.sh .cache/debian dataset-fashion-mnist
	scripts/debian_packages.sh .cache/debian libatomic1
	command -v chromium || scripts/debian_packages.sh .cache/debian chromium
	touch $@

.PHONY: run test test-slow check lock
