#!/bin/bash
# job_counts.sh - what jobs/lamina-job.sh does after each way a run can end: queue again, launch again,
# give up, and after how many. Slurm's commands, mpirun and lamina are stand-ins that do what a plan
# says; tests/slurm/templates.sh runs the real ones.
. "$(dirname "$0")/scene.sh"
JOBS=$(cd "$CLI_DIR/../../jobs" && pwd)
scene_open
mkdir bin
fake() { # NAME LINE...
    local name=$1
    shift
    printf '%s\n' '#!/bin/bash' "$@" >"bin/$name"
    chmod +x "bin/$name"
}
# Each launch takes a line of plan: CODE LINES TOKENS, what it ends with, answers, generates.
# shellcheck disable=SC2016
fake lamina '[ "$1" = generate ] || exit 0' \
    'echo "$*" >>launched' \
    'while [ $# -gt 0 ]; do case $1 in -o) output=$2 ;; --status) status=$2 ;; esac; shift; done' \
    'stop() { [ -z "$SAYS" ] || echo "{\"exit_code\":$SAYS}" >"$status"; exit "$STOP"; }' \
    '[ "${STOP:-}" = die ] || trap stop USR1' \
    'read -r code lines tokens <plan; sed -i 1d plan' \
    'for ((; lines > 0; lines--)); do echo answer >>"$output"; done' \
    '[ "$code" = wait ] && for ((n = 0; n < 600; n++)); do sleep 0.05; done' \
    'echo "{\"output_tokens\":$tokens,\"exit_code\":$code}" >"$status"' \
    '[ "$code" -lt 128 ] || kill -$((code - 128)) $$' \
    'exit "$code"'
# shellcheck disable=SC2016
fake scontrol 'case $* in requeue*) echo "$*" >>requeued; exit "${REFUSED:-0}" ;; show\ hostnames*) printf "%s\n" n1 n2 n3 ;; *show\ job\ [789]) echo "JobId=7 JobState=${STATE:-RUNNING} Reason=None" ;; esac'
# shellcheck disable=SC2016
fake srun 'case "$*" in *"--nodelist=${DEAD:-none} "*) exit 1 ;; esac'
fake sinfo 'printf "%s\n" n1,kind1, n2,kind2,big, n3,big,kind2, n3,big,kind2,'
# shellcheck disable=SC2016
fake mpirun 'echo "mpirun (Open MPI) ${VERSION:-4.1.4}"'
cat >job.sh <<'END_JOB'
#!/bin/bash
. lamina-job.sh || exit
lamina_prepare m.gguf in.jsonl out.jsonl "$@"
launch() { exec "${generate[@]}"; }
lamina_job launch
END_JOB
PATH=$PWD/bin:$JOBS:$PATH
export PATH LAMINA=lamina SLURM_JOB_ID=7 SLURM_JOB_NODELIST='n[1-3]' SLURM_TASKS_PER_NODE='2(x2),1'
unset LAMINA_CHAIN LAMINA_CHECKPOINT_DIR LAMINA_MAX_RESTARTS LAMINA_MAX_RELAUNCHES LAMINA_BINDING

afresh() { rm -f out.jsonl* launched requeued; }
plan() { printf '%s\n' "$@" >plan; }
start() { # CODE LAUNCHES REQUEUES WORD...: after it so many launches and requeues in all
    local code=$1 launches=$2 requeues=$3
    shift 3
    expect "$code" '' env "$@" bash job.sh
    check "$launches launches after: $*" [ "$(n_lines launched)" = "$launches" ] || cat stdout
    check "$requeues requeues after: $*" [ "$(n_lines requeued)" = "$requeues" ] || cat stdout
}

# 0, 2 and 3 end it.
for code in 0 2 3; do
    afresh
    plan "$code 1 5"
    start $code 1 0
    check "no counts are left" [ ! -e out.jsonl.restarts ]
done
check "--resume is given" grep -q -- --resume launched

# 75 queues it again, as often as is allowed; another job counts anew.
afresh
plan '75 1 5' '75 1 5' '75 1 5' '75 1 5'
start 0 1 1 LAMINA_MAX_RESTARTS=2
start 0 2 2 LAMINA_MAX_RESTARTS=2
start 75 3 2 LAMINA_MAX_RESTARTS=2
start 0 4 3 LAMINA_MAX_RESTARTS=2
afresh
plan '75 1 5' '75 1 5'
start 0 1 1 LAMINA_CHAIN=1 SLURM_JOB_ID=8 LAMINA_MAX_RESTARTS=1
start 75 2 1 LAMINA_CHAIN=1 SLURM_JOB_ID=9 LAMINA_MAX_RESTARTS=1

