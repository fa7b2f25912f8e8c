#!/bin/bash
# bench-gpu.sh - what one GPU gives: reads, attention, decode steps, and a whole job, of Llama-3-8B's shape.
#
#   jobs/bench-gpu.sh [--program FILE] [--steps N] [--shape SHAPE] [--no-job]
#
# Weights, caches and prompts are made up, so no model is needed; bf16 throughout. Steps run in the loop
# that answers requests and their time is the median of N (150) in which the batch is full. Every table
# says beside its figures what a read-only stream and a copy get on the same card in the same run.
# The job answers 256 prompts of 1000 token ids with 1000 tokens each, prompts included in the time.
# FILE is build/cuda/lamina (cmake --preset cuda && cmake --build --preset cuda). Nothing else should use
# the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

program=build/cuda/lamina steps=150 shape=llama-3-8b job=yes
while [ $# -gt 0 ]; do
    case $1 in
    --program) program=${2:?} && shift ;;
    --steps) steps=${2:?} && shift ;;
    --shape) shape=${2:?} && shift ;;
    --no-job) job=no ;;
    -h | --help) setup_help jobs/bench-gpu.sh ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift
done
[ -x "$program" ] || { setup_say "no such program: $program (cmake --preset cuda)" && exit 2; }
program=$(realpath "$program")
setup_mpi 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem --format=csv

echo "== attention: 32 heads on 8 KV heads of 128"
"$program" bench attention -q --attention-device cuda --batch 1 --length 8192 --repeat 25 --footprint 2G
"$program" bench attention -q --attention-device cuda --batch 8 --length 8192 --repeat 15 --footprint 2G
"$program" bench attention -q --attention-device cuda --batch 128 --length 1024,4096 --repeat 15 --footprint 8G

echo "== steps: $shape"
"$program" bench step -q -m "shape:$shape" --model-device cuda --batch 1,32,128 --length 1024 \
    --warmup 12 --repeat "$steps"
"$program" bench step -q -m "shape:$shape" --model-device cuda --batch 128 --length 4096 --warmup 12 \
    --repeat "$steps"

[ "$job" = yes ] || exit 0
echo "== a job: 256 prompts of 1000 ids, 1000 tokens each"
awk 'BEGIN { for (number = 1; number <= 256; number++) {
    printf "{\"prompt\":["
    for (at = 0; at < 1000; at++)
        printf "%s%d", at ? "," : "", (number * 7919 + at * 37) % 120000 + 1000
    printf "],\"max_tokens\":1000,\"ignore_eos\":true}\n" } }' >"$work/in.jsonl"
"$program" generate -m "shape:$shape" --model-device cuda -i "$work/in.jsonl" -o "$work/out.jsonl" \
    --slots 1 --max-batch 256 --max-rows 2048 --context 2048 --progress-interval 5 2>"$work/log" ||
    { cat "$work/log" && exit 1; }
sed -n 's/^lamina: //p' "$work/log" | grep -E 'device|cuda|throughput|Mean T|duration|loading|Steps|%|Preempt'
