# `make demo` and `make test` need git, make and Python 3.11; they install the rest into a folder of their own outside the
# checkout (Ikomia's packer publishes everything that lies in a plugin's folder).

# Set on make's command line (make demo OUT=pictures) and, all but PYTHON and JOBS, not by the environment: what is called WORK
# there is somebody else's, and `make clean` removes it.
PYTHON ?= python3.11
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/infer_segment_anything_2
# One folder per checkout, so that two of them never share an installation.
WORK   := $(CACHE)/$(shell pwd -P | tr -d '\n' | cksum | cut -d' ' -f1)
ifneq ($(words $(WORK)),1)
$(error The path "$(WORK)" has a space in it, which make does not handle. Choose another folder: make … CACHE=/path/without/spaces)
endif
VENV   := $(WORK)/venv
QT5    := $(WORK)/qt5
QT6    := $(WORK)/qt6
READERS := $(WORK)/readers
OF_QT6 := PyQt6==6.2.3 PyQt6-Qt6==6.2.4 PyQt6-sip
OF_QT5 := ikomia==0.15.1 PyQt5==5.15.11 PyQt5-Qt5 PyQt5-sip
OF_READERS := supervision==0.31.2 ultralytics==8.4.190 opencv-python-headless defusedxml pydeprecate
# Names say what is installed there: what is asked for now, or something else.
READY  := $(VENV)/ready-$(shell (echo $(PYTHON); cat build-requirements.txt requirements.txt tests/requirements.txt) | cksum | cut -d' ' -f1)
named  = $(1)/ready-$(shell echo $(2) | cksum | cut -d' ' -f1)
QT5_READY := $(call named,$(QT5),$(OF_QT5))
QT6_READY := $(call named,$(QT6),$(OF_QT6))
READERS_READY := $(call named,$(READERS),$(OF_READERS))
HUB    := $(WORK)/hub
OUT    := $(WORK)/demo
PACKAGE := $(WORK)/infer_segment_anything_2.zip
IKOMIA_VERSIONS := 0.16.1 0.15.1
MODEL  := sam2_hiera_nano
# Released models that were downloaded before are used again, though the demo has a home of its own.
TORCH_CACHE := $(or $(TORCH_HOME),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/torch)
IMAGE  :=
POINT  :=
BOX    :=
TRACK  :=

# Nothing that runs below leaves a cache in the checkout.
export PYTHONPYCACHEPREFIX := $(WORK)/pycache
export RUFF_CACHE_DIR := $(WORK)/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(WORK)/hypothesis
export IKOMIA_AUTO_COMPLETION := False
# Somebody else's packages, of ROS for one, would come before those that are installed here.
unexport PYTHONPATH PYTHONHOME
# Empty it means the same as unset, but torch would keep its models in the current folder.
ifeq ($(XDG_CACHE_HOME),)
unexport XDG_CACHE_HOME
endif
# Many containers set it. Without a cache each of the tests' many processes would compile torch anew, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-slow test-install bench package lint format pictures notebook clean

help:
	@echo "make demo       segment sample pictures and follow through a clip, or IMAGE=photo.jpg or TRACK=video.mp4, POINT=x,y BOX=x,y,x,y, with MODEL=$(MODEL); writes to OUT=$(OUT)"
	@echo "make test       lint and all tests but the two below"
	@echo "make test-slow  the tests that take minutes or gigabytes"
	@echo "make test-install  install from a hub with Ikomia's own installer, in new environments"
	@echo "make package    the zip that the hub hands out: $(PACKAGE)"
	@echo "make bench      speed and memory beside sam2 itself, in a table; half an hour on two cores"
	@echo "make pictures   draw the pictures of the README again"
	@echo "make notebook   execute the example notebook and store what it shows"
	@echo "make format     sort imports and format the code"
	@echo "make clean      remove what the other commands installed and wrote: $(WORK)"

# All that `make test` needs.
setup: $(READY) $(QT5_READY) $(QT6_READY)

# Without build isolation, as Ikomia's hub installs a plugin: with it, pip would download a second torch to build sam2.
$(READY):
	@echo "Setting up in $(VENV): some minutes, once."
	@mkdir -p $(WORK)
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r build-requirements.txt
	@SAM2_BUILD_CUDA=0 $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		-r requirements.txt -r tests/requirements.txt
	@touch $@

