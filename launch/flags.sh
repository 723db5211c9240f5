# shellcheck shell=bash
# What the launchers share; sourced by them. Flags are --NAME=VALUE (or --NAME alone: yes), before or after the verb;
# what follows -- goes to scratchpatch.

# A failure inside $(...) ends the script too.
shopt -s inherit_errexit

# What flags may be given, with their defaults: filled by the launcher, then by read_flags.
declare -A flags
# What read_flags has read.
verb=""
given=()

script="$(basename "$0" .sh)"

say() { echo "$script: $*" >&2; }

# Wrong usage: nothing was done.
refuse() {
    say "$* (see bash launch/$(basename "$0") --help)"
    exit 2
}

fail() {
    say "$*"
    exit 1
}

# The comment at the top of the launcher.
help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"; }

# read_flags VERBS ARGUMENT...: fills verb, flags and given.
read_flags() {
    local verbs="$1" argument name
    shift
    while (($#)); do
        argument="$1"
        shift
        case "$argument" in
            --help | -h)
                help
                exit 0
                ;;
            --)
                given=("$@")
                break
                ;;
            --*)
                name="${argument#--}"
                name="${name%%=*}"
                [[ "$name" =~ ^[a-z_]+$ && -v "flags[$name]" ]] ||
                    refuse "no flag --$name; flags: $(printf -- '--%s\n' "${!flags[@]}" | sort | tr '\n' ' ')"
                if [[ "$argument" == *=* ]]; then
                    flags[$name]="${argument#*=}"
                else
                    [[ "${flags[$name]}" == yes || "${flags[$name]}" == no ]] ||
                        refuse "--$name wants a value: --$name=VALUE"
                    flags[$name]=yes
                fi
                ;;
            *)
                [[ -z "$verb" ]] ||
                    refuse "'$argument' is not a flag: write --NAME=VALUE, and the flags of scratchpatch after --"
                verb="$argument"
                ;;
        esac
    done
    [[ " $verbs " == *" $verb "* && -n "$verb" ]] || refuse "no verb '$verb'; verbs: $verbs"
}

# check NAME REGEX MEANING: the flag's value is as wanted.
check() {
    local value="${flags[$1]}"
    [[ -n "$value" ]] || refuse "$verb needs --$1=${1^^}: $3"
    [[ "$value" =~ ^($2)$ ]] || refuse "--$1=$value: wanted $3"
}

# Where all hosts mount the file system that they share.
mount=/mnt/scratchpatch

# What scratchpatch runs: filled by check_given.
command=()

# check_given VERB: what is given to this verb of scratchpatch: a config to train, and a folder that all hosts see.
check_given() {
    local argument config="" workdir="" prompts="" out="" stops=no
    [[ "$1" != train ]] || stops=yes
    for argument in "${given[@]}"; do
        case "$argument" in
            --config=*) config="${argument#*=}" ;;
            --workdir=*) workdir="${argument#*=}" ;;
            --prompts=*) prompts="${argument#*=}" ;;
            --out=*) out="${argument#*=}" ;;
            --distributed=* | --stopped_code=*) refuse "$argument: this script sets it, leave it out" ;;
            --follow) stops=yes ;;
            --*) ;;
            *) refuse "'$argument' after --: wanted a flag of scratchpatch $1, --NAME=VALUE" ;;
        esac
        [[ "$argument" != *$'\n'* ]] || refuse "a line break in ${argument%%=*}: put it into the config file"
    done
    [[ "$1" != train || -n "$config" ]] ||
        refuse "$verb needs --config=FILE after --: a file of this repository, such as experiments/scale/sp_1b.py"
    [[ -n "$workdir" ]] || refuse "$verb needs --workdir=$mount/NAME after --: the run's folder"
    [[ "$workdir" == "$mount"/?* ]] ||
        refuse "--workdir=$workdir: wanted a folder below $mount, which all hosts share and no preemption takes away"
    if [[ "$1" == generate ]]; then
        [[ "$prompts" == "$mount"/?* && "$out" == "$mount"/?* ]] ||
            refuse "$verb needs --prompts=FILE and --out=FILE below $mount after --: all hosts read the one, and the" \
                "first one writes the other"
    fi
    command=("$1" "${given[@]}" --distributed=auto)
    # The others end as SIGTERM ends any program.
    [[ "$stops" == no ]] || command+=(--stopped_code=75)
}

# A command as it can be typed.
shown() {
    local word line=""
    for word in "$@"; do
        [[ "$word" =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]] || word="${word@Q}"
        line+="${line:+ }$word"
    done
    echo "$line"
}

# run COMMAND...: with --dry_run, prints it instead.
run() {
    if [[ "${flags[dry_run]}" == yes ]]; then
        shown "$@"
    else
        "$@"
    fi
}
