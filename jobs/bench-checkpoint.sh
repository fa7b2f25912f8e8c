#!/bin/bash
# bench-checkpoint.sh - what checkpoints cost: bandwidth beside dd with fsync into the same folder, how many
# steps decode stands still, what an incremental one writes, and what a restore saves over computing again.
#
#   jobs/bench-checkpoint.sh [--model FILE] [--runs N] [--sequences N] [--length N] [--contexts LIST]
#                            [--folder DIR]
#
# Checkpoints are of N sequences (8) with prompts of --length tokens (1024) each; restores are of one sequence
# of each of --contexts (256,1024,4096,8128: the packaged model's context is 8192). Medians over the runs (5).
# --folder is where checkpoints go (build/bench-checkpoint): bandwidth is that of its disk, so not a tmpfs.
# Seconds of a checkpoint are those of the log, from the drain until it counts: while decode goes on these hold
# decode's own use of the cores, and a step for each time the ranks are heard. Restores read files that the
# kernel still has in memory, and times to the first token hold the loading of the model.
# Uses build/release and takes the model of jobs/quickstart.sh unless told another. Nothing else should run.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

model=$setup_model_file runs=5 n_sequences=8 length=1024 contexts=256,1024,4096,8128 folder=build/bench-checkpoint
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$(setup_value "$@") ;;
    --runs) runs=$(setup_number "$@") ;;
    --sequences) n_sequences=$(setup_number "$@") ;;
    --length) length=$(setup_number "$@") ;;
    --contexts) contexts=$(setup_numbers "$@") ;;
    --folder) folder=$(setup_value "$@") ;;
    -h | --help) setup_help jobs/bench-checkpoint.sh ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift 2
done
program=$PWD/build/release/lamina
for file in "$model" "$program"; do
    [ -f "$file" ] || { setup_say "no such file: $file (jobs/quickstart.sh)" && exit 2; }
done
model=$(realpath "$model")
setup_mpi 1
mkdir -p "$folder"
folder=$(mktemp -d -p "$(realpath "$folder")")
job=''
trap '[ -z "$job" ] || kill -KILL "$job" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"

# ---- jobs ----

# write_prompts N LENGTH: N prompts without a common prefix, as token ids, whose answers do not end.
write_prompts() {
    awk -v n="$1" -v length_tokens="$2" 'BEGIN { for (number = 1; number <= n; number++) {
        printf "{\"prompt\":["
        for (at = 0; at < length_tokens; at++)
            printf "%s%d", at ? "," : "", (number * 7919 + at * 37) % 40000 + 1000
        printf "],\"ignore_eos\":true}\n" } }' >in.jsonl
}

begin() { # OPTION...: the job runs in the background
    rm -f status.json
    "$program" generate -m "$model" -i in.jsonl -o out.jsonl --resume --checkpoint kept --status status.json \
        --progress-interval 0.05 "$@" 2>log &
    job=$!
}

# wait_for COMMAND...: until it succeeds, while the job runs, half an hour at most.
wait_for() {
    local until=$((SECONDS + 1800))
    until "$@"; do
        if ! kill -0 $job 2>/dev/null || [ $SECONDS -ge $until ]; then cat log >&2 && exit 1; fi
        sleep 0.02
    done
}

has_tokens() { # N: the job has made so many
    awk -F '"output_tokens":' -v n="$1" '{ good = $2 + 0 >= n } END { exit !good }' status.json 2>/dev/null
}

has_checkpoints() { [ "$(grep -c 'checkpoint [0-9]*: ' log)" -ge "$1" ]; }

stop() {
    local code=0
    kill -USR1 $job
    wait $job || code=$?
    job=''
    [ $code -eq 75 ] || { cat log >&2 && exit 1; }
}

save() { rm -rf saved && mkdir saved && mv kept out.jsonl* saved; }
go_back() { rm -rf kept out.jsonl* && cp -a saved/. .; }

# ---- numbers ----

median() { # FILE [COLUMN]
    awk -v column="${2:-1}" '{ print $column }' "$1" | sort -n |
        awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2; else print "nan" }'
}

# The checkpoints of log, a line each: pages, new ones, MiB, seconds until it counted, seconds decode stood still.
checkpoints() {
    sed -n 's/.*checkpoint [0-9]*: .* \([0-9]*\) pages of KV, \([0-9]*\) of them new, \([0-9.]*\) MiB in \([0-9.]*\) s; decode stood still for \([0-9.]*\) s.*/\1 \2 \3 \4 \5/p' log
}

