#!/bin/bash
# bench-fsync.sh - what a slow disk costs decode: tok/s with an output whose fsync takes 200 ms more,
# against the same without, in alternating runs; the medians and their ratio (1 is no loss).
#
#   jobs/bench-fsync.sh [--model FILE] [--runs N] [--requests N] [--tokens N] [--ms N]
#
# Uses build/release (tests included) and takes the model of jobs/quickstart.sh unless told another.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

model=$setup_model_file runs=5 n_requests=64 n_tokens=64 ms=200
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$(setup_value "$@") ;;
    --runs) runs=$(setup_number "$@") ;;
    --requests) n_requests=$(setup_number "$@") ;;
    --tokens) n_tokens=$(setup_number "$@") ;;
    --ms) ms=$(setup_number "$@") ;;
    -h | --help) setup_help jobs/bench-fsync.sh ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift 2
done
program=build/release/lamina
shim=$PWD/build/release/tests/cli/libslow_fsync.so
for file in "$model" "$program" "$shim"; do
    [ -f "$file" ] || { setup_say "no such file: $file (jobs/quickstart.sh, tests/run.sh)" && exit 2; }
done
setup_mpi 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for ((number = 1; number <= n_requests; number++)); do
    printf '{"prompt":"Tell me about the number %d.","max_tokens":%d,"ignore_eos":true}\n' "$number" "$n_tokens"
done >"$folder/in.jsonl"

# one_run MS: tok/s on standard output.
one_run() {
    env LD_PRELOAD="$shim" SLOW_FSYNC_MS="$1" SLOW_FSYNC_NAME=/out.jsonl SLOW_FSYNC_REPORT="$folder/report" \
        "$program" generate -m "$model" -i "$folder/in.jsonl" -o "$folder/out.jsonl" --overwrite 2>"$folder/log" ||
        { cat "$folder/log" >&2 && return 1; }
    sed -nE 's/.*Output token throughput[^:]*: *([0-9.]+).*/\1/p; s/.* = ([0-9.]+) tok\/s.*/\1/p' "$folder/log"
}

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2 }'; }

for ((run = 1; run <= runs; run++)); do
    one_run 0 >>"$folder/fast"
    one_run "$ms" >>"$folder/slow"
    n_syncs=$(sed -n 's/^fsync lamina desk //p' "$folder/report")
    echo "run $run: $(tail -n 1 "$folder/fast") tok/s, with fsync + $ms ms $(tail -n 1 "$folder/slow") tok/s ($n_syncs syncs)"
done
fast=$(median "$folder/fast") slow=$(median "$folder/slow")
awk -v fast="$fast" -v slow="$slow" -v ms="$ms" 'BEGIN {
    printf "medians: %.1f tok/s, with fsync + %d ms %.1f tok/s: ratio %.3f\n", fast, ms, slow, slow / fast }'
