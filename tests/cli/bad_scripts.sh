#!/bin/bash
# bad_scripts.sh - options of the scripts in jobs/ that are no numbers or have no value, files that are
# missing or foreign, and variables of the job templates: one line each, exit 2. What lamina bench wrote is
# taken.
. "$(dirname "$0")/scene.sh"
scene_open
jobs=$CLI_DIR/../../jobs
limit=10 # a script that goes on would build, download or measure

refused() { # TEXT COMMAND...
    expect 2 "$@"
    check "one line of ${*:2}" [ "$(wc -l <stderr)" -eq 1 ]
}

for given in 'bench-cpu.sh --threads' 'bench-cpu.sh --rounds' 'bench-fsync.sh --runs' 'bench-fsync.sh --requests' \
    'bench-fsync.sh --tokens' 'bench-fsync.sh --ms' 'bench-checkpoint.sh --runs' 'bench-checkpoint.sh --sequences' \
    'bench-checkpoint.sh --length' 'bench-gpu.sh --steps' 'bench-gpu-pair.sh --steps'; do
    read -r script option <<<"$given"
    for value in abc 0 -1 1.5 08 9999999999 '7 '; do
        refused "$option $value: expected a whole number, 1 or more" "$jobs/$script" "$option" "$value"
    done
    refused "$option: no value behind it" "$jobs/$script" "$option"
    refused 'unknown: --nonsense' "$jobs/$script" --nonsense
done
for value in abc '1,' ',1' '1,,2' '1 2' '1,0'; do
    refused "--contexts $value: expected whole numbers" "$jobs/bench-checkpoint.sh" --contexts "$value"
done
refused '--wires tcp: expected device, nccl or mpi' "$jobs/bench-gpu-pair.sh" --wires 'nccl tcp'
refused '--model: no value behind it' "$jobs/quickstart.sh" --model
refused '--preset: no value behind it' "$jobs/../tests/run.sh" --preset

# ---- results ----

limit=120

if command -v python3 >/dev/null; then
    lines=$jobs/bench-gpu-lines.py peers=$jobs/bench-gpu-peers.py
    attention=(bench attention --heads 2 --kv-heads 2 --head-dim 16 --batch '1,2' --length 1024 -r 1 --warmup 0 --footprint 1M)
    expect 0 '' "$LAMINA" "${attention[@]}" --format json -o attention-1024.json
    expect 0 '' "$LAMINA" "${attention[@]}" --kv-type f32 --format json -o f32.json
    expect 0 '' "$LAMINA" "${attention[@]}" --format csv -o table.csv
    expect 0 '' "$lines" attention-1024.json
    check "a table of two rows" [ "$(grep -vc '^#' stdout)" -eq 2 ]
    expect 0 '' "$lines" --ratios .
    check "a ratio of what is there" grep -q 'attention B128 L1024 / ceiling at 0.54 GB' stdout

    mkdir folder foreign
    printf '\xff\xfe' >noise.json
    printf '{"results": [' >torn.json
    echo '[1, 2]' >list.json
    echo '{"results": []}' >none.json
    echo '{"results": [{"batch": 1}, {"length": 2}]}' >uneven.json
    echo '{"results": 7, "heads": 8, "footprint": []}' >number.json
    for file in nofile.json folder noise.json torn.json list.json none.json uneven.json number.json table.csv; do
        refused "$file: " "$lines" "$file"
        refused "$file: " "$peers" "$file"
    done
    refused 'f32.json: K and V are f32' "$peers" f32.json
    sed 's/"time_us": [0-9.]*/"time_us": "long"/' attention-1024.json >foreign/attention-1024.json
    refused 'foreign/attention-1024.json: ' "$peers" foreign/attention-1024.json
    refused 'foreign/attention-1024.json: ' "$lines" --ratios foreign
    sed 's/"read_GB_per_s"/"GB"/' attention-1024.json >foreign/attention-1024.json
    refused 'with numbers as batch, length' "$lines" --ratios foreign
    refused 'nofolder: no such folder' "$lines" --ratios nofolder
    expect 2 'jobs/bench-gpu-lines.py RESULTS.json' "$lines"
    expect 2 'jobs/bench-gpu-lines.py RESULTS.json' "$lines" --ratio folder
    expect 2 '--repeat 0: at least 1' "$peers" --repeat 0 attention-1024.json
fi

# ---- the templates ----

# What they say stands in the job's output.
template() { # TEXT COMMAND...
    local text=$1
    expect 2 '' "${@:2}"
    check "said by ${*:2}: $text" grep -qF "$text" stdout
    check "one line of ${*:2}" [ "$(cat stdout stderr | wc -l)" -eq 1 ]
}
export PATH=$jobs:$PATH
prepare=(bash -c '. lamina-job.sh && lamina_prepare tiny.gguf in.jsonl out.jsonl && echo prepared')
expect 0 '' "${prepare[@]}"
for name in LAMINA_MAX_RESTARTS LAMINA_MAX_RELAUNCHES LAMINA_KILL_TIMEOUT; do
    for value in abc -1 1.5 08 '3 4'; do
        template "$name is $value: expected a whole number" env "$name=$value" "${prepare[@]}"
    done
    expect 0 '' env "$name=0" "${prepare[@]}"
done
for value in abc 0x3 -2; do
    template "the number of pieces is $value: expected a whole number" env LAMINA= SLURM_ARRAY_TASK_ID=1 \
        bash "$jobs/lamina-array.sbatch" "$value" tiny.gguf in.jsonl out.jsonl
done

scene_end