# Seconds from step to step, of the slot's samplings in the timeline.
step_s() {
    sed -n 's/.*"name":"sample".*"ts":\([0-9.]*\).*/\1/p' timeline.json |
        awk 'NR > 1 { print ($1 - before) / 1e6 } { before = $1 }' >steps
    median steps
}

# What dd with fsync makes of the same bytes: MiB/s.
dd_rate() {
    local begin end
    begin=$(date +%s.%N)
    dd if=bytes of=kept/dd bs=1M conv=fsync status=none
    end=$(date +%s.%N)
    awk -v n="$(stat -c %s bytes)" -v s="$(echo "$begin $end" | awk '{ print $2 - $1 }')" 'BEGIN { print n / 1048576 / s }'
    rm kept/dd
}

# ---- what a checkpoint costs ----

setup_say "$n_sequences sequences of $length tokens: computing them once"
write_prompts "$n_sequences" "$length"
begin --checkpoint-interval 1h
wait_for has_tokens $((2 * n_sequences))
stop
save
cat saved/kept/*-kv-* >bytes
for ((run = 1; run <= runs; run++)); do
    go_back # all pages new, and decode stopped
    begin --restore kv --checkpoint-interval 1h
    wait_for has_tokens 1
    stop
    checkpoints | tail -n 1 >>stopped
    dd_rate >>dd_rates
    go_back # all pages new, then what has grown, while decode goes on
    begin --restore kv --checkpoint-interval 2s --timeline timeline.json
    wait_for has_checkpoints 4
    stop
    checkpoints | sed -n 1p >>full
    checkpoints | sed -n 2,4p >>grown
    step_s >>step
    dd_rate >>dd_rates
    setup_say "run $run: $(tail -n 1 stopped | awk '{ print $3 / ($4 + 0.001) }') MiB/s, dd $(tail -n 1 dd_rates)"
done
for kind in stopped full grown; do awk '{ print $3 / ($4 > 0 ? $4 : 0.005) }' $kind >$kind.rate; done

# ---- what a restore saves ----

# resume HOW: seconds from the start of the program to the first new token.
resume() {
    local begin end
    go_back
    begin=$(date +%s.%N)
    begin --restore "$1" --checkpoint-interval 1h
    wait_for has_tokens 1
    end=$(date +%s.%N)
    kill -KILL $job
    wait $job 2>/dev/null || true
    job=''
    echo "$begin $end" | awk '{ print $2 - $1 }'
}

for context in ${contexts//,/ }; do
    setup_say "a sequence of $context tokens"
    write_prompts 1 "$context"
    rm -rf kept out.jsonl*
    begin --checkpoint-interval 1h
    wait_for has_tokens 1
    stop
    save
    for ((run = 1; run <= runs; run++)); do
        resume kv >>"kv.$context"
        resume recompute >>"recompute.$context"
    done
done

# ---- the table ----

row() { # NAME FILE
    awk -v name="$1" -v mib="$(median "$2" 3)" -v s="$(median "$2" 4)" -v rate="$(median "$2.rate")" \
        -v dd="$(median dd_rates)" -v stall="$(median "$2" 5)" -v step="$(median step)" -v still="$3" 'BEGIN {
        printf "%-34s %9.1f %8.2f %9.1f %8.3f", name, mib, s, rate, rate / dd
        if (still) printf " %8.3f %7.2f", stall, stall / step
        print "" }'
}
echo "medians of $runs runs; $n_sequences sequences of $length tokens; dd with fsync $(median dd_rates) MiB/s; a step $(median step) s"
printf '%-34s %9s %8s %9s %8s %8s %7s\n' checkpoint MiB s MiB/s 'of dd' 'still s' steps
row 'all pages, at a stop' stopped ''
row 'all pages, while decode goes on' full yes
row 'what has grown, while it goes on' grown yes
awk -v grown="$(median grown 3)" -v full="$(median full 3)" 'BEGIN {
    printf "what has grown / all pages: %.3f\n\n", grown / full }'
printf '%-34s %9s %8s %9s\n' 'first new token after a resume' 'kv s' 'again s' 'kv/again'
for context in ${contexts//,/ }; do
    awk -v context="$context" -v kv="$(median "kv.$context")" -v again="$(median "recompute.$context")" 'BEGIN {
        printf "%-34s %9.2f %8.2f %9.3f\n", context " tokens", kv, again, kv / again }'
done
