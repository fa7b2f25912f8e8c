# shellcheck shell=bash
# lamina-job.sh - what the job templates (*.sbatch) share; sourced: `. lamina-job.sh`.
#
# It lies beside the program, so bash finds it in PATH; else it looks in the folder sbatch was called
# from. A template calls lamina_prepare with its arguments, writes a function that execs one launcher
# (mpirun or srun) on "${generate[@]}", and ends with `lamina_job FUNCTION`:
#
#   1. launch, and wait; USR1, TERM and INT become USR1 for the launcher, on which lamina stops with 75
#   2. after 1, or 128 and a signal (a rank or a node died): look which nodes are left, launch again,
#      at most LAMINA_MAX_RELAUNCHES (3) times in an allocation
#   3. after 75: queue the job again, at most LAMINA_MAX_RESTARTS (20) times
#
# and in both no further after two in a row that brought nothing new: no new line in the output, and,
# where there is a checkpoint to keep them, no new token. What was counted stands in OUTPUT.restarts
# while a job is under way. --resume is always given, so nothing is answered twice.
#
# Set by the user, with sbatch --export or before it:
#   LAMINA                 the program [lamina, from PATH]
#   LAMINA_CHECKPOINT_DIR  keep generations in flight in this folder, too (--checkpoint)
#   LAMINA_MAX_RESTARTS, LAMINA_MAX_RELAUNCHES
#   LAMINA_KILL_TIMEOUT    seconds mpirun leaves ranks before TERM and before KILL [10]: enough to end
#                          a step and write answers, and twice of it less than Slurm's KillWait (30)
#   LAMINA_BINDING         options of mpirun that bind ranks [--map-by slot:PE=CPUS --bind-to core]

lamina_say() {
    printf '%s %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$*"
}

# lamina_number NAME VALUE: end the job where it is no whole number.
lamina_number() {
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && return
    lamina_say "$1 is $2: expected a whole number"
    exit 2
}

# ---- what is run --------------------------------------------------------------------------------

# lamina_prepare MODEL INPUT OUTPUT [OPTION...]: set output, status and the command generate.
lamina_prepare() {
    local lamina=${LAMINA:-lamina}
    if [ $# -lt 3 ]; then
        lamina_say "three arguments are needed, MODEL.gguf INPUT OUTPUT, and options of lamina generate may follow; found: $*"
        exit 2
    fi
    if ! command -v "$lamina" >/dev/null; then
        lamina_say "no program $lamina: set LAMINA to its path, or load its module"
        exit 2
    fi
    lamina_number LAMINA_MAX_RESTARTS "${LAMINA_MAX_RESTARTS:-20}"
    lamina_number LAMINA_MAX_RELAUNCHES "${LAMINA_MAX_RELAUNCHES:-3}"
    lamina_number LAMINA_KILL_TIMEOUT "${LAMINA_KILL_TIMEOUT:-10}"
    output=$3
    status=$output.status.json
    generate=("$lamina" generate -m "$1" -i "$2" -o "$output" --resume --status "$status" --time-limit auto)
    [ -z "${LAMINA_CHECKPOINT_DIR:-}" ] || generate+=(--checkpoint "$LAMINA_CHECKPOINT_DIR")
    generate+=("${@:4}")
    # srun has not taken over --cpus-per-task since Slurm 22.05
    export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
    export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS
}

# Set the command mpirun, with options as its version spells them.
lamina_mpirun() {
    local version
    version=$(mpirun --version 2>/dev/null | head -n 1)
    lamina_say "${version:-mpirun: not found}"
    mpirun=(mpirun)
    case $version in
    *'(Open MPI) 4.'*) mpirun+=(--mca odls_base_sigkill_timeout "${LAMINA_KILL_TIMEOUT:-10}") ;;
    *'(Open MPI)'*) ;; # 5: no such setting; it kills 0.5 s after TERM
    *) lamina_say "not Open MPI: how ranks are bound and killed is left to it" ;;
    esac
    case $version in
    *'(Open MPI)'*) : "${LAMINA_BINDING=--map-by slot:PE=$OMP_NUM_THREADS --bind-to core}" ;;
    esac
    # shellcheck disable=SC2206 # one word an option
    mpirun+=(${LAMINA_BINDING:-})
}

