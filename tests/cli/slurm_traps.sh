#!/bin/bash
# slurm_traps.sh - what Slurm's variables and squeue say, with made-up ones: launches that are not what
# was meant are exit 2, legitimate ones are not; --time-limit stops in time.
. "$(dirname "$0")/scene.sh"
scene_open
make_requests 3 8 >few.jsonl
good=("${one[@]}" -i few.jsonl -o out.jsonl --overwrite)

# Each task of the step is a world of its own.
trap_singleton='the launcher started 3 ranks and each believes to be alone'
step=(SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=3 SLURM_NTASKS=3)
expect 2 "$trap_singleton" env "${step[@]}" "${good[@]}"
said_once lamina:
check "nothing is written" [ ! -e out.jsonl ]
expect 2 '' env "${step[@]}" SLURM_PROCID=1 "${good[@]}"
check "one of them speaks" [ ! -s stderr ]
expect 0 '' env SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=3 "${good[@]}"
# A batch script has these without a step, and a rank of mpirun has a step that is its daemons'.
expect 0 '' env SLURM_PROCID=0 SLURM_NTASKS=3 "${good[@]}"
expect 0 '' env "${step[@]}" "$MPIRUN" -n 1 "${good[@]}"

het=(SLURM_HET_SIZE=2 SLURM_NTASKS_HET_GROUP_0=1 SLURM_NTASKS_HET_GROUP_1=2)
expect 2 'has 3 tasks in its parts and only 2 MPI ranks were started' env "${het[@]}" "$MPIRUN" -n 2 "${good[@]}"
said_once lamina:
says '--het-group=1'
expect 0 '' env "${het[@]}" "$MPIRUN" -n 3 "${good[@]}"
expect 0 '' env "${het[@]}" "${good[@]}"

# ---- --time-limit ----
mkdir bin
squeue() { # LINE...: what the next squeue does
    printf '%s\n' '#!/bin/bash' "$@" >bin/squeue
    chmod +x bin/squeue
}
auto=(env -u SLURM_JOB_END_TIME SLURM_JOB_ID=7 "PATH=$PWD/bin:$PATH" "${good[@]}" --time-limit auto)
expect 2 'not longer than --time-limit-lead' "${good[@]}" --time-limit 60s
expect 2 'is no job of it' env -u SLURM_JOB_ID "${good[@]}" --time-limit auto
squeue '[ "$*" = "-h -j 7 -o %L" ] && echo 1-00:00:00'
expect 0 '(squeue)' "${auto[@]}"
squeue 'echo UNLIMITED'
expect 0 'time limit: none (squeue)' "${auto[@]}"
squeue 'echo 1:00:00' 'echo 0:30' # two parts: the shorter one, which leaves no time at all
expect 75 'time limit: stopping now' "${auto[@]}"
squeue 'echo Invalid job id specified >&2' 'exit 1'
expect 0 'it failed; the job will not stop by itself' "${auto[@]}"
squeue 'for ((i = 0; i < 200; i++)); do echo 1-00:00:00; done'
expect 0 "it says more than a job's time" "${auto[@]}"
squeue 'echo soon'
expect 0 'not a time: soon' "${auto[@]}"
squeue 'exec sleep 100'
expect 0 'no answer in time' "${auto[@]}"
rm bin/squeue
if ! command -v squeue >/dev/null; then
    expect 0 'No such file or directory; the job will not stop by itself' "${auto[@]}"
fi

make_requests 4000 150 >in.jsonl
rm -f out.jsonl*
run=(-i in.jsonl -o out.jsonl --resume --time-limit 4s --time-limit-lead 1s)
expect 75 'time limit: stopping now, 1 s and twice 0.0 s for a checkpoint before' "${three[@]}" "${run[@]}"
says 'time limit: stops at ' '(--time-limit)' 'stopped early' 'goes on'
check "some are answered" has_lines 1 out.jsonl
check "whole lines" is_whole out.jsonl
scene_end
