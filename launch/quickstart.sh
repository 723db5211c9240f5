#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated model, on any machine with Python 3.11 or newer.
#   bash launch/quickstart.sh
# Run again, it goes on where it was stopped, or says that it is finished.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/launch/setup.sh"
cd "$root"
# A run that Ctrl-C stops is not evaluated: another exit code than 0 ends this script.
.venv/bin/python -m scratchpatch train --config=experiments/quickstart.py --workdir=runs/quickstart --stopped_code=75
.venv/bin/python -m scratchpatch eval --workdir=runs/quickstart
echo "report: $root/runs/quickstart/report.html"
