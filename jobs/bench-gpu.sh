#!/bin/bash
# bench-gpu.sh - what one GPU gives: reads, attention, decode steps, and a whole job, of Llama-3-8B's shape.
#
#   jobs/bench-gpu.sh [--program FILE] [--steps N] [--shape SHAPE] [attention] [steps] [job]
#
# Parts that are named, or all. Weights, caches and prompts are made up, so no model is needed; bf16
# throughout. Attention is timed in graphs over as many layers as fill 8 GiB (2 GiB at batch 1), beside
# cuDNN's through PyTorch where that is installed. Steps run in the loop that answers requests and their
# time is the median of N (150) in which the batch is full. The job answers 256 prompts of 1000 token ids
# with 1000 tokens each, prompts included in the time. All are compared with reads and copies of the same
# card in the same run; results are kept in build/bench-gpu, and at the end the ratios are listed beside
# what has been asked of them on an H200. FILE is build/cuda/lamina (cmake --preset cuda && cmake --build
# --preset cuda). Nothing else should use the GPU. Takes about 6 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

program=build/cuda/lamina steps=150 shape=llama-3-8b parts=()
while [ $# -gt 0 ]; do
    case $1 in
    --program) program=$(setup_value "$@") ;;
    --steps) steps=$(setup_number "$@") ;;
    --shape) shape=$(setup_value "$@") ;;
    -h | --help) setup_help jobs/bench-gpu.sh ;;
    attention | steps | job) parts+=("$1") && shift && continue ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift 2
done
[[ -x $program && -f $program ]] || { setup_say "no such program: $program (cmake --preset cuda)" && exit 2; }
command -v nvidia-smi >/dev/null || { setup_say "no nvidia-smi: is this a host with a GPU?" && exit 2; }
program=$(realpath "$program")
setup_mpi 1
work=build/bench-gpu
mkdir -p "$work"
rm -f "$work"/*.json "$work"/*.log
wanted() {
    [ ${#parts[@]} -eq 0 ] || [[ " ${parts[*]} " == *" $1 "* ]]
}

# bench NAME OPTIONS...: into the file of that name, and as a table.
bench() {
    local file=$work/$1.json
    shift
    "$program" bench "$@" -q --format json -o "$file"
    jobs/bench-gpu-lines.py "$file"
}

write_prompts() {
    awk 'BEGIN { for (number = 1; number <= 256; number++) {
        printf "{\"prompt\":["
        for (at = 0; at < 1000; at++)
            printf "%s%d", at ? "," : "", (number * 7919 + at * 37) % 120000 + 1000
        printf "],\"max_tokens\":1000,\"ignore_eos\":true}\n" } }'
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem --format=csv

if wanted attention; then
    echo "== attention: 32 heads on 8 KV heads of 128"
    attention=(attention --attention-device cuda --repeat 25)
    bench attention-1 "${attention[@]}" --batch 1,8 --length 8192 --footprint 2G
    bench attention-1024 "${attention[@]}" --batch 128 --length 1024 --ragged 16 --footprint 8G
    bench attention-4096 "${attention[@]}" --batch 128 --length 4096 --footprint 8G
    if python3 -c 'import torch' 2>"$work/torch.log"; then
        jobs/bench-gpu-peers.py -o "$work/peers.json" "$work"/attention-*.json
    else
        setup_say "cuDNN is left out: $(tail -n 1 "$work/torch.log")"
    fi
fi

if wanted steps; then
    echo "== steps: $shape"
    step=(step -m "shape:$shape" --model-device cuda --warmup 12 --repeat "$steps" --footprint 8G)
    bench step-1024 "${step[@]}" --batch 1,32,128 --length 1024
    bench step-4096 "${step[@]}" --batch 128 --length 4096
fi

if wanted job; then
    echo "== a job: 256 prompts of 1000 ids, 1000 tokens each"
    write_prompts >"$work/in.jsonl"
    "$program" generate -m "shape:$shape" --model-device cuda -i "$work/in.jsonl" -o "$work/out.jsonl" \
        --overwrite --slots 1 --max-batch 256 --max-rows 2048 --context 2048 --progress-interval 5 \
        2>"$work/job.log" || { cat "$work/job.log" && exit 1; }
    sed -n 's/^lamina: //p' "$work/job.log" |
        grep -E 'device|cuda|throughput|Mean T|duration|loading|Steps|%|Preempt'
fi

[ "$shape" = llama-3-8b ] || exit 0
echo "== ratios, beside the floor and the aim for an H200"
jobs/bench-gpu-lines.py --ratios "$work"
