#!/bin/bash
# second_job.sh - a second job on the same output waits 30 s for the first, naming it, then ends with
# exit 1; the first one's answers are whole. When the first ends in time, the second begins.
. "$(dirname "$0")/scene.sh"
scene_open
make_requests 6 8 >in.jsonl
mkfifo pipe

begin_first() {
    rm -f out.jsonl*
    "${one[@]}" -i pipe -o out.jsonl 2>first.stderr &
    first=$!
    exec 7>pipe
    head -n 3 in.jsonl >&7
    check "the first job runs" try_until 60 has_lines 3 out.jsonl
}
end_first() {
    tail -n +4 in.jsonl >&7
    exec 7>&-
    check "the first job ends well" wait "$first"
}

begin_first
begin=$SECONDS
expect 1 "out.jsonl.job.json is held by process $first on " "${one[@]}" -i in.jsonl -o out.jsonl --resume
says 'waited 30 s'
check "it waited" [ $((SECONDS - begin)) -ge 29 ]
end_first
check "the answers are the first one's" has_each_once out.jsonl 6

begin_first
"${one[@]}" -i pipe -o out.jsonl --overwrite 2>stderr 7>&- &
second=$!
check "the second job waits" try_until 30 grep -q 'waiting up to 30 s' stderr
end_first
exec 7>pipe
head -n 2 in.jsonl >&7
exec 7>&-
wait $second
ended 0 'the second job' $?
check "the answers are the second one's" has_each_once out.jsonl 2

scene_end
