#!/usr/bin/env bash
# Sets up .venv with the test extra, then runs ruff and pytest over processes.
#   bash tests/run.sh [PYTEST ARGUMENT]...
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/launch/setup.sh" test
cd "$root"
.venv/bin/python -m ruff check .
# Each process holds its own JAX: beyond 8 they cost more memory than they save time.
cores="$(getconf _NPROCESSORS_ONLN)"
exec .venv/bin/python -m pytest -n "$((cores < 8 ? cores : 8))" --dist worksteal "$@"
