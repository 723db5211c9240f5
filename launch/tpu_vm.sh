#!/usr/bin/env bash
# Training and evaluation on TPU VMs: a queued resource of one or several slices, and the same run on all of their
# workers.
#   bash launch/tpu_vm.sh VERB FLAGS [-- SCRATCHPATCH_FLAGS]
# Verbs:
#   create   ask for the resource and wait until it is there
#   copy     copy this repository (what git does not ignore) to every worker, unless a run is at work there
#   run      prepare every worker, start training there, and follow it; a run that is at work is only followed
#   resume   all of that, as far as it is needed: a preempted resource is made anew, and the same train command goes on
#            from the newest checkpoint
#   eval, generate, calibrate
#            as resume, but for the verb of scratchpatch with that name: it spreads weights and rows over all chips, and
#            worker 0 of slice 0 prints the answer
#   status   the resource's state and a line of every worker
#   logs     the last lines of every worker
#   delete   give the resource back; what is not below /mnt/scratchpatch is gone, and what a run has not saved
# Flags (the same ones may be given to every verb):
#   --name=NAME            of the resource and, with several slices, of its nodes NAME-0, NAME-1, ...
#   --zone=ZONE            such as us-east5-a
#   --project=PROJECT      default: gcloud's own
#   --accelerator=TYPE     of a slice, as gcloud names it: v5p-128 (64 chips: v4 and v5p count cores), v6e-64,
#                          v5litepod-64
#   --runtime_version=V    default: the one for the accelerator
#   --slices=N             default 1
#   --spot                 cheaper, and preempted at any time
#   --nfs=HOST:/EXPORT     mounted at /mnt/scratchpatch on every worker: workdir, text and its index (Filestore or NFS)
#   --lines=N              of logs, default 20
#   --poll_seconds=N       between looks at a resource that is not there yet, default 30
#   --dry_run              print every command and change nothing
# Exit codes: 0 done; 1 a worker failed: its number, exit code and last lines are printed; 2 wrong usage; 75 preempted,
# stopped by SIGTERM, or the connection is lost: resume goes on. Until it is done, whatever is preempted:
#   until bash launch/tpu_vm.sh resume ... -- ...; do [[ $? == 75 ]] || break; done
# Example:
#   pod=(--name=sp1b --zone=us-east5-a --accelerator=v5p-128 --spot --nfs=10.0.0.2:/share)
#   bash launch/tpu_vm.sh resume "${pod[@]}" -- --config=experiments/scale/sp_1b.py --workdir=/mnt/scratchpatch/sp1b
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/flags.sh"
PREEMPTED=75

flags=([name]="" [zone]="" [project]="" [accelerator]="" [runtime_version]="" [slices]=1 [spot]=no [nfs]="" [lines]=20
    [poll_seconds]=30 [dry_run]=no)
read_flags "create copy run resume eval generate calibrate status logs delete" "$@"

check name '[a-z]([-a-z0-9]{0,40}[a-z0-9])?' "small letters, digits and -, such as sp1b"
check zone '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone such as us-east5-a"
check slices '[1-9][0-9]{0,3}' "a number from 1"
check lines '[1-9][0-9]*' "a number from 1"
check poll_seconds '[0-9]+' "seconds"
[[ -z "${flags[project]}" ]] || check project '[a-z][-a-z0-9:.]*' "a project id"
case "$verb" in create | resume | eval | generate | calibrate)
    [[ "${flags[accelerator]}" != *7x* ]] ||
        refuse "--accelerator=${flags[accelerator]}: TPU7x is on GKE alone: use launch/gke.sh"
    check accelerator '(v4|v5litepod|v5p|v6e)-[1-9][0-9]*' "v4-N, v5litepod-N, v5p-N or v6e-N"
    ;;
esac
case "$verb" in run | resume | eval | generate | calibrate)
    check nfs '[^:/ ]+:/[^ ]*' "an NFS export HOST:/EXPORT that the workers reach: the workdir is on it"
    case "$verb" in
        run | resume) check_given train ;;
        *) check_given "$verb" ;;
    esac
    ;;
