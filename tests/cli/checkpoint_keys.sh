#!/bin/bash
# checkpoint_keys.sh - h5py reads the file that shows a checkpoint of a real, stopped job: K and V of layer 0
# are those that numpy computes from the model file, for every position of every choice; those of all layers
# have the same bits after the job went on elsewhere from tokens alone. What inspect says of it is so.
. "$(dirname "$0")/scene.sh"
for python in python3 /usr/bin/python3 ''; do
    [ -z "$python" ] && scene_skip 'no python3 with h5py (python3-h5py)'
    "$python" -c 'import h5py' 2>/dev/null && break
done
keys=("$python" -B "$CLI_DIR/../checkpoint_keys.py")
model=(--context 16384)
scene_open

# Prompts of 1 to 301 token ids, one with several choices; none is answered before it is stopped.
for ((number = 0; number < 7; number++)); do
    ids=$((number * 131))
    for ((at = 1; at <= number * 50; at++)); do ids+=,$(((number * 131 + at * 37) % 1031)); done
    [ $number -eq 3 ] && extra=',"n":3,"temperature":1' || extra=''
    printf '{"custom_id":"r%d","method":"POST","url":"/v1/completions","body":' "$number"
    printf '{"prompt":[%s],"max_tokens":15000,"ignore_eos":true%s}}\n' "$ids" "$extra"
done >in.jsonl

# stop WHAT CONDITION... -- COMMAND...: the job runs until the condition holds, then it is stopped.
stop() {
    local what=$1 condition=()
    shift
    while [ "$1" != -- ]; do condition+=("$1") && shift; done
    shift
    "$@" -i in.jsonl -o out.jsonl --resume --checkpoint kept --checkpoint-interval 0.5 \
        --kv-tokens 32768 2>stderr &
    job=$!
    check "$what" try_until 120 "${condition[@]}"
    kill -USR1 $job
    check "the job stops: $what" try_until 120 has_ended $job
    wait $job
    ended 75 "$what" $?
}

# inspects: what it says of the newest checkpoint is what h5py sees.
inspects() {
    expect 0 '' "$LAMINA" inspect kept
    cp stdout inspected
    mapfile -t totals < <("${keys[@]}" totals kept)
    check "h5py reads it" [ ${#totals[@]} -eq 2 ]
    for line in "${totals[@]}"; do check "inspect says it" grep -qF -- " $line" inspected; done
}

# goes_on TYPE: the job begins on the ranks of first and goes on on those of second, which compute all again.
goes_on() {
    local type=$1
    rm -rf out.jsonl* kept before
    stop "a first checkpoint, $type" grep -q 'checkpoint 1:' stderr -- "${first[@]}" --kv-type "$type"
    inspects
    check "layer 0 is what the model makes, $type" "${keys[@]}" layer0 tiny.gguf kept "$type"
    cp -a kept before
    stop "all is computed again, $type" "${keys[@]}" grown before kept -- \
        "${second[@]}" --kv-type "$type" --restore recompute
    says 'choices go on where they stopped'
    check "all layers have the same bits, $type" "${keys[@]}" same before kept
    check "layer 0 after it, $type" "${keys[@]}" layer0 tiny.gguf kept "$type"
}

first=("${one[@]}") second=("${three[@]}" --partition heads=2)
goes_on f32
first=("${three[@]}" --partition heads=2) second=("${one[@]}")
goes_on bf16

scene_end
