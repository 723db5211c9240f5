#!/usr/bin/env bash
# Several processes on this machine, as several hosts would run them; see launch/supervise.
#   bash launch/local.sh --processes=N [--devices_per_process=M] [--verb=VERB] [--dry_run] -- SCRATCHPATCH_FLAGS
#   bash launch/local.sh --processes=2 --devices_per_process=2 -- --config=experiments/quickstart.py --workdir=runs/two
#   bash launch/local.sh --processes=2 --verb=eval -- --workdir=runs/two --json
# Nothing is restarted: when one dies, all are stopped, and the exit code is its own.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/launch/setup.sh"
exec "$root/.venv/bin/python" "$root/launch/supervise" --restarts=0 "$@"
