#!/bin/bash
# checkpoint.sh - a job that is stopped goes on in the middle of its requests: on another layout, from its KV
# cache or from tokens, with the same answers; whose folder it is, and what is left of it at the end.
. "$(dirname "$0")/scene.sh"
scene_open
n_requests=60
# All ways of sampling, several choices, scores of tokens and prompts, stop strings: what a choice is must
# survive whole.
for ((number = 1; number <= n_requests; number++)); do
    extra=''
    case $((number % 6)) in
    1) extra=',"temperature":0.9,"top_p":0.9,"frequency_penalty":0.3,"repetition_penalty":1.1' ;;
    2) extra=',"n":3,"temperature":1.1,"top_k":40' ;;
    3) extra=',"logprobs":3' ;;
    4) extra=',"logprobs":2,"echo":true,"prompt_logprobs":2' ;;
    5) extra=',"stop":["zz","qx"],"min_p":0.05,"temperature":1' ;;
    esac
    printf '{"custom_id":"r%d","method":"POST","url":"/v1/completions","body":' "$number"
    printf '{"prompt":"Say %d and more of it","max_tokens":%d,"ignore_eos":true%s}}\n' \
        "$number" $((number * 37 % 400 + 50)) "$extra"
done >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

# stop SIGNAL COMMAND...: a job that has answered some requests is stopped, and others are under way.
stop() {
    local signal=$1
    shift
    "$@" -i in.jsonl -o out.jsonl --checkpoint kept 2>stderr &
    job=$!
    check "answers come" try_until 120 has_lines $((n_answered + 5)) out.jsonl
    kill "-$signal" $job
    check "the job stops on $signal" try_until 120 has_ended $job
    wait $job
    ended 75 "stopped by $signal" $?
    says 'choices in flight'
    n_answered=$(n_lines out.jsonl)
}

goes_on() { # TEXT COMMAND...
    local text=$1
    shift
    expect 0 "$text" "$@" -i in.jsonl -o out.jsonl --resume --checkpoint kept
    says 'choices go on where they stopped'
    check "every request is answered once" has_each_once out.jsonl $n_requests
    check "as if undisturbed" same_answers out.jsonl undisturbed.jsonl
    check "nothing is left in the folder" [ -z "$(ls kept)" ]
}

begin() {
    rm -rf out.jsonl* kept
    n_answered=0
}

# From any layout to any other, twice in a row, by the KV cache.
begin
stop USR1 "${three[@]}" --partition heads=2
stop USR1 "${three[@]}" --partition sequences=2 --slots 1 --resume --restore kv
says 'it is read'
goes_on 'it is read' "${one[@]}" --restore kv
says 'Rows recomputed after preemption:        0'

begin
stop TERM "${one[@]}"
goes_on 'it is read' "$MPIRUN" -n 5 "${one[@]}" --partition heads=2,sequences=2 --restore kv
says 'Rows recomputed after preemption:        0'

# From tokens, because that was asked for, or because no KV cache was kept.
begin
stop USR1 "${three[@]}"
goes_on '' "${one[@]}" --restore recompute
begin
stop USR1 "${three[@]}" --checkpoint-kv never
check "no KV cache is kept" [ -z "$(find kept -name '*-kv-*')" ]
goes_on '' "${three[@]}" --restore kv

# Less room for the KV cache than there was: what does not fit is computed again.
begin
stop USR1 "${one[@]}"
goes_on 'it is read' "${three[@]}" --restore kv --kv-tokens 8192 --max-batch 4
n_kept=$(sed -n 's/.*go on where they stopped, \([0-9]*\) of them with their K and V$/\1/p' stderr)
check "it is told for how many there was room: ${n_kept:-nothing}" [ "${n_kept:-99}" -le 8 ]

# Answers held back for the order of the input are not made twice.
begin
stop USR1 "${one[@]}" --output-order input
goes_on '' "${three[@]}" --output-order input
check "in order" cmp <(sed -n 's/.*"custom_id":"\([^"]*\)".*/\1/p' out.jsonl) <(seq -f 'r%.0f' $n_requests)

# Without --checkpoint the output alone counts; with an empty folder too.
begin
stop USR1 "${one[@]}"
mv kept aside
mkdir kept
expect 0 '' "${one[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept
check "as if undisturbed" same_answers out.jsonl undisturbed.jsonl

