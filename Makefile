# make demo: SFT -> reward model -> PPO on the embedded world, from nothing. make test: the specification.
PYTHON ?= python3
BIN = .venv/bin
OUT = out/demo
METHOD_SEEDS =
PYTHONS = 3.10 3.11 3.12 3.13
ON_JUDGE = --out $(OUT)/on-judge --sft $(OUT)/sft --reward minirlhf.world.judge:total --missing-end-score -1 --eval-every 40
RESULTS = out/results
SEEDS = 1 2 3 4 5 6
KL_COEFS = 0 0.05 0.1 0.2 0.4
JOBS = 2

.PHONY: demo taste results methods seed test test-processors check-pythons faults soak spec mutants fuzz bench trl lint format tokenizer clean

demo: .venv/demo
	$(BIN)/minirlhf demo --out $(OUT)

# You choose between two responses, about 150 times; a reward model and PPO learn your taste. After `make demo`.
taste: .venv/demo
	$(BIN)/minirlhf taste

# Six seeds with DPO, and PPO with other KL coefficients: the README's table and figures. JOBS runs at
# once, of one thread each. The run goes on when a gate does not pass.
results: .venv/plot
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j $(JOBS) $(SEEDS:%=seed-%)
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j $(JOBS) $(KL_COEFS:%=kl-%)
	$(BIN)/minirlhf results --out $(RESULTS)

seed-%:
	$(MAKE) --no-print-directory seed SEED=$*

kl-%:
	$(BIN)/minirlhf ppo --out $(RESULTS)/$@ --sft $(RESULTS)/1/sft --rm $(RESULTS)/1/rm --kl-coef $* --held-out 512 --overwrite

seed: OUT = $(RESULTS)/$(SEED)
seed: .venv/plot
	$(BIN)/minirlhf sft --out $(OUT) --seed $(SEED) --overwrite
	$(BIN)/minirlhf rm --out $(OUT) --seed $(SEED) --held-out 2560 --overwrite
	-for gate in probe facts best-of-n; do $(BIN)/minirlhf gates $$gate --out $(OUT) --seed $(SEED); done
	$(BIN)/minirlhf ppo $(ON_JUDGE) --seed $(SEED) --overwrite
	-$(BIN)/minirlhf gates judge --out $(OUT) --seed $(SEED)
	$(BIN)/minirlhf ppo --out $(OUT) --seed $(SEED) --overwrite
	$(BIN)/minirlhf dpo --out $(OUT) --seed $(SEED) --overwrite
	$(BIN)/minirlhf report --out $(OUT) --seed $(SEED) --prompts 2048 --split test

# Every method from the SFT model, comparisons and judge of the demonstration, or of OUT=out/results
# METHOD_SEEDS=1,2,3: the table and the figure of docs/methods.md. It goes on where it was interrupted.
methods: .venv/plot
	$(BIN)/minirlhf methods --out $(OUT) $(if $(METHOD_SEEDS),--seeds $(METHOD_SEEDS))

test: .venv/test
	$(BIN)/python -m pytest

# What depends on the processor: with and without bf16, and with the instructions of an older one.
BY_PROCESSOR = tests/unit/test_model.py tests/unit/test_generate.py tests/unit/test_ppo.py tests/runs/test_train_sft.py tests/runs/test_train_rm.py tests/runs/test_train_ppo.py tests/runs/test_dpo_run.py
test-processors: .venv/test
	$(BIN)/python -m pytest --bf16-processor yes $(BY_PROCESSOR)
	$(BIN)/python -m pytest --bf16-processor no $(BY_PROCESSOR)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(BIN)/python -m pytest $(BY_PROCESSOR)

# The whole suite on every Python of the range that this machine has, each in a fresh virtual environment.
check-pythons:
	for version in $(PYTHONS); do \
	  if ! python$$version -c "" 2>/dev/null; then echo "--- no python$$version here"; continue; fi; \
	  echo "--- $$(python$$version --version)"; \
	  rm -rf out/python$$version && python$$version -m venv out/python$$version \
	    && out/python$$version/bin/pip install --quiet --constraint requirements.txt --editable '.[test]' \
	    && out/python$$version/bin/python -m pytest || exit 1; \
	done

# Kills, signals, full disks, two writers, damage, with real processes: prints the counts. Ten minutes. The full
# disk is a real one for root, who may mount a small one.
faults: .venv/test
	$(BIN)/python tests/faults/faults.py

# 2,000 updates of PPO: memory and open files stay level.
soak: .venv/test
	$(BIN)/python tests/faults/faults.py soak

# docs/SPEC.md and docs/BEHAVIOUR.md: what the tests say, as text.
spec: .venv/test
	$(BIN)/python docs/spec/write.py

# How much of the code the tests hold: an hour, and not in CI. The findings are in tests/zoo/mutants.md.
mutants: .venv/mutants
	$(BIN)/python tests/zoo/mutants.py --jobs $(JOBS)

# 100,000 damaged inputs to everything that is read, and 200 flipped bits in each kind of weight file.
fuzz: .venv/test
	$(BIN)/python tests/faults/fuzz.py
	$(BIN)/python tests/faults/flips.py

# How fast it is, beside transformers and TRL. NANOGPT=folder of a checkout adds nanoGPT.
bench: .venv/bench
	$(BIN)/minirlhf bench --workload tiny $(if $(NANOGPT),--nanogpt $(NANOGPT)) --json out/bench-tiny.json
	$(BIN)/minirlhf bench --workload small $(if $(NANOGPT),--nanogpt $(NANOGPT)) --json out/bench-small.json
	$(BIN)/minirlhf scaling

# TRL's PPOTrainer from OUT/sft and OUT/rm with the flags of OUT/ppo, judged beside it.
trl: .venv/bench
	$(BIN)/minirlhf trl --out $(OUT) --prompts 2048 --split test

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The 1,664 ids of the default tokenizer, learned again from the world's text.
tokenizer: .venv/demo
	mkdir -p out
	$(BIN)/minirlhf world --documents 3000 > out/world.txt
	$(BIN)/python -m minirlhf.world.bpe < out/world.txt > out/tiny.tiktoken
	mv out/tiny.tiktoken minirlhf/world/tiny.tiktoken

# requirements.txt pins the versions; pyproject.toml says which packages. A change in either installs again.
.venv/demo: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.txt --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --constraint requirements.txt --editable '.[test,lint]'
	touch $@

.venv/mutants: .venv/test
	$(BIN)/pip install --quiet --constraint requirements.txt --editable '.[test,mutants]'
	touch $@

.venv/bench: .venv/demo
	$(BIN)/pip install --quiet --constraint requirements.txt --editable '.[bench]'
	touch $@

.venv/plot: .venv/demo
	$(BIN)/pip install --quiet --constraint requirements.txt --editable '.[plot]'
	touch $@

clean:
	rm -rf .venv out build *.egg-info
