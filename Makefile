# `make` alone prints the targets. A variable goes on to its stage as PIPE_<NAME>, exactly as it was typed:
# nothing in it is expanded or run. Recipes and conditions therefore never name $(MODEL) and the like;
# pipeline/cli.py reads PIPE_MODEL as --model. Lists take spaces and commas alike.
VARIABLES = COMP ROOT MODEL MODELS FOLD FOLDS K SEED STRATEGY GROUPS EPOCHS IMAGE_SIZE BATCH RECIPE SET DEVICE \
  WORKERS GPUS NODES SPLIT VIEWS ENSEMBLE FILES OUT BUDGET TRIALS FILE AGAINST MESSAGE KERNEL VERSION PUBLIC PRIVATE \
  CACHE CACHE_FULL YES AGAIN OVERWRITE BENCH PYTHON MINUTES ONLY FIRST SMALL
$(foreach name,$(VARIABLES),$(eval export PIPE_$(name) := $$(value $(name))))
unexport $(VARIABLES)
PY = .venv/bin/python

.PHONY: help
help: ## print the targets
	@sed -nE 's/^([a-z-]+)( [a-z-]+)?:[^#]*## /\1\2\t/p' Makefile | awk -F'\t' '{sub(" ", ", ", $$1); printf "  make %-24s %s\n", $$1, $$2}'
	@echo "COMP= is the competition (recycle), ROOT= the folder of its data; lists take spaces and commas."

.PHONY: setup setup-ensemble full any doctor lock
setup: full ## make .venv from requirements.txt (every other target does it when needed)
setup-ensemble: ## the same without torch: enough for all but train, train-all, predict, demo, test
	@scripts/setup.sh ensemble
full:
	@scripts/setup.sh full
any:
	@scripts/setup.sh any
doctor: any ## what is installed, what works, and whether the GPU fits
	@$(PY) -m pipeline.doctor --from-make
lock: ## make requirements*.txt anew from requirements*.in
	@scripts/lock.sh

.PHONY: demo
demo: full ## the whole pipeline on the embedded competition: no data, no GPU, about six minutes
	@$(PY) -m pipeline.demo --from-make

.PHONY: models models-measure new check-data data folds train train-all predict evaluate cost tune ensemble submission
models: any ## all models to choose from: family, paper, licences, size, photos/s here, score in COMP=
	@$(PY) -m pipeline.list_models --from-make
models-measure: full ## count and time MODEL= on this device, without MODEL= all not measured: [DEVICE=]
	@$(PY) -m pipeline.list_models measure --from-make
new: any ## look at the data in ROOT= and write configs/competitions/<COMP>.yaml for them: COMP=mycomp
	@$(PY) -m pipeline.new --from-make
check-data data: any ## look for faults in photos, boxes and splits before training; changes nothing
	@$(PY) -m pipeline.check_data --from-make
folds: any ## split the train images into K=5 folds: [SEED= STRATEGY=boxes,groups GROUPS=bursts:10,near]
	@$(PY) -m pipeline.folds --from-make
train: full ## train MODEL= on FOLD=0 (or 0,1 or folds or full): [EPOCHS= IMAGE_SIZE= BATCH= RECIPE= DEVICE= GPUS= CACHE=ram SET="key=value" VIEWS=]
	@$(PY) -m pipeline.train --from-make
train-all: full ## train and predict MODEL=a,b on FOLD=folds, side by side on Ray: [GPUS=2 or auto, NODES= VIEWS=]
	@$(PY) -m pipeline.launch --from-make
predict: full ## predict with MODEL= FOLD=0: SPLIT=oof,test VIEWS=identity,hflip,rot90,scale1.25
	@$(PY) -m pipeline.predict --from-make
evaluate: any ## score MODEL= [FOLD=] (its views and their fusion), ENSEMBLE=final, or FILES=a.parquet,b.parquet
	@$(PY) -m pipeline.evaluate --from-make
cost: full ## parameters, FLOPs, photos per second of MODEL= FOLD=0 on this device
	@$(PY) -m pipeline.cost --from-make
tune: any ## choose how an ensemble is fused, and what that is worth: ENSEMBLE= BUDGET=300 TRIALS= SEED=
	@$(PY) -m pipeline.tune --from-make
ensemble: any ## fuse the members of configs/ensembles/<ENSEMBLE>.yaml and write the submission
	@$(PY) -m pipeline.ensemble --from-make
	@$(PY) -m pipeline.submission --from-make
submission: any ## write submissions/<COMP>/<ENSEMBLE>.csv and its card from the fused test boxes
	@$(PY) -m pipeline.submission --from-make

.PHONY: check-submission check submit record-score score ledger
check-submission check: any ## every fault of a submission, with its row: FILE= [AGAINST=other.csv]
	@$(PY) -m pipeline.submission check --from-make
submit: any ## check, ask, upload, wait for the score: [ENSEMBLE= FILE= MESSAGE= YES=1 AGAIN=1 KERNEL= VERSION=]
	@$(PY) -m pipeline.submit --from-make
record-score score: any ## record what a site without an API said: FILE= PUBLIC= [PRIVATE= MESSAGE=]
	@$(PY) -m pipeline.submit score --from-make
ledger: any ## all submissions of COMP, today's budget, and two picks for the end
	@$(PY) -m pipeline.ledger --from-make

.PHONY: test test-fast test-learn test-zoo lint torture bench bench-train bench-gpu
test: full lint ## lint, types and all tests
	@$(PY) -m pytest -n 2 --dist loadfile
test-fast: full lint ## lint, types and the quick tests: under two minutes
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow"
test-learn: full ## overfit eight photos with one model of each family, going on where it stopped: [MODEL=]
	@$(PY) -m benchmarks.learning --from-make
test-zoo: full ## train every model for two steps and predict, going on where it stopped: [MODEL=]
	@$(PY) -m benchmarks.zoo --from-make
lint: full ## lint and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
torture: full ## damaged inputs, killed stages and hostile machines: MINUTES=20, going on from the last share [ONLY= FIRST=]
	@PYTHONPATH=tests $(PY) -m torture --from-make
bench: full ## time ours beside its peers, in one run: BENCH=folds,fusion,scoring,submissions
	@$(PY) -m benchmarks --from-make
bench-train: full ## time ours beside the frameworks' own commands: [MODEL= IMAGE_SIZE= BATCH= BENCH=train,predict]
	@$(PY) -m benchmarks.training --from-make
bench-gpu: full ## how busy a GPU is kept, ours beside the limit: [MODEL= BENCH= BUDGET=480 FILE= SMALL=1]
	@$(PY) -m benchmarks.gpu --from-make