# Two restarts that bring no answer are enough; tokens count where a checkpoint keeps them.
afresh
plan '75 0 5' '75 0 5' '75 0 5'
start 0 1 1
start 0 2 2
start 75 3 2
afresh
plan '75 0 5' '75 0 5' '75 1 5' '75 0 5' '75 0 5'
start 0 1 1
start 0 2 2
start 0 3 3
start 0 4 4
start 75 5 4
afresh
plan '75 0 5' '75 0 5' '75 0 5' '75 0 5' '75 0 0' '75 0 0'
for n in 1 2 3 4 5; do start 0 $n $n LAMINA_CHECKPOINT_DIR=kept; done
start 75 6 5 LAMINA_CHECKPOINT_DIR=kept
check "the checkpoint's folder is given" grep -q -- '--checkpoint kept' launched

# Starts that were killed with their script count, too.
afresh
plan '0 1 5'
echo '7 4 1 0' >out.jsonl.restarts # the fourth restart, the third without anything, left this behind
start 75 0 0
check "it says why" grep -q 'the last 2 without anything new' stdout

# A queue that refuses.
afresh
plan '75 1 5'
start 75 1 1 REFUSED=1
check "it says what to do" grep -q 'by hand' stdout

# A cancelled job.
afresh
plan '75 1 5'
start 75 1 0 STATE=COMPLETING
check "no counts are left" [ ! -e out.jsonl.restarts ]

# 1 and 128 + signal launch again here, as often as is allowed and something new comes of it.
afresh
plan '137 1 5' '1 1 5' '0 1 5'
start 0 3 0
afresh
plan '1 1 5' '1 1 5' '143 1 5' '1 1 5' '0 1 5'
start 1 4 0
afresh
plan '1 0 5' '1 0 5' '0 1 5'
start 1 2 0
afresh
plan '1 1 5' '75 0 5'
start 0 2 1
afresh
plan '1 1 5' '0 1 5'
start 0 2 0 DEAD=n2
check "the lost node is named" grep -q 'do not answer: n2 $' stdout

# Signals: a launcher that passes them on, one that dies of them after lamina was done, while it was
# not, and before it began; what an earlier run said does not count.
stopped() { # SIGNAL STOP SAYS CODE REQUEUES
    afresh
    plan 'wait 1 0'
    echo '{"exit_code":0}' >out.jsonl.status.json
    STOP=$2 SAYS=$3 bash job.sh >stdout 2>stderr &
    job=$!
    check "an answer" try_until 20 has_lines 1 out.jsonl
    kill "-$1" $job
    wait $job
    ended "$4" "$*" $? || cat stdout
    check "$5 requeues after $*" [ "$(n_lines requeued)" = "$5" ]
    check "not launched again after $*" [ "$(n_lines launched)" = 1 ]
}
for signal in USR1 TERM; do
    stopped $signal 75 75 0 1
    stopped $signal 1 75 0 1
    stopped $signal 1 null 1 0
    stopped $signal 0 0 0 0
    stopped $signal die '' 0 1
done

# What mpirun is given.
in_library() { bash -c '. lamina-job.sh; '"$1"; }
check "slots of the nodes" [ "$(in_library "lamina_hosts ''")" = n1:2,n2:2,n3:1 ]
check "less a lost node" [ "$(in_library "lamina_lost=' n2 '; lamina_hosts ''")" = n1:2,n3:1 ]
check "of a kind" [ "$(in_library 'lamina_hosts kind2')" = n2:2,n3:1 ]
check "ranks of hosts" [ "$(in_library 'lamina_ranks n2:2,n3:1')" = 3 ]
# shellcheck disable=SC2016
words='OMP_NUM_THREADS=8; lamina_mpirun >/dev/null; echo "${mpirun[*]}"'
check "Open MPI 4" [ "$(in_library "$words")" = 'mpirun --mca odls_base_sigkill_timeout 10 --map-by slot:PE=8 --bind-to core' ]
check "Open MPI 5" [ "$(VERSION=5.0.7 in_library "$words")" = 'mpirun --map-by slot:PE=8 --bind-to core' ]

# What is missing.
expect 2 '' bash -c '. lamina-job.sh; lamina_prepare a b'
expect 2 '' env LAMINA=/nowhere/lamina bash job.sh

scene_end
