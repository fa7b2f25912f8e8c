#!/bin/bash
# run.sh - install what the tests need, build, run them.
#
#   tests/run.sh [--no-install] [--preset NAME] [arguments of ctest...]
#
# Without arguments all tests run but those labelled `long`; `tests/run.sh -L unit` runs the tests of
# single modules, `tests/run.sh -L long` the long ones. --no-install names missing packages and
# stops. Presets are release (default), debug and asan; each builds into build/NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
. jobs/setup.sh

install=yes
preset=release
while [ $# -gt 0 ]; do
    case $1 in
    --no-install) install=no ;;
    --preset)
        preset=$(setup_value "$@")
        shift
        ;;
    -h | --help) setup_help tests/run.sh ;;
    *) break ;;
    esac
    shift
done

setup_packages "$install" build tests
# The test of the job templates starts a Slurm of its own, which takes root; it is skipped without.
if [ "$(id -u)" = 0 ] && setup_packages "$install" slurm; then :; fi
# Tests with the real model are skipped without it, and say so.
if [ ! -f "$setup_model_file" ] && setup_packages "$install" model; then :; fi
setup_model || setup_say "Tests with the real model will be skipped."
setup_packages "$install" h5py || setup_say "What other programs read of a checkpoint will not be tested."
setup_mpi 4

cmake --preset "$preset"
cmake --build --preset "$preset" -j "$(nproc)"
select=(-LE '^long$')
case " $* " in *long*) select=() ;; esac
exec ctest --test-dir "build/$preset" --output-on-failure -j "$(nproc)" "${select[@]}" "$@"
