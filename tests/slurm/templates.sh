#!/bin/bash
# templates.sh - every template of jobs/ on a real Slurm of two nodes: each job is stopped by the signal
# that --signal=B:USR1 sends, queued again, resumes and ends; a killed rank and a lost node make it go
# on in the same allocation; launches that are traps are refused. The answers are those of one
# undisturbed colocated run. Skipped where Slurm cannot be started.
. "$(dirname "$0")/../cli/scene.sh"
. "$(dirname "$0")/cluster.sh"
JOBS=$(cd "$(dirname "$0")/../../jobs" && pwd)
lacks=$(cluster_lacks)
[ -z "$lacks" ] || scene_skip "$lacks"
LAMINA=$(realpath "$LAMINA")
scene_open
cluster_folder=$(mktemp -d /tmp/lamina-slurm.XXXXXX) || scene_skip "no folder with a short path, for sockets"
chmod 755 "$cluster_folder" # munge wants its socket to be reached
signals=() # processes that wait to send one
# shellcheck disable=SC2317 # the trap calls it
close_all() {
    [ ${#signals[@]} -eq 0 ] || kill "${signals[@]}"
    cluster_close || echo "processes are left: $(cluster_processes | tr '\n' ' ')"
    rm -rf "$cluster_folder"
    scene_close
}
trap close_all EXIT
trap 'exit 1' INT TERM HUP
# The two nodes are one host, whose shared memory they do not share as ranks of one node do; and it may
# have fewer cores than the templates ask for.
export LAMINA OMP_WAIT_POLICY=passive LAMINA_BINDING='--bind-to none' LAMINA_KILL_TIMEOUT=1 \
    OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
for name in "${!SLURM_@}" "${!SBATCH_@}"; do unset "$name"; done
for try in 1 2; do # somebody may take a port between the look and the use
    cluster_open "$cluster_folder/$try" && break
    tail -n 5 "$cluster_folder/$try"/*.out | cat
    cluster_close
    [ $try = 1 ] || scene_skip "Slurm did not start"
done

# Two long answers keep a job busy while it is signalled; short ones show that it is at work.
n_requests=62
make_requests $n_requests 40 | sed '1,2s/"max_tokens":[0-9]*/"max_tokens":1900/' >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl
options=(--threads 1)

declare -A job # name -> id
submit() { # NAME WORD...: sbatch's words
    local name=$1
    shift
    job[$name]=$(sbatch --parsable --output="$name.log" "$@") || fail "sbatch refuses $name"
}

of_job() { # ID KEY: one value of scontrol's
    scontrol -o show job "$1" 2>/dev/null | head -n 1 | tr ' ' '\n' | sed -n "s/^$2=//p"
}

# Slurm lets a job that was queued again wait two minutes, which is cut short here.
# shellcheck disable=SC2317 # try_until calls it
is_over() { # ID
    case $(of_job "$1" JobState) in
    COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | '') return ;;
    PENDING) [ "$(of_job "$1" Reason)" != BeginTime ] || scontrol update JobId="$1" StartTime=now ;;
    esac
    return 1
}

# shellcheck disable=SC2317
all_idle() { [ "$(sinfo -h -o %T | sort -u)" = idle ]; }

tell() { # NAME: its log, when something is wrong
    echo "--- $1.log"
    grep -vE '^lamina: (Message|  |STEP|Q |KV|OUT)' "$1.log" | tail -n 40
}

# soon OUTPUT COMMAND...: in the background, when a few answers are there. That it came shows in the log.
soon() {
    local output=$1
    shift
    { try_until 60 has_lines 3 "$output" && "$@"; } &
    signals+=($!)
}

ended_well() { # NAME OUTPUT RESTARTS
    check "$1 ends" try_until 60 is_over "${job[$1]}"
    check "$1 is completed" [ "$(of_job "${job[$1]}" JobState)" = COMPLETED ] || tell "$1"
    check "$1 was queued again $3 times" [ "$(of_job "${job[$1]}" Restarts)" = "$3" ] || tell "$1"
    check "every request of $1 is answered once" has_each_once "$2" $n_requests
    check "$1 answers as if undisturbed" same_answers "$2" undisturbed.jsonl || tell "$1"
    check "no counts of $1 are left" [ ! -e "$2.restarts" ]
}

in_log() { # NAME TEXT...
    local name=$1 text
    shift
    for text in "$@"; do
        check "$name says '$text'" grep -qF -- "$text" "$name.log" || tell "$name"
    done
}

# ---- every template: stopped, queued again, done ----

