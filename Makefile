# The face of the course: `make help` lists what there is. Settings stand in settings.ini; `make run SCALE=smoke` overrides one.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
NBS    := $(sort $(wildcard nbs/*.ipynb nbs/experiments/*.ipynb))
TWINS  := twins
export PATH := $(abspath $(BIN)):$(PATH)

$(READY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

.PHONY: nb
nb: $(READY)   ## update one notebook from its twin, export, execute, clean: make nb NB=02_noise
	jupytext --quiet --to ipynb --update --output nbs/$(NB).ipynb $(TWINS)/$(NB).py
	nbdev-export
	jupyter nbconvert --to notebook --execute --inplace --log-level WARN nbs/$(NB).ipynb
	nbdev-clean --fname nbs/$(NB).ipynb