# A folder belongs to one job.
expect 2 'belongs to another job' "${one[@]}" -i in.jsonl -o other.jsonl --checkpoint aside
check "no output is begun" [ ! -s other.jsonl ]
check "the folder stays" [ -e aside/manifest.json ]
echo mine >aside/notes
expect 0 '' "${one[@]}" -i in.jsonl -o other.jsonl --checkpoint aside --overwrite
check "only the old job's files go" [ "$(ls aside)" = notes ]

# A request that changed starts afresh, one that is gone is told.
begin
stop USR1 "${one[@]}"
sed '$d; 59s/Say 59/Tell 59/' in.jsonl >changed.jsonl
mv in.jsonl whole.jsonl
cp changed.jsonl in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept
expect 0 '' "${one[@]}" -i in.jsonl -o changed_whole.jsonl
check "as if it had always been so" same_answers <(grep -v '"r60"' out.jsonl) changed_whole.jsonl
mv whole.jsonl in.jsonl

# What is kept for good, and a run with nothing left to do.
begin
expect 0 '' "${one[@]}" -i in.jsonl -o out.jsonl --checkpoint kept --checkpoint-interval 0.3 --keep-checkpoint
check "a checkpoint is kept" [ -e kept/manifest.json ]
expect 0 'nothing left to do' "${one[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept
check "the folder is empty at the end" [ -z "$(ls kept)" ]

# A checkpoint after every step, and an end all the same.
head -n 4 in.jsonl >few.jsonl
expect 0 'checkpoint 3:' "${three[@]}" -i few.jsonl -o few_out.jsonl --checkpoint kept --checkpoint-interval 0.001
expect 0 '' "${one[@]}" -i few.jsonl -o few_undisturbed.jsonl
check "as if undisturbed" same_answers few_out.jsonl few_undisturbed.jsonl

# Where no checkpoint can be.
expect 2 '--checkpoint needs an output that is a file' "${one[@]}" -i in.jsonl -o - --checkpoint kept
expect 2 'is not a folder' "${one[@]}" -i in.jsonl -o new.jsonl --checkpoint in.jsonl
expect 2 'no/such/place' "${one[@]}" -i in.jsonl -o new.jsonl --checkpoint no/such/place
check "no output is begun" [ ! -e new.jsonl ]

# A dry run finds what the run would refuse, in its words, and leaves nothing behind.
unset SLURM_JOB_ID
for given in '--checkpoint no/such/place' '--checkpoint in.jsonl' '--checkpoint /proc/ck' '--checkpoint /proc' \
    "--checkpoint $(printf 'x%.0s' {1..300})" '--time-limit auto'; do
    there=$(ls -A)
    # shellcheck disable=SC2086
    expect 2 '' "${one[@]}" -i in.jsonl -o new.jsonl --dry-run $given
    check "a dry run leaves nothing: $given" [ "$(ls -A)" = "$there" ]
    tail -n 1 stderr >said
    # shellcheck disable=SC2086
    expect 2 '' "${one[@]}" -i in.jsonl -o new.jsonl $given
    check "the run says the same: $given" cmp said <(tail -n 1 stderr)
    rm -f new.jsonl* said
done

# Sizes: 1000 pages of 2 x 3 layers x 3 heads x 64 tokens x 40 numbers of 2 bytes.
size='at most 87.9 MiB of KV cache (1000 pages) and 16.0 MiB of tokens each, the last two stay; '
there=$(ls -A)
expect 0 "$size" "${one[@]}" -i few.jsonl -o new.jsonl --dry-run --checkpoint fresh --kv-tokens 64000
check "a dry run makes no folder" [ "$(ls -A)" = "$there" ]
expect 0 "$size" "${one[@]}" -i few.jsonl -o new.jsonl --checkpoint fresh --kv-tokens 64000
expect 0 'checkpoints: at most 16.0 MiB of tokens each, the last two stay; ' "${one[@]}" -i few.jsonl -o new.jsonl \
    --overwrite --checkpoint fresh --checkpoint-kv never
says 'tokens only are kept, as --checkpoint-kv never says'
expect 0 "$size" "$MPIRUN" -n 3 "${one[@]}" -i few.jsonl -o new.jsonl --overwrite --checkpoint fresh --kv-tokens 64000 \
    --partition sequences=2

scene_end
