# Every target works on a fresh clone: what it needs is set up first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DATA := demo/data
TOKEN := demo/watercolor/learned_embeds.safetensors

.PHONY: setup lint test test-all demo demo-segmentation demo-depth demo-referring demo-panoptic \
	demo-prompts app bench api clean

setup: $(VENV)/.ready

# Steps that are done already are quick to repeat; the stamp skips them while nothing changed.
$(VENV)/.ready: requirements.txt requirements-dev.txt setup.py tadp_d2/install_detectron2.py
	@echo "== Virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
		(echo "Python 3.11.4 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 2)
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "== The pinned, tested set of packages (a few GB the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@echo "== Detectron2"
	@$(RUN) -m tadp_d2.install_detectron2
	@echo "== This package, editable"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
	@echo "== Ready: source $(VENV)/bin/activate"

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

# Without what is marked as exhaustive, which `make test-all` runs too.
test: setup
	@$(call pytest,-m "not exhaustive")

test-all: setup
	@$(call pytest)

pytest = $(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
	--durations 10 $(1)

# The data sets of a task are drawn when a demo of it asks for them, in one folder.
DETECTION := $(DATA)/synthetic/detection.json
STREETS := $(DATA)/synthetic/streets.json
ROOMS := $(DATA)/synthetic/rooms.json
EXPRESSIONS := $(DATA)/synthetic/expressions.json
$(DATA)/synthetic/%.json: | setup
	@$(VENV)/bin/tadp-d2 synth $(DATA) --only $*

# From five images of the target; the learning rate suits the tiny text encoder.
$(TOKEN): | $(DETECTION)
	@echo "== The token <watercolor>"
	@$(VENV)/bin/tadp-d2 invert $(DATA)/watercolor/JPEGImages/[1-5].jpg --resume \
		--token "<watercolor>" --init watercolor --weights $(DATA)/stable-diffusion-tiny \
		--size 192 --steps 60 --rate 1e-2 --batch 4 --accumulation 1 --evaluate-every 60 \
		--sample-every 60 --sample-steps 10 --output $(@D)

# Draws synthetic data sets, learns a token, trains, evaluates on source and target. `make demo
# ITERATIONS=0` does the same without training. A demo that was stopped continues.
demo: ITERATIONS = 500
demo: OUTPUT = demo/detection_$(ITERATIONS)
# Two processes use two cores better than two threads do; a GPU needs no second one.
demo: PROCESSES = $(shell nvidia-smi >/dev/null 2>&1 || [ `getconf _NPROCESSORS_ONLN` -lt 2 ] \
	&& echo 1 || echo 2)
demo: setup | $(TOKEN)
	@$(call train,voc2watercolor_ti,TEXT.TOKENS "('$(TOKEN)',)")
	@echo "Detections on the target: $(OUTPUT)/gallery/watercolor_test.png"
	@echo "The same on the source: $(OUTPUT)/gallery/voc_2007_test.png"
	@echo "Metrics, checkpoints, logs: $(OUTPUT)   Data sets: $(DATA)"

demo-segmentation: ITERATIONS = 1300
demo-segmentation: OUTPUT = demo/segmentation_$(ITERATIONS)
demo-segmentation: setup | $(STREETS)
	@$(call train,cityscapes2darkzurich_simple)
	@echo "Segments on the target: $(OUTPUT)/gallery/dark_zurich_val.png"
	@echo "The same on the source: $(OUTPUT)/gallery/cityscapes_val.png"
	@echo "Metrics, checkpoints, logs: $(OUTPUT)   Data sets: $(DATA)"

demo-depth: ITERATIONS = 600
demo-depth: OUTPUT = demo/depth_$(ITERATIONS)
demo-depth: setup | $(ROOMS)
	@$(call train,nyu_depth)
	@echo "Depth of the rooms by night: $(OUTPUT)/gallery/rooms_night_test.png"
	@echo "As watercolors: $(OUTPUT)/gallery/rooms_watercolor_test.png"
	@echo "The same by day: $(OUTPUT)/gallery/nyu_depth_v2_test.png"
	@echo "Metrics, checkpoints, logs: $(OUTPUT)   Data sets: $(DATA)"

demo-referring: ITERATIONS = 1000
demo-referring: OUTPUT = demo/referring_$(ITERATIONS)
demo-referring: setup | $(EXPRESSIONS)
	@$(call train,refcoco,MODEL.DIFFUSION.LATENT_CACHE.FOLDER $(DATA)/latents)
	@echo "Answers on the source: $(OUTPUT)/gallery/refcoco_unc_val.png"
	@echo "The same on watercolors: $(OUTPUT)/gallery/refcoco_watercolor_test.png"
	@echo "Metrics, checkpoints, logs: $(OUTPUT)   Data sets: $(DATA)"

demo-panoptic: ITERATIONS = 600
demo-panoptic: OUTPUT = demo/panoptic_$(ITERATIONS)
demo-panoptic: setup | $(DETECTION)
	@$(call train,voc_panoptic)
	@echo "Segments on the source: $(OUTPUT)/gallery/voc_2007_test_panoptic_separated.png"
	@echo "The same on watercolors: $(OUTPUT)/gallery/watercolor_test_panoptic_separated.png"
	@echo "Metrics, checkpoints, logs: $(OUTPUT)   Data sets: $(DATA)"

# Four trainings under ten minutes on two cores; one that was stopped continues with those missing.
demo-prompts: OUTPUT = demo/prompts
demo-prompts: setup | $(DETECTION)
	@$(VENV)/bin/tadp-d2 study prompts --question demo --seeds 1 --data $(DATA) --output $(OUTPUT)
	@echo "What each prompt makes of the same images: $(OUTPUT)/prompts/predictions.jpg"
	@echo "Table, results, logs: $(OUTPUT)/prompts   Data sets: $(DATA)"

# One thread: two of so small a model wait for each other longer than they compute.
train = DETECTRON2_DATASETS=$(DATA) OMP_NUM_THREADS=1 $(RUN) train_net.py --resume \
	--num-gpus $(or $(PROCESSES),1) --config-file configs/quick_schedules/$(1).yaml \
	MODEL.DIFFUSION.WEIGHTS $(DATA)/stable-diffusion-tiny \
	SOLVER.MAX_ITER $(ITERATIONS) OUTPUT_DIR $(OUTPUT) $(2)

# The page to play with words, on the model of `make demo`, which is trained if it is not there.
app: ITERATIONS = 500
app: MODEL = demo/detection_$(ITERATIONS)/model_final.pth
app: setup
	@test -f $(MODEL) || $(MAKE) --no-print-directory demo ITERATIONS=$(ITERATIONS)
	@DETECTRON2_DATASETS=$(DATA) $(VENV)/bin/tadp-d2 app --weights $(MODEL)

bench: setup
	@$(RUN) benchmarks/backbone.py
	@$(RUN) benchmarks/contexts.py

# Pages of the public classes and functions, from their docstrings.
api: setup
	@$(RUN) tools/make_api_reference.py build/api

clean:
	rm -rf $(VENV) demo build *.egg-info
