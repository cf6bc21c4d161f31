# The main targets: demo, chaos, logs, logs-many, test, lab, bench, bench-checks, bench-input, bench-ops, bench-soak, bench-scale, bench-view, bench-fleet. Everything they need is installed by them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# $(call each,WORDS,COMMAND,WHAT IT IS): runs COMMAND for every $$each of WORDS, whatever fails; says at the end which did.
each = failed=; for each in $(1); do $(2) || failed="$$failed $$each"; done; test -z "$$failed" || { echo "$(3):$$failed" >&2; exit 1; }
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest

.PHONY: help setup demo chaos logs logs-many bench bench-checks bench-input bench-ops bench-soak bench-scale bench-view bench-fleet lab lab-down test lint unit contract e2e test-lowest
.PHONY: hosts routers contract-all test-here test-trixie test-sid test-kernels platforms
.PHONY: package package-lock test-package audit schema machines clab findings clean

help: ## what can be made
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: system $(STAMP) ## install what is missing: Debian packages for the lab, and the virtual environment

.PHONY: system
system:
	@./lab/install

$(STAMP): pyproject.toml | system
	@echo "installing the virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dns,grpc,regex,simulate]' --group dev
	@touch $@

demo: setup ## break balancers under 600 connections in the lab; less than two minutes
	@$(BIN)/python -m lab run -- $(BIN)/python -m lab.demo

# FAULTS=drain,agent-kill (FAULTS=help lists them), NODES=, CONNECTIONS=, SEED= and DURATION= of the random faults,
# PEER=healthcheck or none, FIREWALL=1 for a stateful firewall on every balancer.
chaos: setup ## the fault matrix under 600 connections: what broke, when routes went; half an hour
	@./lab/install bench $(filter bird,$(SPEAKER)) $(if $(FLEET),etcd)
	@$(BIN)/python -m lab.chaos $(if $(SPEAKER),--speaker '$(SPEAKER)') $(if $(FAULTS),--faults '$(FAULTS)') $(if $(NODES),--nodes '$(NODES)') \
		$(if $(CONNECTIONS),--connections '$(CONNECTIONS)') $(if $(SEED),--seed '$(SEED)') \
		$(if $(DURATION),--duration '$(DURATION)') $(if $(PEER),--peer '$(PEER)') \
		$(if $(FIREWALL),--firewall) $(if $(FLEET),--fleet)

# FAULTS=drain,receiver-kill (FAULTS=help lists them), MACHINES= with an rsyslogd each.
logs: setup ## syslog, RELP and HTTPS posts with the real programs: what each fault loses; a quarter of an hour
	@$(BIN)/python -m lab.logs $(if $(FAULTS),--faults '$(FAULTS)') $(if $(MACHINES),--machines '$(MACHINES)')

# SENDERS=5000, INTERVAL=20 seconds between two messages of one, BITS=12 of the table of connections.
logs-many: setup ## 5,000 senders over TCP and RELP: what they cost, what a balancer that goes loses; five minutes
	@$(BIN)/python -m lab.logs_many $(if $(SENDERS),--senders '$(SENDERS)') $(if $(INTERVAL),--interval '$(INTERVAL)') \
		$(if $(BITS),--bits '$(BITS)')

bench: setup ## IPVS figures against ipvsadm and keepalived in the lab; two to three minutes
	@./lab/install bench
	@$(BIN)/python -m lab run -- $(BIN)/python -m lab.bench

# The engine against HAProxy; the whole agent; tripwires; from a dead service to the router: with the kernel of the lab at a
# real-time priority, then without IPVS on this kernel.
bench-checks: setup ## checks against HAProxy's, the agent under 5,000 a second, tripwires, tunnels, failover, what checks prove; root, half an hour
	@./lab/install bench
	@$(BIN)/python -m lab.bench_checks
	@$(BIN)/python -m lab.bench_agent
	@$(BIN)/python -m lab.bench_wires
	@$(BIN)/python -m lab.bench_tunnel
	@$$(chrt -r 1 true 2>/dev/null && echo chrt -r 1) $(BIN)/python -m lab run -- $(BIN)/python -m lab.bench_failover
	@ANYCAST_LAB=namespaces $(BIN)/python -m lab run -- $(BIN)/python -m lab.bench_failover --without-ipvs
	@$(BIN)/python -m lab run -- $(BIN)/python -m lab.bench_proofs

bench-ops: $(STAMP) ## the ops surface: hostile clients against the lease, documents of 5,000 servers; five minutes
	@$(BIN)/python -m lab.bench_ops

bench-fleet: $(STAMP) ## what it costs that 16 nodes of 1,000 VIPs ask one another; twenty minutes
	@$(BIN)/python -m lab.bench_fleet

bench-soak: $(STAMP) ## MINUTES=20 of 5,000 checks, 50 /status a second, 100 streams: memory, descriptors, files
	@$(BIN)/python -m lab.bench_soak --minutes $(or $(MINUTES),20)

bench-input: $(STAMP) ## what hostile configurations cost `anycast check`: processor time and memory; ten minutes
	@$(BIN)/python -m lab.bench_input

