#!/bin/bash
# signals.sh - INT, TERM and USR1 stop a job at a step: exit 75, whole lines, and --resume answers the
# rest as if nothing had happened; a second INT or TERM ends it at once; a closed stdout is exit 1.
. "$(dirname "$0")/scene.sh"
scene_open
n_requests=400
make_requests $n_requests 150 >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

begin() { # COMMAND...: a job of which some requests are answered
    rm -f out.jsonl*
    "$@" -i in.jsonl -o out.jsonl 2>stderr &
    job=$!
    check "answers come" try_until 60 has_lines 10 out.jsonl
}

stopped() { # CODE WHAT: the job ends in good order before all is answered
    check "the job stops on $2" try_until 60 has_ended $job
    wait $job
    ended "$1" "stopped by $2" $?
    check "whole lines after $2" is_whole out.jsonl
    check "some are answered" has_lines 10 out.jsonl
    check "not all are" [ "$(n_lines out.jsonl)" -lt $n_requests ]
}

resumed() { # COMMAND...
    cp out.jsonl kept.jsonl
    expect 0 '' "$@" -i in.jsonl -o out.jsonl --resume
    check "what was answered stays" cmp <(head -n "$(n_lines kept.jsonl)" out.jsonl) kept.jsonl
    check "every request is answered once" has_each_once out.jsonl $n_requests
    check "as if undisturbed" same_answers out.jsonl undisturbed.jsonl
}

for signal in INT TERM USR1; do
    begin "${one[@]}"
    kill -$signal $job
    stopped 75 $signal
    [ $signal = INT ] && resumed "${three[@]}" --partition sequences=2
    [ $signal = TERM ] && resumed "${one[@]}" --output-order input
done

# Answers in input order are held back, so what is there is a beginning of the input.
begin "${one[@]}" --output-order input
kill -TERM $job
stopped 75 'TERM, in input order'
n_kept=$(n_lines out.jsonl)
check "a beginning of the input" cmp <(sed -n 's/.*"custom_id":"\([^"]*\)".*/\1/p' out.jsonl) <(seq -f 'r%.0f' "$n_kept")
resumed "${one[@]}" --output-order input

# Through mpirun USR1 arrives as it is; INT makes mpirun end the job in its own way.
begin "${three[@]}"
kill -USR1 $job
stopped 75 'USR1 to mpirun'
resumed "${three[@]}" --slots 1
begin "${three[@]}"
kill -INT $job
check "mpirun ends" try_until 60 has_ended $job
wait $job
check "mpirun tells that the job did not end well" [ $? -ne 0 ]
check "whole lines after INT to mpirun" is_whole out.jsonl
resumed "${one[@]}"

# Only the leader acts: a stray signal to an attention rank stops nothing.
head -n 100 in.jsonl >short.jsonl
rm -f out.jsonl*
"${three[@]}" -i short.jsonl -o out.jsonl 2>stderr &
job=$!
check "answers come" try_until 60 has_lines 5 out.jsonl
for rank in $(children_of $job); do
    [ "$rank" = "$(leader_of out.jsonl)" ] || kill -USR1 "$rank"
done
wait $job
ended 0 'USR1 to attention ranks' $?
check "every request is answered once" has_each_once out.jsonl 100

# A job that waits for its input stops too.
mkfifo pipe
"${one[@]}" -i pipe -o waiting.jsonl 2>stderr &
job=$!
exec 7>pipe
head -n 3 in.jsonl >&7
check "answers come" try_until 60 has_lines 3 waiting.jsonl
kill -TERM $job
wait $job
ended 75 'TERM while waiting for input' $?
exec 7>&-

# A second INT or TERM ends the job though its answers cannot be written: nobody reads this pipe,
# and each answer is more than it holds.
sed 's/"max_tokens":[0-9]*/"max_tokens":100,"logprobs":20/' short.jsonl >long.jsonl
second() { # SIGNAL CODE
    local job
    mkfifo "full_$1"
    exec 8<>"full_$1"
    "${one[@]}" -i long.jsonl -o "full_$1" 2>stderr &
    job=$!
    sleep 5
    kill "-$1" $job
    sleep 2
    check "one $1 lets it write first" kill -0 $job
    kill "-$1" $job
    check "a second $1 ends it" try_until 10 has_ended $job
    wait $job
    ended "$2" "a second $1" $?
    exec 8>&-
}
second INT 130
second TERM 143

# Nobody reads on.
n_checks=$((n_checks + 1))
timeout 60 "${one[@]}" -i in.jsonl -o - 2>stderr | head -n 1 >first
[ "${PIPESTATUS[0]}" -eq 1 ] || fail "a closed stdout is not exit 1"
says 'cannot write to stdout: Broken pipe'
check "what was read is a line" [ "$(n_lines first)" -eq 1 ]
for words in --help --version 'generate --help'; do
    n_checks=$((n_checks + 1))
    # shellcheck disable=SC2086
    "$LAMINA" $words >/dev/full 2>stderr
    [ $? -eq 1 ] || fail "lamina $words into a full disk is not exit 1"
done

scene_end
