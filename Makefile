# Every target works on a fresh clone: what it needs is set up first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
WORLD := demo/world
ITERATIONS := 1100
OUTPUT := demo/run_$(ITERATIONS)

.PHONY: setup lint test demo bench clean

setup: $(VENV)/.ready

# Steps that are done already are quick to repeat; the stamp skips them while nothing changed.
$(VENV)/.ready: requirements.txt requirements-dev.txt setup.py tools/install_detectron2.py
	@echo "== Virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 2)
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "== The pinned, tested set of packages (a few GB the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@echo "== Detectron2"
	@$(RUN) tools/install_detectron2.py
	@echo "== This package, editable"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
	@echo "== Ready: source $(VENV)/bin/activate"

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

test: setup
	@$(RUN) -m pytest

$(WORLD): | setup
	@$(VENV)/bin/tadp-d2 synth $(WORLD)

# The world, training, evaluation on source and target. `make demo ITERATIONS=0` is the same without
# training; a demo that was stopped continues.
demo: setup | $(WORLD)
	@DETECTRON2_DATASETS=$(WORLD) $(RUN) train_net.py --resume \
		--config-file configs/quick_schedules/voc2watercolor_simple.yaml \
		MODEL.DIFFUSION.WEIGHTS $(WORLD)/stable-diffusion-tiny \
		SOLVER.MAX_ITER $(ITERATIONS) OUTPUT_DIR $(OUTPUT)
	@echo "Detections on the target: $(OUTPUT)/gallery/watercolor_test.png"
	@echo "The same on the source: $(OUTPUT)/gallery/voc_2007_test.png"
	@echo "Metrics, checkpoints, logs: $(OUTPUT)   World: $(WORLD)"

bench: setup
	@$(RUN) benchmarks/backbone.py

clean:
	rm -rf $(VENV) demo build *.egg-info