# ---- nodes --------------------------------------------------------------------------------------

lamina_lost= # names of nodes that did not answer, each between blanks

# Tasks on each node, in the order of the node list: SLURM_TASKS_PER_NODE is "2(x3),1".
lamina_tasks() {
    local part
    for part in ${SLURM_TASKS_PER_NODE//,/ }; do
        case $part in
        *'(x'*) yes "${part%%(*}" | head -n "$(tr -dc 0-9 <<<"${part#*(}")" ;;
        *) echo "$part" ;;
        esac
    done
}

# lamina_hosts FEATURE: the nodes that are left with this feature ('': all), as mpirun's --host takes
# them: NODE:TASKS,NODE:TASKS
lamina_hosts() {
    local feature=$1 node tasks with=
    [ -z "$feature" ] || with=" $(sinfo -h -N -n "$SLURM_JOB_NODELIST" -o '%N,%b,' |
        grep -F ",$feature," | cut -d , -f 1 | tr '\n' ' ')"
    paste -d ' ' <(scontrol show hostnames "$SLURM_JOB_NODELIST") <(lamina_tasks) |
        while read -r node tasks; do
            case $lamina_lost in *" $node "*) continue ;; esac
            case $with in '' | *" $node "*) echo "$node:$tasks" ;; esac
        done | paste -s -d ,
}

# Ranks of a list of hosts.
lamina_ranks() {
    tr ',' '\n' <<<"$1" | awk -F: '{ n += $2 } END { print n }'
}

# Try each node with a step of its own; a dead one may not be known to Slurm for minutes.
lamina_look_for_nodes() {
    local node nodes probes=() index=0
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    for node in "${nodes[@]}"; do
        timeout 30 srun --overlap --quiet --nodes=1 --ntasks=1 --cpus-per-task=1 --nodelist="$node" \
            --input=none true >/dev/null 2>&1 &
        probes+=($!)
    done
    lamina_lost=
    for node in "${nodes[@]}"; do
        lamina_wait "${probes[$index]}" || lamina_lost="${lamina_lost:- }$node "
        index=$((index + 1))
    done
    [ -z "$lamina_lost" ] || lamina_say "nodes that do not answer:$lamina_lost"
}

# ---- launching ----------------------------------------------------------------------------------

lamina_stop() {
    lamina_say "asked to stop"
    lamina_stopping=yes
    [ -z "$lamina_launcher" ] || kill -USR1 "$lamina_launcher" 2>/dev/null
}

# lamina_wait PROCESS: its exit code. A trap ends wait early.
lamina_wait() {
    local code again
    wait "$1"
    code=$?
    while kill -0 "$1" 2>/dev/null; do
        wait "$1"
        code=$?
    done
    wait "$1" 2>/dev/null # it may have ended just as a trap ran; 127: it was collected before
    again=$?
    [ $again = 127 ] || code=$again
    return $code
}

lamina_lines() {
    if [ -f "$output" ]; then wc -l <"$output"; else echo 0; fi
}

# A number of the status file; nothing without it.
lamina_status() {
    sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" "$status" 2>/dev/null
}

# lamina_has_more_than LINES: whether something new is there that a restart keeps.
lamina_has_more_than() {
    local tokens
    [ "$(lamina_lines)" -gt "$1" ] && return
    tokens=$(lamina_status output_tokens)
    [ -n "${LAMINA_CHECKPOINT_DIR:-}" ] && [ "${tokens:-0}" -gt 0 ]
}

# lamina_launch FUNCTION: once; its code is lamina's. A launcher that had to stop may have killed its
# ranks after they were done: then the status file knows better.
lamina_launch() {
    local code said
    rm -f "$status"
    "$1" &
    lamina_launcher=$!
    [ -z "$lamina_stopping" ] || kill -USR1 "$lamina_launcher" 2>/dev/null
    lamina_wait "$lamina_launcher"
    code=$?
    lamina_launcher=
    if [ -n "$lamina_stopping" ] && { [ $code = 1 ] || [ $code -ge 128 ]; }; then
        said=75 # it had not begun
        [ ! -f "$status" ] || said=$(lamina_status exit_code)
        lamina_say "the launcher ended with $code while it stopped, lamina with ${said:-nothing said}"
        code=${said:-$code}
    fi
    lamina_say "lamina ended with $code, $(lamina_lines) lines in $output"
    return "$code"
}