esac
if [[ -z "${flags[runtime_version]}" ]]; then
    case "${flags[accelerator]}" in
        v5litepod-*) flags[runtime_version]=v2-alpha-tpuv5-lite ;;
        v5p-*) flags[runtime_version]=v2-alpha-tpuv5 ;;
        v6e-*) flags[runtime_version]=v2-alpha-tpuv6e ;;
        *) flags[runtime_version]=tpu-ubuntu2204-base ;;
    esac
fi
[[ "${flags[dry_run]}" == yes ]] || command -v gcloud >/dev/null ||
    fail "no gcloud on this machine: install the Google Cloud CLI and run 'gcloud auth login'"

name="${flags[name]}"
where=(--zone="${flags[zone]}" ${flags[project]:+--project="${flags[project]}"})
nodes=("$name")
if ((flags[slices] > 1)); then
    mapfile -t nodes < <(seq -f "$name-%.0f" 0 $((flags[slices] - 1)))
fi
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# The state of the resource. NONE: there is no such resource. PREEMPTED: one of its slices is.
state() {
    local now
    if now="$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' \
        2>"$scratch/describe")"; then
        if [[ "$now" == ACTIVE && -n "$(gcloud compute tpus tpu-vm list "${where[@]}" --format='value(name)' \
            --filter="name ~ /$name(-[0-9]+)?\$ AND state = PREEMPTED")" ]]; then
            now=PREEMPTED
        fi
        echo "$now"
    elif grep -qi 'not.\?found' "$scratch/describe"; then
        echo NONE
    else
        cat "$scratch/describe" >&2
        fail "gcloud does not tell the state of $name (its own words are above)"
    fi
}

create() {
    local nodes_flags=(--node-id="$name")
    ((flags[slices] == 1)) || nodes_flags=(--node-count="${flags[slices]}" --node-prefix="$name")
    local spot=()
    [[ "${flags[spot]}" == no ]] || spot=(--spot)
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" --accelerator-type="${flags[accelerator]}" \
        --runtime-version="${flags[runtime_version]}" "${nodes_flags[@]}" "${spot[@]}"
    wait_for_it
}

delete() { run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }

wait_for_it() {
    [[ "${flags[dry_run]}" == no ]] || return 0
    local now before=""
    while :; do
        now="$(state)"
        [[ "$now" == "$before" ]] || say "$name is $now"
        before="$now"
        case "$now" in
            ACTIVE) return ;;
            FAILED)
                fail "$name was refused; 'gcloud compute tpus queued-resources describe $name ${where[*]}' says why"
                ;;
            NONE | PREEMPTED | SUSPENDING | SUSPENDED) exit "$PREEMPTED" ;;
        esac
        sleep "${flags[poll_seconds]}"
    done
}

# Makes the resource, or makes it anew where it was preempted.
ensure() {
    if [[ "${flags[dry_run]}" == yes ]]; then
        run gcloud compute tpus queued-resources describe "$name" "${where[@]}" "--format=value(state.state)"
        echo "# where it was preempted or refused:"
        delete
        echo "# where there is none:"
        create
        return
    fi
    local now
    now="$(state)"
    case "$now" in
        NONE) create ;;
        FAILED | PREEMPTED | SUSPENDING | SUSPENDED)
            say "$name is $now: making it anew"
            delete
            create
            ;;
        *) wait_for_it ;;
    esac
}

# on NODE COMMAND: on all of its workers at once.
on() {
    run gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" --worker=all --ssh-flag="-o ServerAliveInterval=60" \
        --command="$2"
}