LAMINA_CHECKPOINT_DIR=kept.plain submit plain --nodes=2 --ntasks-per-node=2 "$JOBS/lamina.sbatch" tiny.gguf in.jsonl plain.jsonl "${options[@]}"
submit mpmd "$JOBS/lamina-mpmd.sbatch" tiny.gguf in.jsonl mpmd.jsonl "${options[@]}"
submit parts "$JOBS/lamina-het.sbatch" tiny.gguf in.jsonl parts.jsonl "${options[@]}"
LAMINA_CHECKPOINT_DIR=kept.array submit array --array=1-2 "$JOBS/lamina-array.sbatch" 2 tiny.gguf in.jsonl array.jsonl "${options[@]}"
submit chain "$JOBS/lamina-chain.sbatch" tiny.gguf in.jsonl chain.jsonl "${options[@]}"
LAMINA_KILL_TIMEOUT=5 submit preempted --nodes=2 --ntasks-per-node=1 "$JOBS/lamina.sbatch" tiny.gguf in.jsonl preempted.jsonl "${options[@]}"
submit cancelled "$JOBS/lamina.sbatch" tiny.gguf in.jsonl cancelled.jsonl "${options[@]}"
usr1=(scancel --signal=USR1 --batch) # as --signal=B:USR1 does
soon plain.jsonl "${usr1[@]}" "${job[plain]}"
soon mpmd.jsonl "${usr1[@]}" "${job[mpmd]}"
soon parts.jsonl "${usr1[@]}" "${job[parts]}"
soon array.jsonl.1-of-2 "${usr1[@]}" "${job[array]}_1"
soon chain.jsonl "${usr1[@]}" "${job[chain]}"
soon preempted.jsonl scancel --signal=TERM --full "${job[preempted]}" # as preemption with a grace time
soon cancelled.jsonl scancel "${job[cancelled]}"
wait "${signals[@]}"
signals=()
check "the chain's first job ends" try_until 60 is_over "${job[chain]}"
in_log chain 'restart 0 of 20' 'lamina ended with 75' 'queued again'
job[chain]=$(sed -n 's/^Submitted batch job //p' chain.log)
for name in plain mpmd parts preempted; do
    ended_well $name $name.jsonl 1
done
ended_well chain chain.jsonl 0
cat "lamina-chain-${job[chain]}.out" >>chain.log # options of the command line are the first job's only
for name in plain mpmd parts chain preempted; do
    in_log $name 'asked to stop' 'lamina ended with 75' 'restart 1 of 20' 'Requests answered before:' 'lamina ended with 0'
done
first_task=$(of_job "${job[array]}_1" JobId) second_task=$(of_job "${job[array]}_2" JobId)
for id in "$first_task" "$second_task"; do check "task $id ends" try_until 60 is_over "$id"; done
check "the first task was queued again" [ "$(of_job "$first_task" Restarts)" = 1 ] || tell array
in_log array 'choices go on where they stopped' 'restart 1 of 20' 'Requests answered before:' 'lamina ended with 0'
cat array.jsonl.1-of-2 array.jsonl.2-of-2 >array.jsonl
check "the array answers as if undisturbed" same_answers array.jsonl undisturbed.jsonl || tell array
in_log preempted 'while it stopped, lamina with 75'
check "cancelled ends" try_until 60 is_over "${job[cancelled]}"
check "a cancelled job ends for good" [ "$(of_job "${job[cancelled]}" JobState) $(of_job "${job[cancelled]}" Restarts)" = 'CANCELLED 0' ] || tell cancelled
check "its answers are whole" is_whole cancelled.jsonl
in_log plain 'time limit: stops at' '(squeue)' 'choices go on where they stopped'

# ---- the same allocation: a rank dies, a node dies ----

LAMINA_CHECKPOINT_DIR=kept.lost submit lost --nodes=2 --ntasks-per-node=2 "$JOBS/lamina.sbatch" tiny.gguf in.jsonl lost.jsonl "${options[@]}" --checkpoint-interval 200ms
check "a checkpoint of lost" try_until 60 grep -qs 'checkpoint 1: .* choices in flight' lost.log || tell lost
kill -KILL "$(leader_of lost.jsonl)"
check "a killed rank makes it go on" try_until 60 grep -qF 'relaunch 1 of 3' lost.log || tell lost
# shellcheck disable=SC2317
launches() { [ "$(grep -c '^lamina: rank  role' lost.log 2>/dev/null)" -ge "$1" ]; }
check "the ranks are there again" try_until 60 launches 2 || tell lost
cluster_stop_node n2
check "Slurm learns of it" scontrol update NodeName=n2 State=DOWN Reason=test
ended_well lost lost.jsonl 0
in_log lost 'choices go on where they stopped' 'nodes that do not answer: n2 ' 'relaunch 2 of 3' 'lamina ended with 0'
check "two ranks are left" [ "$(grep -cE '^lamina: +[0-9]+ +(model|attention) ' lost.log)" -eq 10 ] || tell lost
cluster_start_node n2
check "n2 may be used again" scontrol update NodeName=n2 State=RESUME

# ---- traps, and what is none ----

cat >alone.sh <<'JOB'
#!/bin/bash
#SBATCH --ntasks=3
"$LAMINA" generate -m tiny.gguf -i few.jsonl -o alone.jsonl --threads 1 --time-limit auto
echo "ended with $?"
"$LAMINA" generate -m tiny.gguf -i in.jsonl -o late.jsonl --threads 1 --time-limit auto --time-limit-lead 10m
echo "late ended with $?"
JOB
cat >trap.sh <<'JOB'
#!/bin/bash
#SBATCH --ntasks=1
#SBATCH hetjob
#SBATCH --ntasks=2
mpirun --bind-to none "$LAMINA" generate -m tiny.gguf -i few.jsonl -o trap.jsonl --threads 1
echo "ended with $?"
JOB
head -n 3 in.jsonl >few.jsonl
check "n2 is back" try_until 60 all_idle
submit alone --time=10 alone.sh
submit trap trap.sh
for name in alone trap; do check "$name ends" try_until 60 is_over "${job[$name]}"; done
in_log alone 'time limit: stops at' '(squeue)' 'ended with 0' 'stopping now, 600 s' 'late ended with 75'
in_log trap 'this heterogeneous Slurm job has 3 tasks in its parts and only 1 MPI rank was started' 'srun --mpi=pmix' 'ended with 2'

scene_end
