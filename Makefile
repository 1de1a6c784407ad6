# The face of the course: `make help` lists what there is. Settings stand in settings.ini; `make run SCALE=smoke` overrides one.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
has      = $(if $(READY),$(READY)-$(if $(wildcard $(READY)-all),all,$(1)))
RUN     := $(BIN)/python
PAPER    = patrini2017
TABLE    = table2
SITE     = runs/site
PAGES    = runs/report
README   = README.md
PACK     = runs/gpu_pack
export PATH := $(if $(filter /%,$(BIN)),$(BIN),$(CURDIR)/$(BIN)):$(PATH)

# Notebooks run in the environment's Python, whatever kernels Jupyter would find elsewhere.
unexport JUPYTER_PATH
export JUPYTER_PREFER_ENV_PATH = 1

# What a person may say after `make`; a misspelt word must not train everything, and the shell's own variables say nothing here.
SETTINGS = DATA RESULTS DEVICE SCALE WORKERS
PARTS    = DATASET MODEL METHOD NOISE VARIANT RATE PRECISION PROFILE PROTOCOL
WORDS    = PYTHON VENV READY PAPER TABLE SITE PAGES README PACK FOLDER NB TARGET MINUTES MACHINE MEGABYTES $(SETTINGS) $(PARTS)
said     = $(findstring command line,$(origin $(1)))
$(foreach word,$(filter-out -% MAKE%,$(.VARIABLES)),$(if $(call said,$(word)),$(if $(filter $(word),$(WORDS)),,$(error $(word): expected one of $(WORDS)))))

