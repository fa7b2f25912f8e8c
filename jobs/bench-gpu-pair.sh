#!/bin/bash
# bench-gpu-pair.sh - what two GPUs of a host give: messages by every wire, and disaggregated decode steps.
#
#   jobs/bench-gpu-pair.sh [--program FILE] [--steps N] [--shape SHAPE] [--wires "device nccl mpi"]
#
# One model rank and one attention rank, a GPU each. First blocks of 16 bytes to 64 MiB go to and fro by every
# wire, one to four at a time, and are compared; beside them NCCL's send and receive in a graph, where PyTorch
# is. Then steps of Llama-3-8B's shape, 128 sequences a slot, weights and caches made up, for one slot and
# two: of_ideal is the rate over that of the slower rank alone, were every message and wait hidden; the last
# lines say what a second slot wins. Times are medians of N (150) steps of a full batch in the loop that
# answers requests. FILE is build/cuda/lamina. Nothing else should use the GPUs.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

program=build/cuda/lamina steps=150 shape=llama-3-8b wires=(device nccl mpi)
while [ $# -gt 0 ]; do
    case $1 in
    --program) program=$(setup_value "$@") ;;
    --steps) steps=$(setup_number "$@") ;;
    --shape) shape=$(setup_value "$@") ;;
    --wires)
        value=$(setup_value "$@")
        read -ra wires <<<"$value"
        ;;
    -h | --help) setup_help jobs/bench-gpu-pair.sh ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift 2
done
for wire in "${wires[@]}"; do
    case $wire in
    device | nccl | mpi) ;;
    *) setup_say "--wires $wire: expected device, nccl or mpi, or several of them with blanks between" && exit 2 ;;
    esac
done
[[ -x $program && -f $program ]] || { setup_say "no such program: $program (cmake --preset cuda)" && exit 2; }
command -v nvidia-smi >/dev/null || { setup_say "no nvidia-smi: is this a host with a GPU?" && exit 2; }
program=$(realpath "$program")
setup_mpi 2
work=build/bench-gpu-pair
mkdir -p "$work"
rm -f "$work"/*.json

# bench NAME OPTIONS...: on both GPUs, into the file of that name, and as a table.
bench() {
    local file=$work/$1.json
    shift
    mpirun -n 2 "$program" bench "$@" -q --model-device cuda --attention-device cuda --format json -o "$file"
    jobs/bench-gpu-lines.py "$file"
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem --format=csv
nvidia-smi topo -m

echo "== messages"
bench wire wire --sizes '16-64M*4' --fan 1,2,4 --repeat 5
if mpirun -n 2 jobs/bench-gpu-nccl.py -o "$work/nccl.json"; then
    jobs/bench-gpu-nccl.py --beside "$work/nccl.json" "$work/wire.json"
fi

for wire in "${wires[@]}"; do
    for slots in 1 2; do
        echo "== steps: $shape, --wire $wire, $slots slot$([ $slots = 1 ] || echo s)"
        bench "step-$wire-$slots" step -m "shape:$shape" --wire "$wire" --slots $slots --batch 128 --length 1024,4096 \
            --warmup 12 --repeat "$steps"
    done
done

echo "== two slots over one, tok/s"
python3 - "$work" "${wires[@]}" <<'END'
import json, sys
for wire in sys.argv[2:]:
    one, two = (json.load(open(f"{sys.argv[1]}/step-{wire}-{slots}.json"))["results"] for slots in (1, 2))
    for a, b in zip(one, two):
        print(f"{wire:8} {a['batch']} x {a['length']}: {b['tok_per_s'] / a['tok_per_s']:.2f}")
END