# The two generations of Qt that Studio has been built on. What is not here (torch, sam2, pytest, …) comes from $(VENV); no PyQt is
# installed there, so that its tests show that the API needs none. 6.2.3 is the newest PyQt6 that imports beside the Qt 6.2
# which ikomia 0.16.1 bundles.
$(QT6_READY): PACKAGES := $(OF_QT6)
$(QT5_READY): PACKAGES := $(OF_QT5)
# What reads exports. Without their dependencies, which $(VENV) has, and with an OpenCV that must not lie beside Ikomia's.
$(READERS_READY): PACKAGES := $(OF_READERS)
$(QT5_READY) $(QT6_READY) $(READERS_READY): $(READY)
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(PACKAGES)
	@$(VENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/plugin.pth
	@touch $@

demo: $(READY)
	@TORCH_HOME="$(TORCH_CACHE)" HOME=$(WORK)/home $(VENV)/bin/python tests/tools/demo.py --out "$(OUT)" --model "$(MODEL)" $(if $(IMAGE),--image="$(IMAGE)") \
		$(if $(TRACK),--track="$(TRACK)") $(if $(POINT),--point="$(POINT)") $(if $(BOX),--box="$(BOX)")

# Several processes with one thread each: in half the time of one process with several. Linting and pip, where there is something
# to install, run beside one another.
test: $(READY)
	@$(MAKE) --no-print-directory -j3 lint $(QT5_READY) $(QT6_READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not slow" -n $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
	@echo "The panel with ikomia 0.16.1 and PyQt6, and beside it the panel and what draws prompts with ikomia 0.15.1 and PyQt5:"
	@OMP_NUM_THREADS=1 $(QT5)/bin/python -m pytest -m qt tests/workflow > $(WORK)/qt5.log 2>&1 & beside=$$!; \
		OMP_NUM_THREADS=1 $(QT6)/bin/python -m pytest -m qt tests/workflow/test_widget.py; qt6=$$?; \
		wait $$beside; qt5=$$?; cat $(WORK)/qt5.log; exit $$((qt5 || qt6))

test-slow: $(READY)
	@$(VENV)/bin/python -m pytest -m slow
	@FUZZ_EXAMPLES=4000 $(VENV)/bin/python -m pytest tests/hostile/test_fuzz.py

# New environments with ikomia and torch alone, the latter by links to the one of $(VENV). Ikomia installs the rest, and pip builds
# sam2 there: without a cache, which has it built already.
test-install: $(READY) $(READERS_READY)
	@YOLO_CONFIG_DIR=$(READERS) $(READERS)/bin/python tests/install/read_exports.py
	@rm -rf $(HUB)
	@$(VENV)/bin/python tests/install/torch_only.py $(HUB)/torch
	@set -e; for version in $(IKOMIA_VERSIONS); do \
		echo "Installing from a hub with ikomia $$version:"; \
		$(PYTHON) -m venv $(HUB)/$$version; \
		echo $(HUB)/torch > $$($(HUB)/$$version/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/torch.pth; \
		$(HUB)/$$version/bin/python -m pip install --quiet --disable-pip-version-check ikomia==$$version; \
		mkdir -p $(HUB)/home-$$version; \
		HOME=$(HUB)/home-$$version SAM2_BUILD_CUDA=0 PIP_NO_CACHE_DIR=1 $(HUB)/$$version/bin/python tests/install/from_hub.py; \
		$(HUB)/$$version/bin/python -m pip install --quiet --disable-pip-version-check "ikomia-cli[full]" ikomia==$$version; \
		HOME=$(HUB)/home-$$version $(HUB)/$$version/bin/python tests/install/pack.py; \
	done
	@rm -rf $(HUB)

package:
	@mkdir -p "$(shell dirname "$(PACKAGE)")"
	@$(PYTHON) tests/tools/package.py "$(PACKAGE)"

bench: $(READY)
	@$(VENV)/bin/python -W ignore tests/benchmarks/compare.py $(BENCH)

# mypy sees the checkout under the name that the plugin is imported by: through a link, whatever the checkout's folder is called.
TYPED := $(addprefix -p infer_segment_anything_2.,$(wildcard segmentation bridge)) \
	$(addprefix -m infer_segment_anything_2.,$(basename $(wildcard infer_segment_anything_2*.py)))
lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@mkdir -p $(WORK)/types && ln -sfn "$(CURDIR)" $(WORK)/types/infer_segment_anything_2
	@cd $(WORK)/types && $(VENV)/bin/python -m mypy --config-file "$(CURDIR)/pyproject.toml" --cache-dir $(WORK)/mypy $(TYPED)

format: $(READY)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

pictures: $(READY)
	@HOME=$(WORK)/home $(VENV)/bin/python tests/tools/pictures.py

notebook: $(READY)
	@HOME=$(WORK)/home $(VENV)/bin/python tests/tools/notebook.py

clean:
	rm -rf "$(WORK)"
