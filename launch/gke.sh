#!/usr/bin/env bash
# Training and evaluation on Kubernetes (GKE): a JobSet of one job per slice, in a Kueue queue; see
# launch/gke_jobset.yaml.
#   bash launch/gke.sh VERB FLAGS [-- SCRATCHPATCH_FLAGS]
# Verbs:
#   submit   make the JobSet; it starts when the queue has room, and after a preemption goes on from the newest
#            checkpoint
#   eval, generate, calibrate
#            make a JobSet for the verb of scratchpatch with that name: it spreads weights and rows over all chips, and
#            the first pod prints the answer
#   status   the JobSet, its place in the queue, and every pod with its exit code
#   logs     the last lines of every pod
#   delete   remove it; submitted again, the same run goes on
# Flags (the same ones may be given to every verb):
#   --name=NAME             of the JobSet
#   --namespace=NAMESPACE   default: default
#   --queue=QUEUE           the Kueue LocalQueue
#   --image=IMAGE           built from launch/Dockerfile
#   --accelerator=TYPE      TPU: tpu-v5p-slice, tpu-v5-lite-podslice, tpu-v6e-slice, tpu7x, ...
#                           GPU: nvidia-h100-80gb, ...
#   --topology=AxB[xC]      TPU: chips of a slice, such as 4x4x4
#   --hosts=N               GPU: nodes; of TPUs it follows from topology and chips per host
#   --chips_per_host=N      TPU: 4 on most; GPU: GPUs of a node
#   --slices=N              default 1
#   --spot                  on spot nodes only
#   --volume_claim=CLAIM    a ReadWriteMany claim (Filestore), mounted at /mnt/scratchpatch: workdir, text and its index
#   --max_restarts=N        after crashes; preemptions are not counted. Default 10
#   --lines=N               of logs, default 20
#   --dry_run               print the manifest and every command, and change nothing
# Exit codes: 0 done; 1 kubectl failed, or (status) a pod failed; 2 wrong usage.
# Example:
#   job=(--name=sp1b --queue=tpus --image=IMAGE --accelerator=tpu-v5p-slice --topology=4x4x4 --chips_per_host=4
#        --volume_claim=shared)
#   bash launch/gke.sh submit "${job[@]}" -- --config=experiments/scale/sp_1b.py --workdir=/mnt/scratchpatch/sp1b
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/flags.sh"

flags=([name]="" [namespace]=default [queue]="" [image]="" [accelerator]="" [topology]="" [hosts]="" [chips_per_host]=""
    [slices]=1 [spot]=no [volume_claim]="" [max_restarts]=10 [lines]=20 [dry_run]=no)
read_flags "submit eval generate calibrate status logs delete" "$@"

# Pods are named NAME-slice-SLICE-POD-xxxxx: 63 letters in all.
check name '[a-z]([-a-z0-9]{0,35}[a-z0-9])?' "at most 37 small letters, digits and -, such as sp1b"
check namespace '[a-z0-9]([-a-z0-9]*[a-z0-9])?' "a namespace"
check lines '[1-9][0-9]*' "a number from 1"
name="${flags[name]}"
kubectl=(kubectl --namespace="${flags[namespace]}")
label="jobset.sigs.k8s.io/jobset-name=$name"
[[ "${flags[dry_run]}" == yes ]] || command -v kubectl >/dev/null ||
    fail "no kubectl on this machine: install it and run 'gcloud container clusters get-credentials CLUSTER'"