# Launch, and launch again in this allocation while that may help. The last code.
lamina_launch_all() {
    local code lines n_relaunches=0 n_barren=0 most=${LAMINA_MAX_RELAUNCHES:-3}
    while :; do
        lines=$(lamina_lines)
        lamina_launch "$1"
        code=$?
        [ -z "$lamina_stopping" ] && { [ $code = 1 ] || [ $code -ge 128 ]; } || return $code
        n_barren=$((n_barren + 1))
        lamina_has_more_than "$lines" && n_barren=0
        if [ $n_relaunches -ge "$most" ] || [ $n_barren -ge 2 ]; then
            lamina_say "not launched again: $n_relaunches of $most relaunches, the last $n_barren without anything new"
            return $code
        fi
        n_relaunches=$((n_relaunches + 1))
        lamina_look_for_nodes
        [ -z "$lamina_stopping" ] || return 75
        lamina_say "relaunch $n_relaunches of $most in this allocation"
    done
}

# ---- starting again -----------------------------------------------------------------------------

# Read and write what is counted over the starts of a job: lamina_key n_restarts n_barren lines
lamina_count_start() {
    local key restarts barren lines
    lamina_key=${LAMINA_CHAIN:-$SLURM_JOB_ID}
    lamina_restarts=0 lamina_barren=0
    read -r key restarts barren lines 2>/dev/null <"$output.restarts"
    if [ "${key:-}" = "$lamina_key" ]; then
        lamina_restarts=$((restarts + 1)) lamina_barren=$barren
        lamina_judge "$restarts" "$lines"
    fi
    lamina_lines_before=$(lamina_lines)
    echo "$lamina_key $lamina_restarts $lamina_barren $lamina_lines_before" >"$output.restarts"
}

# lamina_judge RESTARTS LINES: count a start, the RESTARTS-th restart, that began with so many lines.
lamina_judge() {
    if lamina_has_more_than "$2"; then
        lamina_barren=0
    elif [ "$1" -gt 0 ]; then
        lamina_barren=$((lamina_barren + 1))
    fi
}

# A job that Slurm is ending already, as after scancel, is COMPLETING; it must not come back.
lamina_is_running() {
    scontrol -o show job "$SLURM_JOB_ID" 2>/dev/null | grep -q 'JobState=RUNNING'
}

lamina_requeue() {
    scontrol requeue "$SLURM_JOB_ID"
}

# lamina_job LAUNCH [AGAIN]: all of it; ends the script. AGAIN is what queues the job again.
lamina_job() {
    local code most=${LAMINA_MAX_RESTARTS:-20}
    lamina_stopping=
    lamina_launcher=
    trap lamina_stop USR1 TERM INT
    lamina_count_start
    lamina_say "job $SLURM_JOB_ID, restart $lamina_restarts of $most, on $SLURM_JOB_NODELIST"
    "${generate[0]}" --version
    if [ "$lamina_barren" -ge 2 ]; then
        code=75
    else
        lamina_launch_all "$1"
        code=$?
        [ $code = 75 ] && lamina_judge "$lamina_restarts" "$lamina_lines_before"
    fi
    case $code in
    0 | 2 | 3) rm -f "$output.restarts" ;;
    75)
        if [ "$lamina_restarts" -ge "$most" ] || [ "$lamina_barren" -ge 2 ]; then
            lamina_say "not started again: $lamina_restarts of $most restarts, the last $lamina_barren without anything new"
            rm -f "$output.restarts"
        elif ! lamina_is_running; then
            lamina_say "not queued again: Slurm has ended this job"
            rm -f "$output.restarts"
        elif "${2:-lamina_requeue}"; then
            lamina_say "queued again"
            exit 0
        else
            lamina_say "could not be queued again: submit the same job by hand, it goes on with $output"
        fi
        ;;
    esac
    exit $code
}
