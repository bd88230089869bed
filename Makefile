# make demo: SFT -> reward model -> PPO on the embedded world, from nothing. make test: the specification.
PYTHON ?= python3
BIN = .venv/bin
OUT = out/demo

.PHONY: demo test lint format tokenizer clean

demo: .venv/demo
	$(BIN)/python train_sft.py --out $(OUT) --overwrite
	$(BIN)/python train_rm.py --out $(OUT) --overwrite
	$(BIN)/python train_ppo.py --out $(OUT) --overwrite
	$(BIN)/python -m minirlhf.evaluate --policy $(OUT)/ppo --baseline $(OUT)/sft --reward-model $(OUT)/rm

test: .venv/test
	$(BIN)/python -m pytest

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The 512 ids of the default tokenizer, learned again from the world's text.
tokenizer: .venv/demo
	mkdir -p out
	$(BIN)/python -m minirlhf.world --documents 3000 > out/world.txt
	$(BIN)/python -m minirlhf.tokenizer < out/world.txt > out/tiny.tiktoken
	mv out/tiny.tiktoken minirlhf/tiny.tiktoken

# requirements.txt pins the versions; pyproject.toml says which packages. A change in either installs again.
.venv/demo: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.txt --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --constraint requirements.txt --editable '.[test,lint]'
	touch $@

clean:
	rm -rf .venv out build *.egg-info