# What was said reaches the shell in variables and is never text of a command, so that it may have any character: $$, \#, quotes, blanks.
unexport $(WORDS)
$(foreach word,$(WORDS),$(eval export SAID_$(word) = $$(value $(word))))
$(foreach key,$(SETTINGS),$(if $(call said,$(key)),$(eval export NOISY_COURSE_$(key) = $$(value $(key)))))
options  = $(foreach key,$(1),$(if $(call said,$(key)),--$(shell echo $(key) | tr A-Z a-z) "$$SAID_$(key)"))
odd      = $(strip $(foreach sign,' " $$ ; & | < > ` ( ) * ?,$(findstring $(sign),$(value VENV)))$(word 2,$(VENV)))
$(if $(odd),$(error VENV: expected a folder without blanks, quotes or signs of the shell))

.DEFAULT_GOAL := help
.PHONY: help run test lab table plan report bench workshop nbs nb twins readme notebooks gpu-pack import-results clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# Each target installs what it needs: `pip install noisy_course[extra]`, see pyproject.toml.
$(VENV)/ready-%:
	@"$$SAID_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	@test -x $(RUN) || { echo 'making an environment in $(VENV)'; "$$SAID_PYTHON" -m venv $(VENV); $(RUN) -m pip install --quiet --upgrade pip; }
	@echo 'installing what $(lastword $(subst -, ,$*)) needs; some minutes'
	@$(RUN) -m pip install --quiet -c constraints.txt -e ".[$(lastword $(subst -, ,$*))]"
	@rm -f $(filter-out $(wildcard $(READY)-*),$(wildcard $(VENV)/ready-*))
	@touch $@

run: $(call has,lab) ## the first paper's MNIST table, laptop scale: trains it, shows it beside the paper's, writes the report; VARIANT=text: as its text has it
	$(if $(call said,VARIANT),$(if $(filter text,$(value VARIANT)),,$(error VARIANT: expected text)))
	@$(RUN) -m noisy_course.lab.batch patrini2017 $(if $(call said,VARIANT),text,table2) --dataset mnist
	@$(RUN) -m noisy_course.lab.report patrini2017 $(if $(call said,VARIANT),text --beside table2,table2) --dataset mnist --site "$$SAID_PAGES"

table: $(call has,lab) ## part of a table: make table PAPER=patrini2017 TABLE=table2 DATASET=mnist SCALE=paper DEVICE=cuda; of your own: PROTOCOL=mine.py TABLE=…
	@$(RUN) -m noisy_course.lab.batch "$$SAID_PAPER" "$$SAID_TABLE" $(call options,$(PARTS))
	@$(RUN) -m noisy_course.lab.report "$$SAID_PAPER" "$$SAID_TABLE" $(call options,DATASET PROTOCOL) --site "$$SAID_PAGES"

plan: $(call has,lab) ## what `make table` with the same words would run, and how long; without a PAPER or a TABLE, everything
	@$(RUN) -m noisy_course.lab.batch $(if $(call said,PAPER)$(call said,TABLE),"$$SAID_PAPER") $(if $(call said,TABLE),"$$SAID_TABLE") $(call options,$(PARTS)) --plan

report: $(call has,site) ## the whole course as one offline site, with the results that are there: make report SITE=folder
	@$(RUN) -m noisy_course.lab.site --site "$$SAID_SITE"

# Whatever the tests leave lies in a folder of their own, which goes when they end.
test: $(call has,all) ## every notebook at its default parameters, all tests
	@own=$$(mktemp -d) && trap 'rm -rf "$$own"' EXIT && trap 'exit 1' HUP INT TERM && export OMP_NUM_THREADS=1 TMPDIR="$$own" NOISY_COURSE_CACHE="$$own/cache" && \
	  export IPYTHONDIR="$$own/ipython" JUPYTER_CONFIG_DIR="$$own/config" JUPYTER_DATA_DIR="$$own/data" JUPYTER_RUNTIME_DIR="$$own/runtime" && \
	  nbdev-test --n-workers 2 --timing nbs && \
	  $(RUN) -m pytest -n 2 --dist loadfile --durations=15

lab: $(call has,course) ## JupyterLab on the chapters
	@jupyter lab nbs --ServerApp.contents_manager_class=noisy_course.lab.jupyter.Notebooks

bench: $(call has,lab) ## how fast the engine is beside a plain loop; writes results/bench.json
	@$(RUN) -m noisy_course.lab.speed

workshop: $(call has,course) ## student and instructor notebooks, in runs/workshop
	@$(RUN) -m noisy_course.lab.workshop runs/workshop

gpu-pack: $(call has,lab) ## a folder for a rented GPU without internet: make gpu-pack PACK=runs/gpu_pack MINUTES=30 TARGET=3.12 (its Python)
	@$(RUN) -m noisy_course.lab.gpu_pack pack "$$SAID_PACK" $(call options,SCALE MINUTES MACHINE MEGABYTES) $(if $(TARGET),--python "$$SAID_TARGET")

import-results: $(call has,lab) ## check what came back and add it to results/: make import-results FOLDER=gpu_pack/results
	@$(RUN) -m noisy_course.lab.gpu_pack import "$$SAID_FOLDER"

# Writing: a notebook is edited as text, in its jupytext twin, and never rebuilt: cell ids and outputs stay.

twins: $(call has,course) ## text twins of all notebooks, to edit
	@mkdir -p twins/engine twins/experiments
	@cd nbs && for nb in *.ipynb */*.ipynb; do jupytext --quiet --to py:percent --output ../twins/$${nb%.ipynb}.py $$nb; done

nb: $(call has,course) ## take one notebook's text from its twin, export, execute, clean, draw its pictures: make nb NB=02_noise
	@jupytext --quiet --to ipynb --update --output "nbs/$$SAID_NB.ipynb" "twins/$$SAID_NB.py"
	@nbdev-export
	@jupyter nbconvert --to notebook --execute --inplace --log-level ERROR "nbs/$$SAID_NB.ipynb"
	@$(RUN) -m noisy_course.lab.tidy "nbs/$$SAID_NB.ipynb"

readme: $(call has,course) ## README.md, from nbs/index.ipynb as it was executed
	@jupyter nbconvert --to markdown --log-level ERROR --output-dir runs/readme --output README --TagRemovePreprocessor.enabled=True \
		--TagRemovePreprocessor.remove_cell_tags=remove-cell --TagRemovePreprocessor.remove_input_tags=remove-input nbs/index.ipynb
	@sed -E 's#\]\(\.\./#](#g; s#\]\((images/|[0-9][^):]*\.ipynb|engine/|experiments/)#](nbs/\1#g' runs/readme/README.md \
		| awk '/^```/ { open = !open; if (open && $$0 == "```") $$0 = "```python" } 1' | cat -s > "$$SAID_README"

nbs: $(call has,all) ## `make nb` for every notebook whose twin says something else, then the README, then all checks of notebooks
	@for nb in $$(cd nbs && ls *.ipynb */*.ipynb); do name=$${nb%.ipynb}; \
	  if [ -f twins/$$name.py ] && ! jupytext --quiet --to py:percent --output - nbs/$$nb | cmp -s - twins/$$name.py; then $(MAKE) nb NB="$$name" || exit 1; fi; done
	@nbdev-export
	@$(RUN) -m noisy_course.lab.tidy
	@$(MAKE) readme
	@$(RUN) -m pytest tests/test_notebooks.py

clean: ## remove the environment; what was trained or written stays, in runs and twins
	@rm -rf '$(VENV)'
