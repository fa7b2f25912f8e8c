#!/bin/sh
# The tokenizer against the ids that llama.cpp publishes with its vocabulary files: every vocabulary
# that comes with texts (.inp) and ids (.out). They lie in the source archive of a Python package,
# which is downloaded once into CACHE, or found under LAMINA_PEER_SDIST (the unpacked archive).
#
#   peers_tokenizer.sh PROGRAM CACHE
#
# Exit 0: all supported ones equal; 1: one differs; 77: the archive cannot be had.
set -u
program=$1 cache=$2
package=llama-cpp-python version=0.3.36 folder=llama_cpp_python-0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

if [ -n "${LAMINA_PEER_SDIST:-}" ]; then
    root=$LAMINA_PEER_SDIST
else
    root=$cache/$folder
    if [ ! -d "$root" ]; then
        mkdir -p "$cache" || exit 1
        archive=$cache/$folder.tar.gz
        if [ ! -f "$archive" ]; then
            echo "downloading $package $version into $cache"
            python3 -m pip download --quiet --no-deps --no-binary $package -d "$cache" \
                $package==$version || { echo "$package $version cannot be downloaded"; exit 77; }
        fi
        echo "$sha256  $archive" | sha256sum --check --quiet || exit 1
        rm -rf "$root.part"
        mkdir "$root.part" && tar -xzf "$archive" -C "$root.part" --strip-components=1 \
            $folder/vendor/llama.cpp/models && mv "$root.part" "$root" || exit 1
    fi
fi

models=$root/vendor/llama.cpp/models
n_equal=0 n_differ=0 n_unsupported=0
for texts in "$models"/*.gguf.inp; do
    vocabulary=${texts%.inp}
    [ -f "$vocabulary" ] && [ -f "$vocabulary.out" ] || continue
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
