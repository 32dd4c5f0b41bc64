# Every target that needs the environment makes it first (scripts/setup; nothing happens when it is up to date).
BIN := .venv/bin
# Two workers share two cores: numerical libraries must not start threads of their own.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test golden soak rtamt lerobot openpi simulators check format reference lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## make .venv from constraints.txt, if it is not up to date
	@scripts/setup

demo: setup  ## the main job: learned policy, faults, with and without shield, report
	$(BIN)/safeguard demo

test: setup  ## the whole test suite
	$(BIN)/pytest -n 2 --dist loadgroup

golden: setup  ## replay the recorded runs of tests/golden
	$(BIN)/python scripts/golden.py check

soak: setup  ## the filter against adversaries in MuJoCo: 104,000 ticks, four robots, periods of 1, 2 and 5 ms
	$(BIN)/python benchmarks/soak.py --robot panda --ticks 26000 --dt 0.001 --workers 2
	$(BIN)/python benchmarks/soak.py --robot ur10 --ticks 26000 --dt 0.005 --workers 2
	$(BIN)/python benchmarks/soak.py --robot so101 --ticks 26000 --workers 2
	$(BIN)/python benchmarks/soak.py --robot g1 --ticks 26000 --workers 2

rtamt: setup  ## temporal logic beside rtamt, which is installed in a folder of its own
	@scripts/rtamt

lerobot: setup  ## the LeRobot wrappers beside LeRobot, which is installed in an environment of its own
	@scripts/lerobot

openpi: setup  ## our openpi client and proxy with openpi's own, which are installed in a folder of their own
	@scripts/openpi

simulators: setup  ## specs of actions beside robosuite, highway-env and MetaDrive, in folders of their own
	@scripts/simulators

check: setup  ## lint, format, layers, types, generated pages: everything but the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python scripts/gen_reference.py --check
	$(BIN)/safeguard modes render --check

format: setup  ## format the code and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup  ## write docs/reference from the code
	$(BIN)/python scripts/gen_reference.py
	$(BIN)/safeguard modes render

lock:  ## resolve the newest versions anew and write constraints.txt
	@scripts/lock

clean:  ## remove .venv, caches and builds
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