# ROWS=outcome,tick (ROWS=help lists them), QUICK=1 for small sizes, LONG=1 for the rows of ten minutes too (an hour
# and a half in all), SECONDS_EACH= in the place of those ten minutes.
bench-scale: setup ## what the size of the configuration costs, against an older build; root, half an hour
	@./lab/install routers
	@$(BIN)/python -m lab.bench_scale $(if $(ROWS),--rows '$(ROWS)') $(if $(QUICK),--quick) $(if $(LONG),--long) \
		$(if $(SECONDS_EACH),--seconds '$(SECONDS_EACH)')

bench-view: $(STAMP) ## what the routers' view costs: 16 nodes, 1,000 VIPs, a flood; root, two minutes
	@$(BIN)/python -m lab.bench_view

lab: setup ## leave the lab running; it prints what to try, and the nodes' pages
	@$(BIN)/python -m lab up

lab-down: $(STAMP) ## end the lab; no trace is left but its logs in build/lab
	@$(BIN)/python -m lab down

# All but one at once, on two processors too, the longest first: those with real daemons wait for most of their time, and
# what only computes fills it. A kernel of the lab keeps to one processor, the last that it may have: the two that run
# here get one each.
# ANYCAST_LONG=1: also what takes long and is near to something that is here. ANYCAST_WHOLE: skipped for the lack of a
# program is failed.
test: setup ## everything: lint, types, import rules, unit, property, contract, e2e
	@./lab/install routers browser bench etcd tests
	@ANYCAST_WHOLE=1 $(MAKE) --no-print-directory --jobs 6 --output-sync=line e2e-site unit contract-sessions contract-rest e2e-local e2e-ipvs lint test-lowest

lint: $(STAMP) ## ruff, mypy --strict, import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

unit: $(STAMP) ## unit and property tests, no root needed
	@$(BIN)/python -m pytest tests/unit tests/property

contract: setup ## against the real ExaBGP, FRR, BIRD, GoBGP, OpenBGPD and Chromium on this machine
	@./lab/install routers browser bench etcd tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line contract-sessions contract-rest

# In two halves, for they wait: for leases, hold times and daemons.
SESSIONS := $(patsubst %,tests/contract/test_%.py,view preference kernel_table exabgp_faults sessions)
OUTSIDE := tests/contract/test_lab.py
.PHONY: contract-sessions contract-rest
contract-sessions: setup
	@$(APART) $(BIN)/python -m pytest $(SESSIONS)

contract-rest: setup
	@$(APART) $(BIN)/python -m pytest $(addprefix --ignore ,$(SESSIONS) $(OUTSIDE)) tests/contract -m 'not lab'
	@$(BIN)/python -m pytest $(OUTSIDE)

# Whatever becomes of a run, its daemons end with it. Not around the lab, which looks at the processes of the machine.
APART := $(if $(filter 0,$(shell id -u)),unshare --mount --pid --fork --kill-child --mount-proc sh -c '"$$0" "$$@"; exit $$?')

# --- other platforms: what was run on what is in docs/platforms.md, and written there by these ---

hosts: $(STAMP) ## Debian 12, 13 and unstable in build/hosts, with the programs that manage interfaces; root, minutes
	@$(BIN)/python -m lab.hosts

routers: $(STAMP) ## Debian 13 and unstable in build/debian, with their routers and User-Mode-Linux; root, minutes
	@$(BIN)/python -m lab.suites

contract-all: routers ## the contract tests of routers with those of this machine and of `make routers`; three quarters of an hour
	@./lab/install routers
	@$(APART) $(BIN)/python -m lab.platforms routers

# PARTS='lint unit contract'. The last commit is tested.
test-trixie: $(STAMP) ## lint, unit and contract tests of a clone of this checkout on Debian 13, Python 3.13; root
	@$(BIN)/python -m lab.platforms suite trixie $(or $(PARTS),lint unit contract)

test-sid: $(STAMP) ## the same on Debian unstable, Python 3.14
	@$(BIN)/python -m lab.platforms suite sid $(or $(PARTS),lint unit contract)

# TESTS=tests/e2e/test_maintenance.py for some of them.
test-kernels: routers ## IPVS and end-to-end tests on User-Mode-Linux of Debian 12, 13 and unstable; hours
	@./lab/install bench bird
	@$(call each,here trixie sid,$(BIN)/python -m lab.platforms kernel $$each $(if $(TESTS),-- $(TESTS)),failed on the kernels)

test-here: setup ## unit and contract tests on this machine
	@./lab/install routers browser bench etcd tests
	@$(BIN)/python -m lab.platforms here unit contract

platforms: ## all of it, one after another; those that fail are named at the end
	@$(call each,test-here test-trixie test-sid contract-all test-kernels,$(MAKE) --no-print-directory $$each,failed)

e2e: setup ## in the lab's kernel: IPVS contract and end to end
	@./lab/install bench bird
	@$(BIN)/python -m lab run -- $(BIN)/python -m pytest tests/contract tests/e2e -m lab

