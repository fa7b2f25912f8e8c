# shellcheck shell=sh disable=SC2154,SC2034
# Sourced by peers_*.sh with $cache set: finds or downloads the source archive of the Python package that
# carries llama.cpp's vocabularies and chat templates, and sets $root to its folder. Exits 77 when it
# cannot be had. LAMINA_PEER_SDIST names an unpacked archive to use instead.
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
        part=$(mktemp -d "$cache/part.XXXXXX") || exit 1
        tar -xzf "$archive" -C "$part" --strip-components=1 $folder/vendor/llama.cpp/models || exit 1
        mv -T "$part" "$root" 2>/dev/null || [ -d "$root" ] || exit 1
    fi
fi
models=$root/vendor/llama.cpp/models