# The hosts of a slice: of TPUs, its chips by those of a host.
hosts() {
    local chips=1 side
    for side in ${flags[topology]//x/ }; do
        chips=$((chips * side))
    done
    if ((chips < flags[chips_per_host])); then
        refuse "--topology=${flags[topology]}: a slice of $chips chips has no host of ${flags[chips_per_host]}:" \
            "--chips_per_host=$chips"
    fi
    ((chips % flags[chips_per_host] == 0)) ||
        refuse "--chips_per_host=${flags[chips_per_host]}: $chips chips (--topology=${flags[topology]})" \
            "are no whole number of hosts"
    echo $((chips / flags[chips_per_host]))
}

# A list of strings, as JSON (and YAML) has it. Kubernetes would replace $(NAME).
as_list() {
    local word list=""
    for word in "$@"; do
        word="${word//\\/\\\\}"
        word="${word//\"/\\\"}"
        word="${word//\$(/\$\$(}"
        list+="${list:+, }\"$word\""
    done
    echo "[$list]"
}

manifest() {
    local text selector hosts kind
    if [[ "${flags[accelerator]}" == tpu* ]]; then
        kind=google.com/tpu
        hosts="$(hosts)"
        selector="\"cloud.google.com/gke-tpu-accelerator\": \"${flags[accelerator]}\""
        selector+=", \"cloud.google.com/gke-tpu-topology\": \"${flags[topology]}\""
    else
        kind=nvidia.com/gpu
        hosts="${flags[hosts]}"
        selector="\"cloud.google.com/gke-accelerator\": \"${flags[accelerator]}\""
    fi
    [[ "${flags[spot]}" == no ]] || selector+=', "cloud.google.com/gke-spot": "true"'
    local -A values=(
        [NAME]="$name"
        [NAMESPACE]="${flags[namespace]}"
        [QUEUE]="${flags[queue]}"
        [IMAGE]="${flags[image]}"
        [MAX_RESTARTS]="${flags[max_restarts]}"
        [SLICES]="${flags[slices]}"
        [HOSTS]="$hosts"
        [NODE_SELECTOR]="{$selector}"
        [CHIPS]="{\"$kind\": ${flags[chips_per_host]}}"
        [VOLUME_CLAIM]="${flags[volume_claim]}"
        [ARGS]="$(as_list "${command[@]}")"
    )
    text="$(grep -v '^#' "$root/launch/gke_jobset.yaml")"
    local key
    # The flags of scratchpatch last: what they hold is replaced by nothing.
    for key in NAME NAMESPACE QUEUE IMAGE MAX_RESTARTS SLICES HOSTS NODE_SELECTOR CHIPS VOLUME_CLAIM ARGS; do
        text="${text//"\${$key}"/"${values[$key]}"}"
    done
    echo "$text"
}

submit() {
    check queue '[a-z0-9]([-a-z0-9]*[a-z0-9])?' "a Kueue LocalQueue of the namespace"
    check image '[^ "]+' "an image built from launch/Dockerfile"
    check accelerator '(tpu|nvidia)[-a-z0-9]+' "a label of GKE, such as tpu-v5p-slice or nvidia-h100-80gb"
    check slices '[1-9][0-9]{0,3}' "a number from 1"
    check chips_per_host '[1-9][0-9]?' "a number from 1, 4 on most TPU hosts and 8 on most GPU hosts"
    check volume_claim '[a-z0-9]([-a-z0-9.]*[a-z0-9])?' "a ReadWriteMany claim: the workdir is on it"
    check max_restarts '[0-9]{1,6}' "a number from 0"
    if [[ "${flags[accelerator]}" == tpu* ]]; then
        check topology '[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?' "AxB or AxBxC chips, such as 4x4x4"
        [[ -z "${flags[hosts]}" ]] ||
            refuse "--hosts=${flags[hosts]}: of TPUs it follows from --topology and --chips_per_host"
    else
        check hosts '[1-9][0-9]{0,4}' "the number of nodes"
        [[ -z "${flags[topology]}" ]] || refuse "--topology=${flags[topology]}: only TPUs have one; GPUs: --hosts=N"
    fi
    if [[ "$verb" == submit ]]; then check_given train; else check_given "$verb"; fi
    local text
    text="$(manifest)"
    if [[ "${flags[dry_run]}" == yes ]]; then
        echo "$text"
        echo "# of the above:"
        run "${kubectl[@]}" create --filename=-
        return
    fi
    "${kubectl[@]}" create --filename=- <<<"$text" ||
        fail "kubectl did not make JobSet $name (its own words are above); of one that exists: 'delete' it first"
}

status() {
    local columns='POD:.metadata.name,NODE:.spec.nodeName,PHASE:.status.phase'
    columns+=',EXIT:.status.containerStatuses[0].state.terminated.exitCode'
    run "${kubectl[@]}" get jobset "$name" --output=wide
    run "${kubectl[@]}" get workloads.kueue.x-k8s.io --selector="kueue.x-k8s.io/queue-name=${flags[queue]}"
    if [[ "${flags[dry_run]}" == yes ]]; then
        run "${kubectl[@]}" get pods --selector="$label" --output="custom-columns=$columns"
        return
    fi
    local pods pod code failed=0
    pods="$("${kubectl[@]}" get pods --selector="$label" --output="custom-columns=$columns")"
    echo "$pods"
    while read -r pod _ _ code; do
        [[ "$code" =~ ^[1-9][0-9]*$ && "$code" != 75 ]] || continue
        failed=1
        say "$pod failed with exit code $code; its last lines:"
        "${kubectl[@]}" logs "$pod" --tail=10 >&2
    done <<<"$pods"
    exit "$failed"
}

case "$verb" in
    submit | eval | generate | calibrate) submit ;;
    status)
        check queue '[a-z0-9]([-a-z0-9]*[a-z0-9])?' "a Kueue LocalQueue of the namespace"
        status
        ;;
    logs) run "${kubectl[@]}" logs --selector="$label" --prefix --tail="${flags[lines]}" --max-log-requests=1024 ;;
    delete) run "${kubectl[@]}" delete jobset "$name" ;;
esac
