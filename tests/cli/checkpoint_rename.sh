#!/bin/bash
# checkpoint_rename.sh - a disk on which taking a place goes wrong. A manifest that took its place, and whose
# writer was told that it had not, or not for good: whatever the disk lists then goes with files of the same
# attempt, so a job that is killed in the middle of a later one goes on with the right tokens. One that takes
# longer than ranks wait for each other is waited for.
. "$(dirname "$0")/scene.sh"
: "${BAD_RENAME:?the module to preload}"
scene_open
if ldd "$LAMINA" | grep -qE 'lib[at]san'; then scene_skip 'a sanitizer wants to be loaded first'; fi
n_requests=150
# Short ones, that make room for others, so that a sequence's number in a checkpoint soon is another's.
for ((number = 1; number <= n_requests; number++)); do
    printf '{"custom_id":"r%d","method":"POST","url":"/v1/completions","body":' "$number"
    printf '{"prompt":"Say %d and more of it","max_tokens":%d,"temperature":1,"ignore_eos":true}}\n' \
        "$number" $((number * 37 % 300 + 100))
done >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

# A disk that is slower than ranks are patient (30 times their deadline), at a stop: all wait for it, and the
# rest of this test goes on meanwhile.
env LD_PRELOAD="$BAD_RENAME" BAD_RENAME_STALL=70 "${three[@]}" --deadline 2 \
    -i in.jsonl -o slow.jsonl --checkpoint slow_kept 2>slow_stderr &
slow=$!
check "answers come" try_until 120 has_lines 3 slow.jsonl
kill -USR1 $slow

# The first manifest tells what the job will write; the second is of its first checkpoint.
killed() { # FAULT N: FAULT from the third manifest on, killed in the attempt whose progress is the N-th
    rm -rf out.jsonl* kept
    env LD_PRELOAD="$BAD_RENAME" "$1=3" BAD_RENAME_KILL="$2" timeout -k 5 "$limit" "${one[@]}" --max-batch 8 \
        -i in.jsonl -o out.jsonl --checkpoint kept --checkpoint-interval 0.2 2>stderr
    ended 137 "$1, killed at progress $2" $?
}

goes_on() { # WHAT [OUTPUT FOLDER]
    local output=${2:-out.jsonl} folder=${3:-kept}
    expect 0 'go on where they stopped' "${one[@]}" -i in.jsonl -o "$output" --resume --checkpoint "$folder" --restore kv
    check "every request is answered once: $1" has_each_once "$output" $n_requests
    check "as if undisturbed: $1" same_answers "$output" undisturbed.jsonl
    check "nothing is left in the folder: $1" [ -z "$(ls "$folder")" ]
}

for n in 3 5; do
    killed BAD_RENAME_SYNC $n
    says 'make durable'
    check "what took its place counts" grep -q "\"number\": $((n - 1))," kept/manifest.json
    goes_on "no sync, $n"
    says 'it is read'
    killed BAD_RENAME_LOST $n
    says 'failed, the one before stays'
    goes_on "the answer lost, $n"
done

check "the job stops" try_until 200 has_ended $slow
wait $slow
code=$?
cp slow_stderr stderr
ended 75 'stopped with a slow disk' $code
says 'checkpoint 1:'
goes_on 'a slow disk' slow.jsonl slow_kept

scene_end
