# `make` alone prints the targets. COMP chooses the competition, ROOT says where its data lie.
COMP ?= recycle
ROOT ?=
FOLD ?= 0
FOLDS ?= 5
SEED ?= 0
STRATEGY ?= boxes
GROUPS ?=
SPLIT ?= oof test
VIEWS ?= identity
ENSEMBLE ?= final
MODEL ?=
MODELS ?=
GPUS ?=
NODES ?=
EPOCHS ?=
IMAGE_SIZE ?=
BATCH ?=
DEVICE ?=
WORKERS ?=
SET ?=
OVERWRITE ?=
FILES ?=
FILE ?=
AGAINST ?=
YES ?=
AGAIN ?=
MESSAGE ?=
KERNEL ?=
VERSION ?=
PUBLIC ?=
PRIVATE ?=
BENCH ?=
BUDGET ?=
TRIALS ?=
OUT ?= tuned

PY = .venv/bin/python
competition = --competition $(COMP) $(if $(ROOT),--root "$(ROOT)")
device = $(if $(DEVICE),--device $(DEVICE))
gpus = $(if $(GPUS),--gpus $(GPUS))
settings = $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(IMAGE_SIZE),--image-size $(IMAGE_SIZE)) \
  $(if $(BATCH),--batch $(BATCH)) $(if $(WORKERS),--workers $(WORKERS)) \
  $(if $(SET),--set $(foreach option,$(SET),'$(option)'))
# FOLDS= is a count for `make folds` and a list for `make train-all`, where it must be asked for.
folds_asked = $(if $(filter command% environment%,$(origin FOLDS)),--folds $(FOLDS))
overwrite = $(if $(filter 1 yes true,$(OVERWRITE)),--overwrite)
ifneq ($(filter train-all,$(MAKECMDGOALS)),)
  ifeq ($(MODELS),)
    $(error MODELS= is missing, as in: make train-all MODELS="cascade_swin yolov5x" FOLDS="0 1")
  endif
endif
ifneq ($(filter train predict,$(MAKECMDGOALS)),)
  ifeq ($(MODEL),)
    $(error MODEL= is missing, as in: make $(firstword $(MAKECMDGOALS)) MODEL=cascade_swin)
  endif
endif
# An empty ROOT in the environment means the profile's own folder.
unexport ROOT

.PHONY: help
help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: setup setup-ensemble full any doctor lock
setup: full ## make .venv from requirements.txt (every target does it when it is needed)
setup-ensemble: ## the same without torch: enough for all but train, train-all, predict, demo, test
	@scripts/setup.sh ensemble
full:
	@scripts/setup.sh full
any:
	@scripts/setup.sh any
doctor: any ## what is installed, what works, and whether the GPU fits
	@$(PY) -m pipeline.doctor
lock: ## make requirements*.txt anew from requirements*.in
	@scripts/lock.sh

.PHONY: demo
demo: full ## the whole pipeline on the embedded competition: no data, no GPU, about ten minutes
	@$(PY) -m pipeline.demo $(overwrite)

.PHONY: data folds train train-all predict evaluate cost tune ensemble submission
data: any ## look for faults in photos, boxes and splits before training; changes nothing
	@$(PY) -m pipeline.checkup $(competition)
folds: any ## split the train images: FOLDS=5 SEED=0 STRATEGY="boxes groups" GROUPS=bursts:10,near
	@$(PY) -m pipeline.folds $(competition) --folds $(FOLDS) --seed $(SEED) --strategy $(STRATEGY) \
	  $(if $(GROUPS),--groups "$(GROUPS)") $(overwrite)
train: full ## train a model on a fold: MODEL= FOLD= [EPOCHS= IMAGE_SIZE= BATCH= DEVICE= SET="key=value"]
	@$(PY) -m pipeline.train $(competition) --model $(MODEL) --fold $(FOLD) --seed $(SEED) \
	  $(settings) $(device) $(gpus) $(overwrite)
train-all: full ## train and predict MODELS="a b" on FOLDS="0 1" (default: all), on Ray: [GPUS= NODES=]
	@$(PY) -m pipeline.launch $(competition) --models $(MODELS) $(folds_asked) --seed $(SEED) \
	  $(settings) $(device) $(gpus) $(if $(NODES),--nodes $(NODES)) --split $(SPLIT) --views $(VIEWS)
