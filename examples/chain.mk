# The chain on the aspirin example, one file after the other:
#   make -f examples/chain.mk
# Each tool reads and writes files only, so every step could run on another machine.

OUT ?= example-run
DATA := examples/aspirin
N_EDGE := 2048

.PHONY: report
report: $(OUT)/report.html $(OUT)/aspirin_small.png
	@echo
	@echo "report       $(OUT)/report.html"
	@echo "figure       $(OUT)/aspirin_small.png"
	@echo "model        $(OUT)/aspirin_small_best.msgpack"
	@echo "metrics      $(OUT)/aspirin_small.metrics"
	@echo "predictions  $(OUT)/test.h5"
	@echo "test errors  $(OUT)/test.errors.json"

$(OUT)/data/statistics.json: $(DATA)/train.xyz $(DATA)/valid.xyz $(DATA)/test.xyz
	mace-jax-preprocess --train_file $(DATA)/train.xyz --valid_file $(DATA)/valid.xyz \
	  --test_file $(DATA)/test.xyz --h5_prefix $(OUT)/data --r_max 5.0 \
	  --compute_statistics --atomic_numbers "[1, 6, 8]" --E0s average --force

$(OUT)/%.plan.json: $(OUT)/data/statistics.json
	mace-jax-plan-batches $(OUT)/data/$* --r-max 5.0 --n-edge $(N_EDGE) --output $@ --force

$(OUT)/aspirin_small_best.msgpack: configs/aspirin_small.gin $(OUT)/train.plan.json $(OUT)/val.plan.json
	mace-jax-train configs/aspirin_small.gin --train-path $(OUT)/data/train \
	  --valid-path $(OUT)/data/val --test-path None \
	  --statistics-file $(OUT)/data/statistics.json --train-plan $(OUT)/train.plan.json \
	  --valid-plan $(OUT)/val.plan.json --log-dir $(OUT) --seed 0 --force

$(OUT)/test.h5: $(OUT)/aspirin_small_best.msgpack
	mace-jax-predict $< $(OUT)/data/test --output $@ --json --force > $(OUT)/test.errors.json

$(OUT)/aspirin_small.png: $(OUT)/aspirin_small_best.msgpack
	mace-jax-train-plot --path $(OUT) --keys rmse_e_per_atom,rmse_f --output-format png --force

$(OUT)/report.html: $(OUT)/test.h5
	mace-jax-train-plot --report $@ $(OUT)/aspirin_small.metrics $(OUT)/aspirin_small_best.msgpack \
	  $< $(OUT)/data/statistics.json $(OUT)/train.plan.json $(OUT)/val.plan.json \
	  $(OUT)/data/index/train.parquet $(OUT)/aspirin_small.config.json --force
