#!/bin/sh
# The tokenizer against the ids that llama.cpp publishes with its vocabulary files: every vocabulary
# that comes with texts (.inp) and ids (.out). peers_sdist.sh says where they come from.
#
#   peers_tokenizer.sh PROGRAM CACHE
#
# Exit 0: all supported ones equal; 1: one differs; 77: the archive cannot be had.
set -u
program=$1 cache=$2
# shellcheck source=tests/peers_sdist.sh
. "$(dirname "$0")/peers_sdist.sh"

n_equal=0 n_differ=0 n_unsupported=0
for texts in "$models"/*.gguf.inp; do
    vocabulary=${texts%.inp}
    if [ ! -f "$vocabulary" ] || [ ! -f "$vocabulary.out" ]; then continue; fi
    name=$(basename "$vocabulary" .gguf)
    output=$("$program" "$vocabulary" "$texts" "$vocabulary.out")
    case $? in
    0) verdict=equal n_equal=$((n_equal + 1)) ;;
    77) verdict=unsupported n_unsupported=$((n_unsupported + 1)) ;;
    *) verdict=DIFFERS n_differ=$((n_differ + 1)) ;;
    esac
    printf '%-28s %-12s %s\n' "$name" $verdict "$(printf '%s' "$output" | tail -n 1 | sed 's/.*gguf: //')"
    [ $verdict != DIFFERS ] || printf '%s\n' "$output"
done
echo "$n_equal equal, $n_differ differ, $n_unsupported unsupported"
[ $n_equal -gt 0 ] && [ $n_differ -eq 0 ]
