#!/usr/bin/env bash
# One worker of a TPU slice, on its own VM: launch/tpu_vm.sh calls it there.
#   bash launch/tpu_worker.sh run SLICE HOST:/EXPORT VERB FLAG...
#                                                        prepare, start and follow; the exit code is the run's
#   bash launch/tpu_worker.sh prepare HOST:/EXPORT       Python, packages, and the shared files at /mnt/scratchpatch
#   bash launch/tpu_worker.sh start VERB FLAG...         run scratchpatch in the background; at work already: leave it
#   bash launch/tpu_worker.sh follow SLICE               print the log until it ends
#   bash launch/tpu_worker.sh status SLICE               one line: not started, running, or its exit code
#   bash launch/tpu_worker.sh logs SLICE LINES           the end of the log
# The work goes on when the connection that started it is lost. ~/.scratchpatch has its command, pid, log and code.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
state="$HOME/.scratchpatch"
mkdir -p "$state"

# This worker's number in its slice, as JAX reads it.
number() {
    curl -sf -H 'Metadata-Flavor: Google' \
        http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number || hostname
}

running() { [[ -s "$state/pid" ]] && grep -q scratchpatch "/proc/$(cat "$state/pid")/cmdline" 2>/dev/null; }

run() {
    local slice="$1" export="$2" name code=0
    shift 2
    name="$slice.$(number)"
    # In shells of their own: the first command that fails ends them.
    bash "$0" prepare "$export" 2>&1 | sed -u "s/^/[$name] /" || code="${PIPESTATUS[0]}"
    if ((code == 0)); then
        bash "$0" start "$@" 2>&1 | sed -u "s/^/[$name] /" || code="${PIPESTATUS[0]}"
    fi
    ((code == 0)) || { echo "[$name] ended with $code" && exit "$code"; }
    follow "$slice"
}

# Whether launch/setup.sh finds a Python to begin with.
has_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        "$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    return 1
}

prepare() {
    local export="$1" mount=/mnt/scratchpatch packages=()
    # The images of TPU VMs are Ubuntu 22.04, with Python 3.10.
    has_python || packages+=(python3.11-venv)
    command -v mount.nfs >/dev/null || packages+=(nfs-common)
    if ((${#packages[@]})); then
        # A fresh VM updates itself first.
        sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
        sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y "${packages[@]}" \
            >/dev/null
    fi
    if ! mountpoint -q "$mount"; then
        sudo mkdir -p "$mount"
        # What one worker writes, the others see within a second.
        sudo mount -t nfs -o hard,actimeo=1 "$export" "$mount"
        # A server that forbids this may still let users write.
        sudo chmod 1777 "$mount" || true
    fi
    bash "$root/launch/setup.sh" tpu
}

start() {
    local command
    command="$(printf '%q ' "$@")"
    if running; then
        [[ "$(cat "$state/command")" == "$command" ]] && return
        echo "another run is at work here ($(cat "$state/command")): wait for it, or delete the resource" >&2
        exit 2
    fi
    rm -f "$state/code"
    echo "$command" >"$state/command"
    # setsid: the end of the connection does not end it. The trap: a notice of preemption reaches this shell too, which
    # must see the exit code.
    # shellcheck disable=SC2016  # the inner shell expands these
    PYTHONUNBUFFERED=1 setsid bash -c 'trap : TERM; cd "$1"; state="$2"; shift 2
        "$@" >"$state/log" 2>&1; code=$?
        echo "$code" >"$state/code.tmp"; mv "$state/code.tmp" "$state/code"' \
        scratchpatch "$root" "$state" .venv/bin/python -m scratchpatch "$@" </dev/null >/dev/null 2>&1 &
    echo "$!" >"$state/pid"
    touch "$state/log"
}

follow() {
    local name code
    name="$1.$(number)"
    [[ -s "$state/pid" ]] || { echo "[$name] ended with 1: not started" && exit 1; }
    while running; do sleep 0.2; done &
    tail -n +1 -s 0.2 --pid="$!" -f "$state/log" | sed -u "s/^/[$name] /" || true
    # No code: its shell was killed with it.
    code="$(cat "$state/code" 2>/dev/null || echo 137)"
    echo "[$name] ended with $code"
    exit "$code"
}

status() {
    local name
    name="$1.$(number)"
    if running; then
        echo "[$name] running since $(date -r "$state/pid" '+%F %T %Z'): $(tail -n 1 "$state/log")"
    elif [[ -s "$state/pid" ]]; then
        echo "[$name] ended with $(cat "$state/code" 2>/dev/null || echo 137): $(tail -n 1 "$state/log")"
    else
        echo "[$name] not started"
    fi
}

logs() {
    local name
    name="$1.$(number)"
    touch "$state/log"
    tail -n "$2" "$state/log" | sed "s/^/[$name] /"
}

"$@"
