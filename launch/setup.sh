#!/usr/bin/env bash
# Makes .venv in the repository's root and installs scratchpatch into it with pinned versions.
#   bash launch/setup.sh [EXTRA]   EXTRA: test, tpu, cuda, data, lm_eval, peer, serve, tensorboard, tfds or tokens
#                                  (pyproject.toml)
# PYTHON=path names the Python to use. A second run installs nothing unless the
# project's dependencies, its place or its Python have changed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
extra="${1:-}"
venv="$root/.venv"
python="$venv/bin/python"

fail() {
    echo "setup: $*" >&2
    exit 1
}

[[ -z "$extra" ]] || sed -n '/optional-dependencies/,/^$/p' "$root/pyproject.toml" | grep "^$extra = \[" >/dev/null ||
    fail "pyproject.toml has no extra '$extra'"

# Prints a Python that is new enough and can make virtual environments.
find_python() {
    local name version seen=""
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        version="$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
        if ! "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            seen+=" $name is $version;"
        elif ! "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            seen+=" $name ($version) lacks the venv module (Debian, Ubuntu: install python$version-venv);"
        else
            echo "$name"
            return
        fi
    done
    fail "needs Python 3.11 or newer, found:${seen:- none;} install Python 3.11, 3.12 or 3.13, or set PYTHON to one"
}

if ! "$python" -c '' 2>/dev/null; then
    base="$(find_python)"
    echo "setup: making .venv with $("$base" --version)" >&2
    "$base" -m venv --clear "$venv"
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$venv holds $("$python" --version), but 3.11 or newer is needed: remove that folder and run this again"

# One stamp per extra that was installed, holding what it was installed from.
# Every installation holds the package itself, so any stamp serves for no extra.
state="$(cd "$root" && { cat pyproject.toml constraints.txt && pwd && "$python" --version; } | cksum)"
stamps="$venv/installed"
mkdir -p "$stamps"
if [[ -n "$extra" ]]; then
    installed="$(cat "$stamps/$extra" 2>/dev/null || true)"
else
    installed="$(cat "$stamps"/* 2>/dev/null | grep -Fx "$state" | head -n 1 || true)"
fi
if [[ "$installed" != "$state" ]]; then
    echo "setup: installing scratchpatch${extra:+[$extra]} (the first time a minute and 1 GB, or more with cuda)" >&2
    (cd "$root" && "$python" -m pip install -qq --no-compile --disable-pip-version-check --no-input \
        -c constraints.txt -e ".${extra:+[$extra]}") ||
        fail "pip could not install the packages (its own words are above)"
    # pip would compile one file after the other, which takes as long as all else. Some files of packages are no Python.
    "$python" -m compileall -qq -j 0 "$venv/lib" || true
    echo "$state" >"$stamps/${extra:-base}"
fi
