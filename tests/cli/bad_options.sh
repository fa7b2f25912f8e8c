#!/bin/bash
# bad_options.sh - options that are unknown, contradict each other, or ask for what cannot be: exit 2,
# one line that names the option, and no file touched.
. "$(dirname "$0")/scene.sh"
scene_open
make_requests 3 8 >in.jsonl
good=(-i in.jsonl -o out.jsonl)

refused() { # TEXT OPTION...
    local text=$1
    shift
    expect 2 "$text" "${one[@]}" "${good[@]}" "$@"
    said_once lamina:
    check "nothing is left behind by $*" [ ! -e out.jsonl ]
    check "no job file is left behind by $*" [ ! -e out.jsonl.job.json ]
}

expect 2 'no command' "$LAMINA"
expect 2 'unknown command genrate; did you mean lamina generate?' "$LAMINA" genrate
expect 2 'bench needs one word more' "$LAMINA" bench
expect 2 'bench replay is not built yet' "$LAMINA" bench replay
expect 2 'sweep is not built yet' "$LAMINA" sweep
expect 2 'no model' "$LAMINA" generate -i in.jsonl -o out.jsonl
expect 2 'no requests' "${one[@]}" -o out.jsonl
expect 2 'no place for answers' "${one[@]}" -i in.jsonl
refused 'unknown option --outptu; did you mean --output?' --outptu x
refused 'unknown option -Z' -Z
refused '--temperature hot: expected a number' --temperature hot
refused '--temperature -1: expected a number' --temperature -1
refused '--max-tokens 0: expected' --max-tokens 0
refused '--kv-type f64: expected one of f32, f16, bf16' --kv-type f64
refused '--kv-memory 12parsecs: expected' --kv-memory 12parsecs
refused '--deadline soon: expected' --deadline soon
refused '--threads' --threads
refused '--resume keeps' --resume --overwrite
refused '--retry-failed does nothing without --resume' --retry-failed
refused '--keep-checkpoint does nothing without --checkpoint' --keep-checkpoint
refused '--resume needs files' --resume -i -
refused '--resume needs files' --resume -o -
refused '--model-width is not built yet' --model-width 2
refused '--model-ranks 2 is not built yet' --model-ranks 2
if [ ! -e /dev/nvidia0 ]; then
    why='no GPU is visible: '
    if "$LAMINA" --version | grep -qx 'CUDA   not built'; then
        why='this lamina was built without CUDA (cmake --preset cuda)'
    fi
    refused "--model-device cuda: $why" --model-device cuda
    refused "--model-device cuda: $why" --model-device cuda --dry-run
    refused "--attention-device cuda: $why" --attention-device cuda --attention-ranks 3 --dry-run
    expect 2 "--attention-device cuda: $why" "$LAMINA" bench attention --attention-device cuda
    expect 2 "--attention-device cuda: $why" "$MPIRUN" -n 2 "$LAMINA" bench wire --attention-device cuda
fi
refused '--groups is not built yet' --groups 2
refused '--slots 3 is not built yet' --slots 3

# What comes through a pipe cannot be read twice, under whatever name; a file can under any.
mkfifo pipe
refused '--resume needs files: input pipe cannot be read again' --resume -i pipe
refused '--resume needs files: input /dev/fd/' --resume -i <(cat in.jsonl)
refused '--resume needs files: input /dev/stdin cannot be read again' --resume -i /dev/stdin < <(cat in.jsonl)
for run in all the_rest; do
    expect 0 '' "${one[@]}" -i /dev/stdin -o twice.jsonl --resume <in.jsonl
    check "a file as /dev/stdin is read: $run" has_each_once twice.jsonl 3
    truncate -s -10 twice.jsonl
done

# What only the model, the machine or the number of ranks shows to be wrong: answers that are there
# outlive it, though they were to be replaced.
expect 0 '' "${one[@]}" -i in.jsonl -o kept.jsonl
cp kept.jsonl good.jsonl
refused_late() { # TEXT OPTION...
    refused "$@"
    expect 2 "$1" "${one[@]}" -i in.jsonl -o kept.jsonl --overwrite "${@:2}"
    check "answers outlive ${*:2}" cmp kept.jsonl good.jsonl
}
refused_late '--context 99999 exceeds the model'\''s 2048 tokens' --context 99999
refused_late '--max-rows 2 is less than --max-batch 4' --max-rows 2 --max-batch 4
refused_late 'holds no page of 64 tokens' --kv-tokens 63
refused_late 'holds no page of 64 tokens' --kv-memory 1K
refused_late '--partition heads=2,sequences=1 needs attention ranks' --partition heads=2
refused_late '--attention-ranks 2' --attention-ranks 2
for wire in mpi nccl device; do
    refused_late "--wire $wire needs attention ranks, and there are none" --wire $wire
    refused "--wire $wire needs attention ranks, and there are none" --wire $wire --dry-run
    expect 2 "--wire $wire needs attention ranks" "$LAMINA" bench step -m tiny.gguf --batch 1 --length 8 --wire $wire
done
refused_late 'chat template "nonesuch" is not known' --chat-template nonesuch
if ! grep -qw avx512bw /proc/cpuinfo; then
    refused_late '--cpu-isa avx512: this processor has no' --cpu-isa avx512
fi

# A request that the context or the KV budget can never hold fails; the others are answered.
request() { # ID MAX_TOKENS
    printf '{"custom_id":"%s","method":"POST","url":"/v1/completions","body":{"prompt":"Say","max_tokens":%d,"ignore_eos":true}}\n' "$1" "$2"
}
{ request fits 40 && request long 5000 && request too 10; } >limits.jsonl
expect 3 '' "${one[@]}" -i limits.jsonl -o context.jsonl
check "the others are answered" [ "$(grep -c '"status_code":200' context.jsonl)" -eq 2 ]
check "the context is told" grep -q 'limits.jsonl:2: .*the context is 2048 tokens' context.jsonl
{ request fits 40 && request long 500 && request too 10; } >limits.jsonl
expect 3 '' "${one[@]}" -i limits.jsonl -o budget.jsonl --kv-tokens 128
check "the others are answered" [ "$(grep -c '"status_code":200' budget.jsonl)" -eq 2 ]
check "the budget is told" grep -qE 'limits.jsonl:2: .*(--kv-tokens|KV)' budget.jsonl

scene_end
