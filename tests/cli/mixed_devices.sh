#!/bin/bash
# mixed_devices.sh - attention ranks on a GPU beside a model rank on the CPU, with a made-up GPU
# (late_cuda.c): what is chosen, said and budgeted, and that all is answered; a dry run foretells it.
. "$(dirname "$0")/scene.sh"
: "${LAMINA_LATE:?a lamina with a made-up GPU}"
scene_open
make_requests 6 20 >in.jsonl
export XDG_CACHE_HOME=$PWD/caches
late=("$MPIRUN" -n 3 "$LAMINA_LATE" generate -m tiny.gguf -i in.jsonl)

expect 0 '' "${late[@]}" -o mixed.jsonl --attention-device cuda
says 'wire: mpi (values of GPUs pass through pinned memory; driven while computing)' \
    'over 2 ranks of the device, less a tenth'
said_once 'devices: ranks 1 and 2 share late 0 and its memory'
says 'rank 1: GPU 3 at made:up, NUMA node unknown; NVLink to GPUs 1-2, 5, 8' 'rank 2: GPU 3 at made:up'
check "nothing is said of a GPU of rank 0" [ "$(grep -c 'rank 0: GPU' stderr)" -eq 0 ]
check "all are answered" has_each_once mixed.jsonl 6
run_tokens=$(sed -n 's/.*tokens = \([0-9]*\) tokens an owner.*/\1/p' stderr)

expect 0 '' "${late[@]}" --attention-device cuda --dry-run
dry_tokens=$(sed -n 's/^KV cache *\([0-9]*\) tokens an owner.*/\1/p' stdout)
check "the dry run has the same KV tokens" [ "${run_tokens:-none}" = "${dry_tokens:-no}" ]
check "the dry run tells which rank computes on what" grep -qE '^ +1 +attention +late ' stdout
check "and of the model rank" grep -qE '^ +0 +model +cpu ' stdout
check "the dry run tells of the device" grep -q '28.8 MiB a rank .*free on the device' stdout
check "and of the host" grep -q 'a rank when all run on this host (.*enough' stdout

# Alone on the GPU an attention rank has twice as much.
expect 0 'over 1 rank of the device' "$MPIRUN" -n 2 "$LAMINA_LATE" generate -m tiny.gguf -i in.jsonl -o two.jsonl --attention-device cuda
check "57.6 MiB" grep -q '57.6 MiB each (free on the device' stderr

# A wire between GPUs wants a GPU for each rank.
expect 2 '--wire device joins GPUs, and a rank computes on its CPU' "${late[@]}" -o no.jsonl --attention-device cuda --wire device
expect 2 '--wire nccl: two ranks share a GPU: start as many ranks on a host as it has GPUs' "${late[@]}" -o no.jsonl --model-device cuda --attention-device cuda --wire nccl
check "nothing was written" [ ! -e no.jsonl ]

# Where ranks outnumber GPUs auto is the CPU, and the bits are a CPU's.
expect 0 'values are in host memory' "${late[@]}" -o auto.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o one.jsonl
check "auto is the CPU" same_answers auto.jsonl one.jsonl

# So it is where there is no code for the GPU, with a warning; asked for, it is refused.
export LATE_CAPABILITY=8.0
expect 0 '[rank 1 attention] warning: late 0 has compute capability 8.0: the CPU computes instead' "$MPIRUN" -n 2 "$LAMINA_LATE" generate -m tiny.gguf -i in.jsonl -o old.jsonl --model-device cpu
said_once 'the CPU computes instead'
check "a GPU without code is left" same_answers old.jsonl one.jsonl
expect 0 'late 0 has compute capability 8.0: the CPU computes instead' "$LAMINA_LATE" generate -m tiny.gguf -i in.jsonl --dry-run
for dry in '' --dry-run; do
    expect 2 '--attention-device cuda: late 0 has compute capability 8.0' "${late[@]}" -o no.jsonl --attention-device cuda $dry
    said_once lamina:
done
check "nothing was written" [ ! -e no.jsonl ]
unset LATE_CAPABILITY

# What a GPU finds by timing is kept where the environment says, unless that is not wanted.
check "choices are kept, in one file" [ "$(find caches -type f -path 'caches/lamina/kernels-*' | wc -l)" -eq 1 ]
check "and nothing else" [ "$(find caches -type f | wc -l)" -eq 1 ]
rm -r caches
expect 0 '' "${late[@]}" -o no-cache.jsonl --attention-device cuda --no-cache
check "nothing is kept" [ ! -e caches ]

# Versions are the device's own words.
expect 0 '' "$LAMINA_LATE" --version
check "a device tells its version" grep -qx 'CUDA   made up' stdout
expect 0 '' "$LAMINA" --version
version='CUDA   (not built|[0-9]+\.[0-9]+ \((no driver|driver for [0-9]+\.[0-9]+)\), cuBLAS [0-9]+\.[0-9]+\.[0-9]+)'
check "this build tells it too" grep -qxE "$version" stdout

scene_end
