#!/bin/bash
# kill_resume.sh N - a job killed N times at random moments and restarted at once with --resume, on
# another layout each time; then run to its end: every custom_id is answered exactly once, and the
# answers are those of an undisturbed run, byte for byte but for the time they were made.
#
# SIGKILL goes to mpirun (whose ranks follow it) or to the leader alone: mostly when a random number
# of answers has come, so that neither a fast machine runs out of requests nor a slow one gets nowhere,
# and every fourth time at a random moment of the first 4 s, most of which a job may need to start.
# Now and then the last line is cut besides, as a crashed machine may leave it. RANDOM is seeded
# (SEED), the machine's pace is not.
. "$(dirname "$0")/scene.sh"
n_kills=${1:?how many kills}
RANDOM=${SEED:-1}
scene_open
n_requests=$((n_kills * 30)) # at most 16 are answered between two kills, or nearly so
make_requests $n_requests 60 >in.jsonl
limit=600
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

layouts=('-n 3 --partition heads=2' '-n 2' '-n 3 --partition sequences=2 --slots 1' '-n 1'
    '-n 5 --partition heads=2,sequences=2' '-n 4 --partition heads=3 --slots 2' '-n 3 --max-rows 16 --max-batch 8'
    '-n 2 --slots 1 --q-first off')
layout_number=0

begin() { # the job on the next layout
    local n_ranks options
    read -r _ n_ranks options <<<"${layouts[layout_number++ % ${#layouts[@]}]}"
    # shellcheck disable=SC2086
    "$MPIRUN" -n "$n_ranks" "${one[@]}" -i in.jsonl -o out.jsonl --resume --max-batch 4 $options 2>stderr &
    job=$!
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

wait_at_random() {
    local enough=$((n_before + 1 + RANDOM % 9)) until=$(($(milliseconds) + 120000))
    [ $((RANDOM % 4)) -eq 0 ] && until=$(($(milliseconds) + RANDOM % 4000))
    while [ "$(milliseconds)" -lt "$until" ] && ! has_lines "$enough" out.jsonl; do sleep 0.02; done
    sleep "0.0$((RANDOM % 90 + 10))"
}

n_new=0 n_running=0 n_torn=0 n_leader=0
for ((kill_number = 1; kill_number <= n_kills; kill_number++)); do
    n_before=$(n_lines out.jsonl)
    begin
    wait_at_random
    victim=$job
    if [ $((RANDOM % 4)) -eq 0 ]; then # the leader, if this run has come to have one
        leader=$(leader_of out.jsonl)
        if [ -n "$leader" ] && grep -qw "$leader" <<<"$(children_of $job)"; then
            victim=$leader
            n_leader=$((n_leader + 1))
        fi
    fi
    kill -0 "$victim" 2>/dev/null && n_running=$((n_running + 1))
    kill -KILL "$victim" 2>/dev/null
    if [ "$victim" != "$job" ]; then # mpirun sees to the others
        check "mpirun ends with its leader" try_until 30 has_ended $job
    fi
    wait $job 2>/dev/null
    check "whole lines, but for the last" is_whole <(sed '$d' out.jsonl 2>/dev/null)
    n_after=$(n_lines out.jsonl)
    [ "$n_after" -gt "$n_before" ] && n_new=$((n_new + 1))
    if [ $((RANDOM % 8)) -eq 0 ] && [ "$n_after" -gt 0 ]; then
        truncate -s -$((RANDOM % 300 + 1)) out.jsonl
        n_torn=$((n_torn + 1))
    fi
done
echo "$n_kills kills, $n_running of a running job, $n_leader of its leader alone; $n_new left new answers, $n_torn lines torn"
echo "$(n_lines out.jsonl) of $n_requests answered when the kills ended"

limit=900
expect 0 '' "${three[@]}" -i in.jsonl -o out.jsonl --resume
check "whole lines" is_whole out.jsonl
check "every custom_id exactly once" has_each_once out.jsonl $n_requests
check "as if undisturbed" same_answers out.jsonl undisturbed.jsonl
check "most kills hit a running job" [ $((n_running * 2)) -gt "$n_kills" ]
check "kills left new answers" [ "$n_new" -gt 0 ]

scene_end