copy() {
    local archive="$scratch/scratchpatch.tar.gz" node
    # Nothing is changed below a run that is at work. .venv stays: the next run installs only what is new.
    local unpack="bash scratchpatch/launch/tpu_worker.sh running 2>/dev/null || (mkdir -p scratchpatch"
    unpack+=" && find scratchpatch -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +"
    unpack+=" && tar -xzf scratchpatch.tar.gz -C scratchpatch)"
    git -C "$root" rev-parse --git-dir >/dev/null 2>&1 ||
        fail "$root is no git checkout: clone the repository to copy it"
    (cd "$root" && git ls-files -z --cached --others --exclude-standard) >"$scratch/files"
    if [[ "${flags[dry_run]}" == yes ]]; then
        echo "# scratchpatch.tar.gz: $(tr -cd '\0' <"$scratch/files" | wc -c) files of $root"
    else
        # A file that was deleted but not committed is still listed.
        tar -C "$root" --null --ignore-failed-read --files-from="$scratch/files" -czf "$archive" 2>"$scratch/tar" ||
            fail "tar: $(tail -n 1 "$scratch/tar")"
    fi
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm scp "$archive" "$node:scratchpatch.tar.gz" "${where[@]}" --worker=all
        on "$node" "$unpack"
    done
}

# On every slice at once: their workers wait for each other.
work() {
    local i code=0 waiting=()
    for i in "${!nodes[@]}"; do
        if [[ "${flags[dry_run]}" == yes ]]; then
            work_on "$i"
        else
            (work_on "$i" | tee "$scratch/slice.$i") &
            waiting+=("$!")
        fi
    done
    for i in "${!waiting[@]}"; do
        wait "${waiting[i]}" || code=$?
    done
    ((code == 0)) || explain "$code"
}

work_on() { on "${nodes[$1]}" "bash scratchpatch/launch/tpu_worker.sh run $1 ${flags[nfs]} $(shown "${command[@]}")"; }

# The verb that goes on after a preemption.
again="$verb"
[[ "$verb" != run ]] || again=resume

# After a failure: which workers failed and how, or that the resource is gone.
explain() {
    local slice worker rest number now failed=0
    while IFS='[].' read -r _ slice worker rest; do
        number="${rest##* }"
        [[ "$number" != 0 && "$number" != "$PREEMPTED" ]] || continue
        failed=1
        say "worker $worker of slice $slice failed with exit code $number; its last lines:"
        grep -hF "[$slice.$worker] " "$scratch"/slice.* | grep -v '\] ended with ' | tail -n 10 >&2 || true
    done < <(grep -hE '^\[[0-9]+\.[^]]+\] ended with [0-9]+$' "$scratch"/slice.* | sort -u)
    now="$(state)"
    if [[ "$now" != ACTIVE ]]; then
        say "$name is $now: it was preempted; '${again}' makes it anew and goes on"
        exit "$PREEMPTED"
    fi
    ((failed == 0)) || exit 1
    if grep -qhE "\] ended with $PREEMPTED\$" "$scratch"/slice.*; then
        say "stopped by SIGTERM and saved; '${again}' goes on from there"
        exit "$PREEMPTED"
    fi
    if grep -q . "$scratch"/slice.*; then
        say "the connection is lost, gcloud ended with $1; the workers go on: the same command follows them again"
        exit "$PREEMPTED"
    fi
    fail "gcloud ended with $1 before a worker said anything (its own words are above)"
}

# each VERB [ARGUMENT]: a verb of launch/tpu_worker.sh on every worker.
each() {
    local i
    for i in "${!nodes[@]}"; do
        on "${nodes[i]}" "bash scratchpatch/launch/tpu_worker.sh $1 $i${2:+ $2}" 2>"$scratch/each" || {
            cat "$scratch/each" >&2
            fail "${nodes[i]} does not answer (gcloud's own words are above)"
        }
    done
}

case "$verb" in
    create) create ;;
    copy) copy ;;
    run) work ;;
    resume | eval | generate | calibrate)
        ensure
        copy
        work
        ;;
    status)
        if [[ "${flags[dry_run]}" == no ]]; then
            now="$(state)"
            echo "$name is $now"
            [[ "$now" == ACTIVE ]] || exit 0
        fi
        each status
        ;;
    logs) each logs "${flags[lines]}" ;;
    delete) delete ;;
esac