# In two labs, for `make test`. What builds a site of its own is with IPVS, where there is none to build besides. The other
# contract tests are not even read there, which takes long. Some files that share a site come last there, so that both labs
# take about as long.
ALONE := tests/e2e/test_site.py tests/e2e/test_chaos.py tests/e2e/test_logs.py tests/e2e/test_migrate.py
LAST := $(patsubst %,tests/e2e/test_%.py,firewall processes replaced replaced_forms)
# Needs no IPVS: namespaces of this kernel do, where a system call costs a hundredth of what it does in the lab's.
LOCAL := tests/e2e/test_local.py
IPVS = $(shell grep --files-with-matches 'mark\.lab' tests/contract/test_*.py)
.PHONY: e2e-site e2e-ipvs e2e-local
e2e-site: setup
	@$(BIN)/python -m lab run -- $(BIN)/python -m pytest $(addprefix --ignore ,$(ALONE) $(LAST) $(LOCAL)) tests/e2e -m lab

e2e-ipvs: setup
	@$$(taskset --cpu-list 0 true 2>/dev/null && echo taskset --cpu-list 0) $(BIN)/python -m lab run -- $(BIN)/python -m pytest $(ALONE) $(IPVS) $(LAST) -m lab

e2e-local: setup
	@ANYCAST_LAB=namespaces $(BIN)/python -m lab run -- $(BIN)/python -m pytest $(LOCAL) -m lab

# What uses no library (the import rules say so), or is not the product.
NO_LIBRARY := __init__.py __pycache__ analysis announcer core kernel lab packaging plugin test_lease.py test_no_hang.py test_sealed.py
# What uses none that another test does not, and takes long: an agent is started, and asked everything, by test_secrets.py,
# files are read by test_load.py and others, documents are served by test_http.py, and the page of a fleet is made of the
# same markup as a node's. Of the verbs test_bug_report.py writes YAML, and the others print what they are told; of the
# checks test_http.py, test_dns.py, test_grpc.py and test_banner.py have a library, and the doctor's is asked by test_gather.py.
ENOUGH := $(patsubst %,agent/test_%.py,checker control engine feed its_end leases main maintenance_file planning recording reloading start) \
	$(patsubst %,cli/test_%.py,events exits fleet maintenance node overview parser status) config/test_apart.py config/test_hostile.py \
	doctor/test_firewall.py doctor/test_packets.py ops/test_documents.py ops/test_page.py \
	$(patsubst %,probes/test_%.py,command icmp node packet programs tcp unknown)
test-lowest: system ## unit tests with the lowest versions of the libraries that pyproject.toml allows
	@mkdir -p build
	@$(PYTHON) -c 'import re, tomllib; print(*(re.sub(">=([^,]+).*", r"==\1", d) for p in [tomllib.load(open("pyproject.toml", "rb"))["project"]] for d in sum(p["optional-dependencies"].values(), p["dependencies"])), sep="\n")' > build/lowest.txt
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --constraint build/lowest.txt --editable '.[dns,grpc,regex]' hypothesis jsonschema pytest pytest-timeout
	@ANYCAST_WHOLE= $(LOWEST)/bin/python -m pytest $(filter-out $(addprefix tests/unit/,$(NO_LIBRARY)),$(wildcard tests/unit/*)) $(addprefix --ignore tests/unit/,$(ENOUGH))

# SUITE=trixie is Debian 13; without it Debian 12 (bookworm).
package: $(STAMP) ## build the Debian package in dist/ (SUITE=trixie: for Debian 13); the same tree gives the same bytes
	@$(BIN)/python packaging/build.py $(if $(SUITE),--suite '$(SUITE)')

package-lock: $(STAMP) ## write the versions of the Python packages in the Debian package anew
	@$(BIN)/python packaging/build.py lock

test-package: setup ## install, upgrade and remove the package in a fresh Debian, boot it with systemd; minutes
	@./lab/install package
	@SUITE='$(SUITE)' $(BIN)/python -m pytest tests/packaging

AUDIT := build/venv-audit
audit: system ## known vulnerabilities of the Python packages in the Debian package, by PyPI's database; needs the network
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit; }
	@$(call each,packaging/requirements-*.txt,$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --requirement $$each,vulnerabilities or no answer)

schema: $(STAMP) ## write the JSON Schema of the configuration anew
	@$(BIN)/anycast schema > anycast/config/schema.json.new && mv anycast/config/schema.json.new anycast/config/schema.json

machines: $(STAMP) ## draw docs/machines.md from the tables of the core anew
	@$(BIN)/python -m tests.machines

clab: $(STAMP) ## write the containerlab topology anew
	@$(BIN)/python -m lab clab --write

# One after another, all of them; those that fail are named at the end. ONLY='bfd-*' runs some.
findings: system ## what real programs do otherwise than expected: each script runs the real program; root, ten minutes
	@./lab/install routers bench etcd
	@$(call each,findings/$(or $(ONLY),*).sh,echo "== $$each"; bash $$each,not as stated in its head)

clean: ## remove what was built here
	rm -rf build dist $(VENV) $(LOWEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
