#!/bin/bash
# lost_rank.sh - a rank that dies or stands still ends the job, within its deadline and never by a hang;
# what was answered is whole, and --resume goes on.
. "$(dirname "$0")/scene.sh"
scene_open
n_requests=300
make_requests $n_requests 120 >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

begin() { # OPTION...: three ranks at work; leader and attention are set
    local rank
    rm -f out.jsonl*
    "${three[@]}" -i in.jsonl -o out.jsonl --deadline 3 "$@" 2>stderr &
    job=$!
    check "answers come" try_until 60 has_lines 5 out.jsonl
    leader=$(leader_of out.jsonl)
    attention=
    for rank in $(children_of $job); do
        [ "$rank" = "$leader" ] || attention=$rank
    done
    ranks=$(children_of $job)
}

ended_lost() { # WHAT: nonzero, soon, nothing left running
    check "the job ends after $1" try_until 30 has_ended $job
    wait $job
    code=$?
    check "not as if all were well after $1" [ $code -ne 0 ]
    # shellcheck disable=SC2086
    check "no rank is left after $1" try_until 10 are_gone $ranks
    check "whole lines after $1" is_whole out.jsonl
}

resumed() {
    cp out.jsonl kept.jsonl
    expect 0 '' "$@" -i in.jsonl -o out.jsonl --resume
    check "what was answered stays" cmp <(head -n "$(n_lines kept.jsonl)" out.jsonl) kept.jsonl
    check "as if undisturbed" same_answers out.jsonl undisturbed.jsonl
}

begin
kill -KILL "$attention"
ended_lost 'a killed attention rank'
resumed "${three[@]}"

begin
kill -KILL "$leader"
ended_lost 'a killed leader'
resumed "${one[@]}"

# mpirun itself: the ranks follow it.
begin
kill -KILL $job
ended_lost 'a killed mpirun'
resumed "${three[@]}" --slots 1

# Stopped, not dead: only the deadline tells.
begin --partition heads=2
kill -STOP "$attention"
ended_lost 'a stopped attention rank'
check "exit 1" [ $code -eq 1 ]
n_checks=$((n_checks + 1))
grep -qE '\[rank 0 model\] waited 3 s for OUT of layer [0-9]+, slot [01] from rank [12]: is that rank alive\?' stderr || {
    fail 'the wait is not named'
    tail -n 20 stderr
}
resumed "${three[@]}"

begin
kill -STOP "$leader"
ended_lost 'a stopped leader'
check "exit 1" [ $code -eq 1 ]
n_checks=$((n_checks + 1))
grep -qE '\[rank [12] attention\] waited 4.5 s for (Q|KV|STEP) of layer [0-9]+, slot [01] from rank 0: is that rank alive\?' stderr || {
    fail 'the wait is not named'
    tail -n 20 stderr
}
resumed "${three[@]}"

scene_end
