# make demo: collect, train and roll out Lift. make test: the test suite. Both install into .venv first, once.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: install demo test lint benchmark benchmark-pusht benchmark-temperature
.DEFAULT_GOAL := install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: PYTHON=$(PYTHON) is not Python 3.11 or 3.12; call make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[sim,video,tables,pusht,zarr,fid,robomimic,ray,dev]'
	# without their dependencies: see pyproject.toml, extra robomimic; metaworld pins another mujoco and runs with this one
	$(BIN)/pip install -c constraints.txt --no-deps robomimic metaworld
	@touch $@

demo: install
	$(BIN)/lfm demo --config configs/small/lift.yaml --output_dir runs/demo --n_procs 2 --overwrite true

# The tables of results/{robomimic,pusht,temperature}, hours of two cores each; what is done is not done again.
# PushT needs a copy of its recording: make benchmark-pusht PUSHT=pusht_cchi_v7_replay.zarr
PUSHT ?= pusht_cchi_v7_replay.zarr
TASKS := lift can square toolhang transport
.PHONY: $(TASKS:%=benchmark-%)
benchmark: benchmark-pusht $(TASKS:%=benchmark-%) benchmark-temperature

benchmark-pusht: install
	$(BIN)/lfm sweep --config configs/sweep/pusht.yaml --tasks.pusht.source $(PUSHT) --output_dir runs/benchmark \
	  --results results/pusht

$(TASKS:%=benchmark-%): benchmark-%: install
	$(BIN)/lfm sweep --config configs/sweep/$*.yaml --output_dir runs/benchmark --results results/robomimic

# Cooler noise: further rollouts of the checkpoints that the sweeps above left, see docs/what_works.md.
benchmark-temperature: benchmark-pusht benchmark-lift benchmark-can benchmark-square
	$(BIN)/lfm sweep --config configs/sweep/pusht_temperature.yaml --tasks.pusht.source $(PUSHT) \
	  --output_dir runs/benchmark --results results/temperature
	$(BIN)/lfm sweep --config configs/sweep/temperature.yaml --output_dir runs/benchmark --results results/temperature

# The same commands at a small size, from nothing to tables that say little: whether they run here. Give PUSHT, too.
REHEARSED := rehearsal-pusht $(TASKS:%=rehearsal-%)
.PHONY: rehearsal $(REHEARSED)
rehearsal: $(REHEARSED)

$(REHEARSED): rehearsal-%: install
	$(BIN)/lfm sweep --config configs/sweep/$*.yaml --output_dir runs/rehearsal --results runs/rehearsal/results \
	  --seeds '[0]' --budgets '[0.01]' --tasks.$*.n_rollouts 1 \
	  $(if $(filter pusht,$*),--tasks.pusht.source $(PUSHT),--tasks.$*.n_demonstrations 4)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lfm_policy envs train_policy.py rollout.py
