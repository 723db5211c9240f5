#!/usr/bin/env bash
# Several training processes on this machine, as several hosts would run them.
#   bash launch/local.sh --processes=N [--devices_per_process=M] [--dry_run] -- TRAIN_FLAGS
#   bash launch/local.sh --processes=2 --devices_per_process=2 -- --config=experiments/quickstart.py --workdir=runs/two
# M is the number of simulated CPU devices of each; without it every process takes the devices that it finds.
# What process I > 0 prints goes to WORKDIR.process-I.log. When one dies, all are stopped, and the exit code is its own.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
processes="" devices="" dry=""

usage() {
    echo "local: $*" >&2
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

while [[ $# -gt 0 ]]; do
    case "$1" in
        --processes=*) processes="${1#*=}" ;;
        --devices_per_process=*) devices="${1#*=}" ;;
        --dry_run) dry=1 ;;
        --) shift; break ;;
        *) usage "unknown flag $1" ;;
    esac
    shift
done
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || usage "--processes=$processes: wanted a number above 0"
[[ -z "$devices" || "$devices" =~ ^[1-9][0-9]*$ ]] || usage "--devices_per_process=$devices: wanted a number above 0"
[[ $# -gt 0 ]] || usage "no flags for scratchpatch train after --"

workdir=""
for flag in "$@"; do
    [[ "$flag" != --workdir=* ]] || workdir="${flag#*=}"
done
[[ -n "$workdir" ]] || usage "--workdir=DIR is missing after --"

python="$root/.venv/bin/python"
port=PORT
if [[ -z "$dry" ]]; then
    bash "$root/launch/setup.sh"
    port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    mkdir -p "$(dirname "$workdir")"
fi
settings=()
[[ -z "$devices" ]] || settings=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")
pids=()
stop() {
    [[ ${#pids[@]} -eq 0 ]] || kill "$@" "${pids[@]}" 2>/dev/null || true
}
trap 'stop -TERM' TERM INT
for ((i = 0; i < processes; i++)); do
    command=(env "${settings[@]}" "$python" -m scratchpatch train "$@" "--distributed=127.0.0.1:$port,$i,$processes")
    log="$workdir.process-$i.log"
    if [[ -n "$dry" ]]; then
        printf '%q ' "${command[@]}"
        ((i == 0)) && echo || echo ">> $log 2>&1"
    elif ((i == 0)); then
        "${command[@]}" &
        pids+=($!)
    else
        "${command[@]}" >>"$log" 2>&1 &
        pids+=($!)
    fi
done
code=0 left=${#pids[@]}
while ((left > 0)); do
    done_code=0
    wait -n || done_code=$?
    # A signal to this script ends a wait early: the processes save, and are waited for again.
    if ((done_code > 128)) && (($(jobs -rp | wc -l) == left)); then
        continue
    fi
    left=$((left - 1))
    if ((done_code != 0 && code == 0)); then
        code=$done_code
        echo "local: a process ended with $code; stopping the others" >&2
        stop -KILL
    fi
done
exit "$code"
