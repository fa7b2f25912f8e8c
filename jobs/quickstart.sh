#!/bin/bash
# quickstart.sh - from a fresh clone to answers of a real model, on one machine.
#
#   jobs/quickstart.sh [--no-install] [--model FILE]
#
# Installs missing packages (Debian and Ubuntu, as root or with sudo; --no-install names them and
# stops), builds, gets SmolLM2-135M-Instruct (or takes the GGUF of --model), answers
# inputs/prompts.jsonl on 3 MPI ranks, 1 model rank and 2 attention ranks, and shows three answers.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."
. jobs/setup.sh

install=yes
model=
output=answers-quickstart.jsonl
while [ $# -gt 0 ]; do
    case $1 in
    --no-install) install=no ;;
    --model)
        model=$(setup_value "$@")
        model=$(cd "$from" && realpath -m -- "$model")
        shift
        ;;
    -h | --help) setup_help jobs/quickstart.sh ;;
    *) setup_say "unknown: $1 (try --help)" && exit 2 ;;
    esac
    shift
done

stages=(build)
if [ -z "$model" ] && [ ! -f "$setup_model_file" ]; then stages+=(model); fi
setup_packages "$install" "${stages[@]}"
if [ -z "$model" ]; then
    if ! setup_model; then
        setup_say "Any GGUF file of a Llama, Mistral, Qwen2 or Qwen3 model will do instead:"
        setup_say "    jobs/quickstart.sh --model FILE"
        exit 1
    fi
    model=$setup_model_file
elif [ ! -f "$model" ]; then
    setup_say "no such file: $model" && exit 2
fi
setup_mpi 3

cmake --preset release -DBUILD_TESTING=OFF
cmake --build --preset release --target lamina -j "$(nproc)"

run=(mpirun -n 3 build/release/lamina generate -m "$model" -i inputs/prompts.jsonl)
setup_say
setup_say "${run[*]} -o $output --overwrite"
"${run[@]}" -o "$output" --overwrite

show_three() {
    python3 - inputs/prompts.jsonl "$output" <<'END'
import json, sys
def plain(text):
    if isinstance(text, list):
        text = "".join(part.get("text", "") for part in text)
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
def lines(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield record.get("custom_id"), record
asked, shown = dict(lines(sys.argv[1])), 0
for name, answer in lines(sys.argv[2]):
    choice = (((answer.get("response") or {}).get("body") or {}).get("choices") or [None])[0]
    if name not in asked or not choice or "messages" not in asked[name]["body"]:
        continue
    print(f"\n--- {plain(asked[name]['body']['messages'][-1]['content'])}")
    print(plain(choice["message"]["content"]).strip())
    shown += 1
    if shown == 3:
        break
END
}
if setup_has_command python3; then show_three; else head -n 3 "$output"; fi

echo
echo "All answers are in $output. Next, with a prompt of your own:"
echo
env | grep -E '^(OMPI_ALLOW|OMPI_MCA|PRTE_MCA)_' | sort | sed 's/^/    export /'
echo "    echo 'What can I do on a rainy day?' > prompts.txt"
printf '    mpirun -n 3 build/release/lamina generate -m %q -i prompts.txt --chat -o answers.jsonl\n' "$model"
