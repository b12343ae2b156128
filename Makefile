# make run      train, test, export, report, and score the test images as PNG files (sets everything up first)
# make test     the fast tests;  make test-slow  the long ones
# make check    lint, format and types
# make figures  measure what the README says, and write it there (two and a half hours)
# make image    build the container image with podman (root, Debian or Ubuntu; elsewhere: docker build .)
# make lock     resolve the dependencies anew and write the lock files
PYTHON ?= python3
BIN := .venv/bin

run: .venv/ready data/.ready
	$(BIN)/python -m trainer.main --workdir=runs/seed --data_dir=data
	$(BIN)/python -m benchmarks.collection --data_dir=data --format=manifest --output=runs/test-images
	$(BIN)/python -m batch.main --model=runs/seed/export/1 --input=runs/test-images/manifest.csv --output=runs/scored \
	  --overwrite
	@echo; echo 'trained: runs/seed/report/report.html'; echo 'scored:  runs/scored/report.html'

test: .venv/ready .cache/test-tools
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadscope -m 'not slow'

test-slow: .venv/ready .cache/test-tools .cache/flink
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadscope -m slow

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: run
	mkdir -p benchmarks/results
	cp runs/seed/metrics.json benchmarks/results/run.json
	cp runs/scored/summary.json benchmarks/results/scored.json
	cp runs/seed/report/mistakes.png docs/images/
	$(BIN)/python -m benchmarks.seeds --data_dir=data --output=runs/seeds >benchmarks/results/seeds.json
	$(BIN)/python -m trainer.main --model=best --workdir=runs/best --data_dir=data
	cp runs/best/metrics.json benchmarks/results/best.json
	$(BIN)/python -m benchmarks.train --data_dir=data >benchmarks/results/train.json
	$(BIN)/python -m benchmarks.score --data_dir=data --model=runs/seed/export/1 >benchmarks/results/score.json
	$(BIN)/python scripts/readme_results.py

image:
	scripts/image.sh

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
  --custom-compile-command 'make lock'

lock: .venv/ready
	for extra in '' dev gpu; do \
	  $(COMPILE) pyproject.toml $${extra:+--extra $$extra --constraint requirements.lock} \
	    --output-file requirements$${extra:+-$$extra}.lock || exit; \
	done
	$(COMPILE) --group sbom --output-file requirements-sbom.lock

.venv/ready: requirements-dev.lock pyproject.toml scripts/venv.sh
	scripts/venv.sh $(PYTHON) requirements-dev.lock
	touch $@

data/.ready: scripts/prepare_data.py | .venv/ready
	$(BIN)/python scripts/prepare_data.py data
	touch $@

# What the tests look at: the published files, and a real browser for the reports (libatomic1 is for its driver).
# iproute2 makes the network of two hosts that one test cuts.
.cache/test-tools: scripts/debian_packages.sh scripts/kubectl.py scripts/kubectl.txt | .venv/ready
	scripts/debian_packages.sh .cache/debian dataset-fashion-mnist
	scripts/debian_packages.sh .cache/debian libatomic1
	command -v ip || scripts/debian_packages.sh .cache/debian iproute2
	command -v chromium || scripts/debian_packages.sh .cache/debian chromium
	command -v kubectl || $(BIN)/python scripts/kubectl.py .cache/kubectl
	touch $@

# A Flink cluster, which the scorer's slow tests run on.
.cache/flink: tests/flink/pom.xml scripts/flink.sh | .venv/ready
	scripts/flink.sh $@
	touch $@

.PHONY: run test test-slow check figures image lock
