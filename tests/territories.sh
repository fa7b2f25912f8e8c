#!/bin/bash
# territories.sh - some things have one place (docs/design.md section 2): fail on one found elsewhere.
#
# Comments and strings are taken out first. tests/territories.sh DIR checks another tree (used by the
# test of this test).
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"

# The code of every file once, without comments, string and character literals.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bare() {
    gcc -fpreprocessed -dD -E -P -w -x c "$1" 2>/dev/null | sed -E 's/"([^"\\]|\\.)*"//g; s/'"'"'([^'"'"'\\]|\\.)'"'"'//g'
}

while read -r file; do
    mkdir -p "$work/$(dirname "$file")"
    bare "$file" >"$work/$file"
done < <(find src include cuda -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' | sort)

failures=0
# only WHAT PATTERN ALLOWED: code outside the files that match ALLOWED must not match PATTERN.
only() {
    local what=$1 pattern=$2 allowed=$3 file found
    while read -r file; do
        [[ $file =~ ^($allowed)$ ]] && continue
        found=$(grep -nE "$pattern" "$work/$file" | head -n 3)
        printf '%s: %s may not stand here:\n%s\n' "$file" "$what" "$found"
        failures=$((failures + 1))
    done < <(cd "$work" && grep -rlE "$pattern" . | sed 's,^\./,,' | sort)
}

only 'a call of MPI' '\bMPI_[A-Z][a-z]\w* *\(|include *<mpi\.h>' \
    'src/run/topology\.c|src/wire/mpi\.c|src/base/check\.c|src/main\.c|cuda/wire_.*'
only 'CUDA, cuBLAS or NCCL' 'include *<(cuda|cublas|nccl)|\b(cuda|cublas|nccl)[A-Z]\w* *\(' 'cuda/.*'
only 'HDF5' 'include *<(hdf5|H5\w*)\.h>|\bH5[A-Z]\w* *\(' 'src/job/(checkpoint|trace).*|src/main\.c'
only 'getenv or argv' '\b(secure_)?getenv *\(|\bargv\b' 'src/job/options.*|src/main\.c|include/(options|generate)\.h|src/command/generate\.c'
only 'an exit' '\b(_?exit|_Exit|abort|quick_exit|MPI_Abort) *\(' 'src/base/check\.c'
only 'an implementation behind a seam' '\b(device_cpu|device_cuda|wire_mpi|wire_nccl|wire_device)\b' \
    'src/device/cpu\.c|src/wire/mpi\.c|include/(device|wire)\.h|src/command/\w+\.c|src/main\.c|cuda/.*'
only 'an allocation without a check' '\b(malloc|calloc|strdup) *\(' 'src/base/check\.c'

# Rooms look down: who may include whose private or public headers.
below() {
    local room=$1 forbidden=$2 file
    while read -r file; do
        if grep -nE "^#include \"($forbidden)\.h\"" "$file"; then
            printf '%s: %s may not look there\n' "$file" "$room"
            failures=$((failures + 1))
        fi
    done < <(find "$room" -name '*.[ch]' -o -name '*.inc' | sort)
}
below src/device 'model|graph|program|kv|batch|decode|gguf|tokenizer|requests|results|desk|topology'
below src/wire 'model|graph|program|kv|batch|decode|gguf|tokenizer|requests|results|desk'
below src/base 'device|quant|wire|model|gguf|graph|program|weights|kv|batch|decode|topology|schedule|options|requests|results|desk|tokenizer|template|trace|report'
below src/model 'batch|decode|kv|topology|wire|desk|requests|results|report'
below src/text 'batch|decode|kv|topology|wire|desk|requests|results|report|device'
below src/run 'report|generate|slices|inspect|results|requests|tokenizer|template'

[ "$failures" -eq 0 ] && echo "every territory is kept"
exit $((failures > 0))
