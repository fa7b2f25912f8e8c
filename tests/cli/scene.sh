# shellcheck shell=bash disable=SC2034
# scene.sh - what every test of the program itself stands on; sourced.
#
# A test runs in a folder of its own, removed at its end, in which lies a tiny random model,
# tiny.gguf. LAMINA, MAKE_GGUF and MPIRUN name the programs (ctest sets them). A failed expectation is
# told at once and remembered; scene_end gives the verdict. Every command has a time limit: a hang is
# a failure, not a wait.
set -uo pipefail

: "${LAMINA:?the program under test}" "${MAKE_GGUF:?the maker of models}" "${MPIRUN:=mpirun}"
CLI_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=1 LC_ALL=C
n_checks=0
n_failures=0
limit=120 # seconds a command may take
model=()  # options of make_gguf for tiny.gguf

scene_open() {
    scene=$(mktemp -d "$PWD/scene_XXXXXX")
    trap 'scene_close' EXIT
    cd "$scene" || exit 1
    exec </dev/null
    "$MAKE_GGUF" "${model[@]}" -o tiny.gguf || exit 1
    one=("$LAMINA" generate -m tiny.gguf)
    three=("$MPIRUN" -n 3 "${one[@]}")
}

scene_close() {
    cd / && rm -rf "$scene"
}

scene_end() {
    echo "$n_checks expectations, $n_failures failed"
    [ "$n_checks" -gt 0 ] && [ "$n_failures" -eq 0 ]
    exit
}

scene_skip() {
    echo "skipped: $*"
    exit 77
}

fail() {
    n_failures=$((n_failures + 1))
    echo "FAILED: $*"
    return 1
}

# check WHAT COMMAND...: the command must succeed.
check() {
    local what=$1
    shift
    n_checks=$((n_checks + 1))
    "$@" || fail "$what: $*"
}

# ended CODE COMMAND-LINE GOT: compare an exit code, and show what was said when it differs.
ended() {
    n_checks=$((n_checks + 1))
    [ "$3" -eq "$1" ] && return
    fail "exit code $3, not $1: $2"
    tail -n 20 stderr
    return 1
}

# expect CODE TEXT COMMAND...: it ends with this code and says this text. Its output is in stdout
# and stderr; a time limit gives 124.
expect() {
    local code=$1 text=$2 got
    shift 2
    timeout -k 5 "$limit" "$@" >stdout 2>stderr
    got=$?
    ended "$code" "$*" "$got" && says "$text"
}

# says TEXT...: the messages hold each.
says() {
    local text
    for text in "$@"; do
        [ -z "$text" ] && continue
        n_checks=$((n_checks + 1))
        grep -qF -- "$text" stderr && continue
        fail "not said: $text"
        tail -n 20 stderr
    done
}

# said_once TEXT: on one line, whatever the number of ranks.
said_once() {
    n_checks=$((n_checks + 1))
    [ "$(grep -cF -- "$1" stderr)" -eq 1 ] && return
    fail "not said once: $1"
    tail -n 20 stderr
}

# try_until SECONDS COMMAND...: until it succeeds; false when it never does.
try_until() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -ge "$until" ] && return 1
        sleep 0.05
    done
}

# ---- requests and answers ----

# make_requests N MOST: N requests of 1 to MOST tokens, by fixed arithmetic.
make_requests() {
    local number
    for ((number = 1; number <= $1; number++)); do
        printf '{"custom_id":"r%d","method":"POST","url":"/v1/completions","body":' "$number"
        printf '{"prompt":"Say %d","max_tokens":%d,"ignore_eos":true}}\n' \
            "$number" $((number * 37 % $2 + 1))
    done
}

n_lines() { # 0 without the file
    if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi
}

has_lines() { [ "$(n_lines "$2")" -ge "$1" ]; }

# custom_ids of an output, sorted.
ids_of() { sed -n 's/^{"id":"[^"]*","custom_id":"\([^"]*\)".*/\1/p' "$1" | sort; }

# The answers of an output in an order of their own (an id is made from the custom_id), without what
# tells when they were made.
settled() { sed 's/"created":[0-9]*,//' "$1" | sort; }

same_answers() { cmp <(settled "$1") <(settled "$2"); }

# Every line of an output is whole.
is_whole() {
    [ ! -s "$1" ] || { [ -z "$(tail -c 1 "$1")" ] && ! grep -qvE '^\{"id":"batch_req_[0-9a-f]{32}","custom_id":.*,"error":(null|\{.*\})\}$' "$1"; }
}

has_each_once() { # FILE N: r1 ... rN
    cmp <(ids_of "$1") <(seq -f 'r%.0f' "$2" | sort)
}

# ---- processes ----

children_of() { cat /proc/"$1"/task/*/children 2>/dev/null; }

# The leader's process, as the job file tells it.
leader_of() { sed -n 's/^ *"pid": \([0-9]*\).*/\1/p' "$1.job.json" 2>/dev/null; }

# Of a process that this shell started: it need not be waited for any more.
has_ended() { ! kill -0 "$1" 2>/dev/null; }

# Of any process: not there, or dead and not yet collected.
is_gone() { [ ! -d "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

are_gone() { # PID...
    local process
    for process in "$@"; do is_gone "$process" || return 1; done
}
