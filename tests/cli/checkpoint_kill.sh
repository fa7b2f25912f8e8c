#!/bin/bash
# checkpoint_kill.sh N - a job of 200 requests with a checkpoint every moment, killed N times and restarted
# at once with --resume, on another layout each time; then run to its end: every custom_id is answered
# exactly once, and the answers are those of an undisturbed run, byte for byte but for the time they were made.
# Only kills of a running job count; a job that is done before all have been is looked at, and begun anew.
#
# SIGKILL goes to the whole process group of the shell that runs mpirun, as a batch system does it, to
# mpirun, or to one rank: when a new manifest has come, or when a file is being written, or at a random
# moment. Now and then the newest file is cut short besides. RANDOM is seeded (SEED), the machine's pace is
# not.
. "$(dirname "$0")/scene.sh"
n_kills=${1:?how many kills}
RANDOM=${SEED:-1}
scene_open
n_requests=200
make_requests $n_requests 900 >in.jsonl
limit=1800
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

layouts=('-n 3 --partition heads=2' '-n 2' '-n 3 --partition sequences=2 --slots 1' '-n 1'
    '-n 5 --partition heads=2,sequences=2' '-n 4 --partition heads=3 --slots 2' '-n 3 --max-rows 16 --max-batch 8'
    '-n 2 --slots 1 --q-first off --restore recompute' '-n 3 --kv-tokens 16384 --restore kv')
layout_number=0

begin() { # the job on the next layout, behind a shell in a process group of its own
    local n_ranks options
    read -r _ n_ranks options <<<"${layouts[layout_number++ % ${#layouts[@]}]}"
    rm -f ended
    # shellcheck disable=SC2086
    setsid bash -c 'echo $$ >shell; "$@"; echo $? >ended' batch "$MPIRUN" -n "$n_ranks" "${one[@]}" -i in.jsonl \
        -o out.jsonl --resume --checkpoint kept --checkpoint-interval 0.2 $options 2>stderr &
    job=$!
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

manifest() { cksum kept/manifest.json 2>/dev/null; }

is_writing() { compgen -G 'kept/*tmp*' >/dev/null; }

wait_at_random() {
    local before until=$(($(milliseconds) + 60000)) how=$((RANDOM % 4))
    before=$(manifest)
    [ $how -eq 0 ] && until=$(($(milliseconds) + RANDOM % 4000))
    while [ "$(milliseconds)" -lt "$until" ] && ! has_ended $job; do
        [ $how -ne 0 ] && [ "$(manifest)" != "$before" ] && break
        sleep 0.01
    done
    if [ $how -eq 1 ]; then # in the middle of the next one
        until=$(($(milliseconds) + 3000))
        while [ "$(milliseconds)" -lt "$until" ] && ! is_writing && ! has_ended $job; do :; done
        is_writing && n_writing=$((n_writing + 1))
    else
        sleep "0.$((RANDOM % 30 + 10))"
    fi
}

# The process to be killed, or -GROUP.
find_victim() {
    local shell mpirun ranks
    shell=$(cat shell 2>/dev/null)
    mpirun=$(children_of "${shell:-0}")
    read -ra ranks <<<"$(children_of "${mpirun// /}")"
    case $((RANDOM % 3)) in
    0) victim=${mpirun:-$job} ;;
    1) victim=${ranks[RANDOM % (${#ranks[@]} + 1)]:-${mpirun:-$job}} ;;
    2) victim=-${shell:-$job} ;;
    esac
    victim=${victim// /}
}

look_at_answers() {
    check "whole lines" is_whole out.jsonl
    check "every custom_id exactly once" has_each_once out.jsonl $n_requests
    check "as if undisturbed" same_answers out.jsonl undisturbed.jsonl
    check "nothing is kept of a job that is done" [ -z "$(find kept -name '*.json' -o -name 'c*-progress.h5')" ]
}

n_running=0 n_new=0 n_writing=0 n_cut=0 n_done=0
for ((round = 1; n_running < n_kills && round <= 2 * n_kills; round++)); do
    before=$(manifest)
    begin
    wait_at_random
    find_victim
    has_ended $job || n_running=$((n_running + 1))
    kill -KILL -- "$victim" 2>/dev/null
    if [ "${victim#-}" = "$victim" ]; then
        check "the job ends with process $victim" try_until 90 has_ended $job
    fi
    wait $job 2>/dev/null
    check "whole lines, but for the last" is_whole <(sed '$d' out.jsonl 2>/dev/null)
    if [ "$(cat ended 2>/dev/null)" = 0 ]; then
        look_at_answers
        rm -rf out.jsonl* kept
        n_done=$((n_done + 1))
        continue
    fi
    [ "$(manifest)" = "$before" ] || n_new=$((n_new + 1))
    if [ $((RANDOM % 8)) -eq 0 ]; then
        newest=$(find kept -name 'c*.h5' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d ' ' -f 2)
        [ -n "$newest" ] && truncate -s -$((RANDOM % 3000 + 1)) "$newest" && n_cut=$((n_cut + 1))
    fi
done
echo "$n_running kills of a running job, $n_writing while a file was written; $n_new after a new manifest, $n_cut files cut"
echo "$n_done jobs done meanwhile; $(n_lines out.jsonl) of $n_requests of the last answered when the kills ended"

expect 0 '' "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept
look_at_answers
check "as many kills of a running job as were asked for" [ "$n_running" -eq "$n_kills" ]
check "most kills came after a new checkpoint" [ $((n_new * 2)) -gt "$n_kills" ]

scene_end