predict: full ## predict: MODEL= FOLD= SPLIT="oof test" VIEWS=identity,hflip,rot90,scale1.25
	@$(PY) -m pipeline.predict $(competition) --model $(MODEL) --fold $(FOLD) --split $(SPLIT) \
	  --views $(VIEWS) $(device)
evaluate: any ## score MODEL= (its views and their fusion), or ENSEMBLE=, or FILES="a.parquet b.parquet"
	@$(PY) -m pipeline.evaluate $(competition) $(if $(FILES),$(FILES),$(if $(MODEL),--model $(MODEL),--ensemble $(ENSEMBLE)))
cost: $(if $(MODEL),full,any) ## parameters, FLOPs and photos a second of MODEL= FOLD=; without MODEL: the table of all models
	@$(PY) -m pipeline.cost $(competition) $(if $(MODEL),--model $(MODEL) --fold $(FOLD) $(device) \
	  $(if $(IMAGE_SIZE),--image-size $(IMAGE_SIZE)))
tune: any ## find the recipe of an ensemble and its honest score: ENSEMBLE= BUDGET=300 TRIALS= SEED=
	@$(PY) -m pipeline.tune $(competition) $(if $(FILES),$(FILES) -o $(OUT),--ensemble $(ENSEMBLE)) \
	  --seed $(SEED) $(if $(BUDGET),--budget $(BUDGET)) $(if $(TRIALS),--trials $(TRIALS))
ensemble: any ## fuse the members of configs/ensembles/<ENSEMBLE>.yaml and write the submission
	@$(PY) -m pipeline.ensemble $(competition) --ensemble $(ENSEMBLE)
	@$(PY) -m pipeline.submission $(competition) --ensemble $(ENSEMBLE)
submission: any ## write submissions/<COMP>/<ENSEMBLE>.csv and its card from the fused test boxes
	@$(PY) -m pipeline.submission $(competition) --ensemble $(ENSEMBLE)

.PHONY: check submit score ledger
check: any ## every fault of a submission, with its row: FILE= COMP= [AGAINST=other.csv]
	@$(PY) -m pipeline.submission check $(if $(FILE),"$(FILE)") $(competition) \
	  --ensemble $(ENSEMBLE) $(if $(AGAINST),--against "$(AGAINST)")
submit: any ## check, ask, upload, wait for the score: [ENSEMBLE= FILE= MESSAGE= YES=1 AGAIN=1 KERNEL= VERSION=]
	@$(PY) -m pipeline.submit $(competition) --ensemble $(ENSEMBLE) $(if $(FILE),--file "$(FILE)") \
	  $(if $(MESSAGE),--message "$(MESSAGE)") $(if $(filter 1 yes true,$(YES)),--yes) \
	  $(if $(filter 1 yes true,$(AGAIN)),--again) \
	  $(if $(KERNEL),--kernel $(KERNEL)) $(if $(VERSION),--kernel-version $(VERSION))
score: any ## record what a site without an API said: FILE= PUBLIC= [PRIVATE= MESSAGE=]
	@$(PY) -m pipeline.submit score $(competition) --ensemble $(ENSEMBLE) $(if $(FILE),--file "$(FILE)") \
	  --public "$(PUBLIC)" --private "$(PRIVATE)" $(if $(MESSAGE),--message "$(MESSAGE)")
ledger: any ## all submissions of COMP, today's budget, and two picks for the end
	@$(PY) -m pipeline.ledger $(competition)

.PHONY: test lint bench bench-train
bench: full ## time ours against its peers, in one run; BENCH=scoring for one part
	@set -e; for part in $(or $(BENCH),folds fusion scoring submissions); do echo "== $$part"; $(PY) -m benchmarks.$$part; done
bench-train: full ## time our training and prediction beside the frameworks' own commands, in one run
	@$(PY) -m benchmarks.training $(BENCH)
test: full lint ## lint, types and tests
	@$(PY) -m pytest
lint: full
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
