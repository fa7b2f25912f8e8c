#!/bin/bash
# bad_requests.sh - more than 100 malformed lines among good ones: each bad line gives one error line
# that begins with its FILE:LINE, each good one the answer it gets alone; exit 3.
#
# The lines are those of tests/requests, whose test says what is wrong with each.
. "$(dirname "$0")/scene.sh"
model=(--vocabulary 264 --context 64)
scene_open

# Line 46 is wrong for a template without the role `tool` only, and this model has no such.
sed 46d "$CLI_DIR/../requests/bad.jsonl" >bad.jsonl
n_bad=$(n_lines bad.jsonl)
n_good=12
for ((number = 1; number <= n_good; number++)); do
    printf '{"custom_id":"good%d","method":"POST","url":"/v1/completions","body":{"prompt":"%d","max_tokens":%d}}\n' \
        "$number" "$number" $((number * 3))
done >good.jsonl
# A good line behind every eighth bad one, until there are no more.
awk '{ print } NR % 8 == 0 && (getline good < "good.jsonl") > 0 { print good }' bad.jsonl >mixed.jsonl
check "good lines lie among the bad" [ "$(n_lines mixed.jsonl)" -eq $((n_bad + n_good)) ]
grep -an . mixed.jsonl | grep -av '"custom_id":"good' | cut -d: -f1 >bad.numbers

# The FILE:LINE with which messages of error lines begin, as line numbers.
error_lines() {
    sed -n 's/.*"message":"mixed\.jsonl:\([0-9]*\): [^"].*/\1/p' "$1" | sort -n
}

expect 0 '' "${one[@]}" -i good.jsonl -o alone.jsonl

expect 3 '' "${one[@]}" -i mixed.jsonl -o out.jsonl
check "one line each" [ "$(n_lines out.jsonl)" -eq $((n_bad + n_good)) ]
check "whole lines" is_whole out.jsonl
check "each bad line is named" cmp <(error_lines out.jsonl) bad.numbers
grep '"custom_id":"good' out.jsonl >good.out
check "good lines have the answers they get alone" same_answers good.out alone.jsonl

expect 3 '' "${one[@]}" -i mixed.jsonl -o answers.jsonl --errors errors.jsonl
check "answers apart" same_answers answers.jsonl alone.jsonl
check "errors apart" cmp <(error_lines errors.jsonl) bad.numbers

expect 3 '' "${one[@]}" -i mixed.jsonl -o answers.jsonl --errors errors.jsonl --resume
check "a resume runs none again" cmp <(error_lines errors.jsonl) bad.numbers

expect 3 '' "${three[@]}" -i mixed.jsonl -o ranks.jsonl
check "the same over ranks" same_answers ranks.jsonl out.jsonl

# Only bad lines, and none at all.
expect 3 '' "${one[@]}" -i bad.jsonl -o only.jsonl
check "only errors" [ "$(n_lines only.jsonl)" -eq "$n_bad" ]
: >empty.jsonl
expect 0 '' "${one[@]}" -i empty.jsonl -o none.jsonl
check "no answers" [ "$(n_lines none.jsonl)" -eq 0 ]
head -c 100000 /dev/urandom | tr -d '\0' >noise.jsonl
expect 3 '' "${one[@]}" -i noise.jsonl -o noise.out
check "noise gives whole error lines" is_whole noise.out

scene_end
