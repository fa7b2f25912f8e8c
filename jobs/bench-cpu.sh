#!/bin/bash
# bench-cpu.sh - decode speed on this machine's CPU beside llama.cpp's, same model, threads and work.
#
#   jobs/bench-cpu.sh [--threads N] [--rounds N] [--peer DIR] [--layouts]
#
# 1, 8 and 32 sequences, 128 tokens of prompt and 128 generated each. Builds llama.cpp from the source
# in the Python package llama-cpp-python 0.3.36 (about 15 minutes on two cores, once, into build/peers;
# --peer takes a folder that has its llama-batched-bench and llama-quantize already). The peers are the
# packaged Q4_1 file and the same weights as BF16, which llama.cpp runs faster in batches. Programs run
# in turn, round after round, because machines drift; the table shows medians over the rounds of decode
# tok/s of all sequences together, and ratios of medians. Nothing else should run meanwhile.
# --layouts adds (1,2) on the same cores: what disaggregation costs where it cannot win anything.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

threads=$(nproc)
rounds=5
peer=build/peers/llama.cpp
layouts=no
while [ $# -gt 0 ]; do
    case $1 in
    --threads) threads=$(setup_number "$@") ;;
    --rounds) rounds=$(setup_number "$@") ;;
    --peer) peer=$(setup_value "$@") ;;
    --layouts) layouts=yes && shift && continue ;;
    -h | --help) setup_help jobs/bench-cpu.sh ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift 2
done
tokens=128
work=build/bench-cpu
mkdir -p "$work"

build_peer() {
    [ -x "$peer/llama-batched-bench" ] && [ -x "$peer/llama-quantize" ] && return
    setup_say "Building llama.cpp into $peer (once)"
    mkdir -p "$peer/source"
    python3 -m pip --disable-pip-version-check download --quiet --no-deps \
        --no-binary llama-cpp-python --dest "$peer/source" llama-cpp-python==0.3.36
    tar -xzf "$peer"/source/*.tar.gz -C "$peer/source" --strip-components=1
    cmake -S "$peer/source/vendor/llama.cpp" -B "$peer/build" -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DGGML_CCACHE=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF >"$work/peer.log"
    cmake --build "$peer/build" --target llama-batched-bench llama-quantize -j "$(nproc)" >>"$work/peer.log"
    cp "$peer"/build/bin/llama-{batched-bench,quantize} "$peer/"
}

setup_model
build_peer
[ -x build/release/lamina ] || { setup_say "build/release/lamina is missing: run jobs/quickstart.sh first" && exit 1; }
setup_mpi 3
model=$setup_model_file
bf16=$work/bf16.gguf
[ -f "$bf16" ] || "$peer/llama-quantize" --allow-requantize "$model" "$bf16" BF16 >"$work/quantize.log" 2>&1

# Prompts as token ids, so that no tokenizer is in the way; fixed, so that every round does the same.
write_prompts() {
    awk -v n="$1" -v length_="$tokens" 'BEGIN {
        state = 12345
        for (line = 0; line < n; line++) {
            printf "{\"prompt\": ["
            for (token = 0; token < length_; token++) {
                state = state * 16807 % 2147483647
                printf "%s%d", token ? "," : "", 1000 + state % 40000
            }
            printf "], \"max_tokens\": %d, \"ignore_eos\": true}\n", length_
        }
    }' >"$work/prompts-$1.jsonl"
}

# Decode tok/s of one run.
run_lamina() { # sequences, threads a rank, launcher...
    local n=$1 each=$2 && shift 2
    "$@" generate -m "$model" -i "$work/prompts-$n.jsonl" -o "$work/out.jsonl" --overwrite \
        --max-batch 32 --max-rows 4096 --threads "$each" 2>"$work/lamina.log"
    awk '/Decode throughput/ { print $NF }' "$work/lamina.log"
}
run_peer() { # model, sequences
    "$peer/llama-batched-bench" -m "$1" -c 16384 -b 2048 -ub 512 -npp $tokens -ntg $tokens \
        -npl "$2" -t "$threads" -tb "$threads" 2>/dev/null |
        awk -F'|' '$2 ~ /^ *[0-9]+ *$/ { gsub(/ /, "", $9); print $9 }'
}
median() {
    sort -n | awk '{ value[NR] = $1 } END { print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}
ratio() {
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'
}

printf '# decode tok/s, %d tokens of prompt and %d generated a sequence, %s threads, medians of %s rounds\n' \
    "$tokens" "$tokens" "$threads" "$rounds"
sed -n 's/^model name[^:]*: /# /p' /proc/cpuinfo | head -n 1
printf '%-10s %10s %12s %12s %8s %8s\n' sequences lamina llama-Q4_1 llama-BF16 /Q4_1 /BF16
for n in 1 8 32; do
    write_prompts "$n"
    rm -f "$work"/rate-*
    for ((round = 0; round < rounds; round++)); do
        run_lamina "$n" "$threads" build/release/lamina >>"$work/rate-lamina"
        run_peer "$model" "$n" >>"$work/rate-q4"
        run_peer "$bf16" "$n" >>"$work/rate-bf16"
        [ "$layouts" = no ] || run_lamina "$n" 1 mpirun -n 3 build/release/lamina >>"$work/rate-split"
    done
    lamina=$(median <"$work/rate-lamina") q4=$(median <"$work/rate-q4") bf=$(median <"$work/rate-bf16")
    printf '%-10s %10s %12s %12s %8s %8s\n' "$n" "$lamina" "$q4" "$bf" "$(ratio "$lamina" "$q4")" "$(ratio "$lamina" "$bf")"
    [ "$layouts" = no ] || printf '%-10s %10s   (1,2) on the same cores, %s of colocated\n' "" \
        "$(median <"$work/rate-split")" "$(ratio "$(median <"$work/rate-split")" "$lamina")"
done
