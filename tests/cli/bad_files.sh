#!/bin/bash
# bad_files.sh - files that are missing, unreadable, of the wrong kind or the same: exit 2 (1 where
# the world is at fault), one line that names the file, and nothing changed on disk. What a run refuses
# --dry-run refuses too.
. "$(dirname "$0")/scene.sh"
scene_open
make_requests 3 8 >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o good.jsonl

# untouched OUT WHAT: neither an output nor anything beside it.
untouched() {
    n_checks=$((n_checks + 1))
    compgen -G "$1*" >/dev/null && fail "left behind by $2: $(ls -d "$1"*)"
}

# foretold TEXT COMMAND...: refused, by a dry run first, which may change as little.
foretold() {
    local text=$1
    shift
    expect 2 "$text" "$@" --dry-run
    expect 2 "$text" "$@"
}

refused() { # TEXT ARGUMENT...: a fresh output is not begun
    local text=$1
    shift
    foretold "$text" "$LAMINA" generate -o out.jsonl "$@"
    said_once lamina:
    untouched out.jsonl "$*"
}

# ---- the model
mkdir folder
mkfifo pipe
head -c 64 /dev/urandom >noise
: >empty
refused 'nofile.gguf: cannot open: No such file' -m nofile.gguf -i in.jsonl
refused 'folder: not a regular file' -m folder -i in.jsonl
refused 'pipe: not a regular file' -m pipe -i in.jsonl
refused '/dev/zero: not a regular file' -m /dev/zero -i in.jsonl
refused 'noise: ' -m noise -i in.jsonl
refused 'empty: ' -m empty -i in.jsonl
refused 'in.jsonl: ' -m in.jsonl -i in.jsonl

# ---- the input
refused 'cannot read input nofile.jsonl: No such file' -m tiny.gguf -i nofile.jsonl
refused 'input folder is a folder' -m tiny.gguf -i folder
refused 'cannot read input nofile.txt: No such file' -m tiny.gguf -i in.jsonl nofile.txt
refused 'standard input (-) is given 2 times' -m tiny.gguf -i - -
cp good.jsonl kept.jsonl
cp good.jsonl.job.json kept.jsonl.job.json
foretold 'cannot read input nofile.jsonl' "${one[@]}" -i nofile.jsonl -o kept.jsonl --overwrite
check "answers outlive a mistyped input" cmp good.jsonl kept.jsonl
check "and so does their record" cmp good.jsonl.job.json kept.jsonl.job.json

# ---- the output
foretold 'nofolder/out.jsonl' "${one[@]}" -i in.jsonl -o nofolder/out.jsonl
foretold 'cannot write to folder: Is a directory' "${one[@]}" -i in.jsonl -o folder
expect 2 '/proc/out.jsonl' "${one[@]}" -i in.jsonl -o /proc/out.jsonl
foretold 'output in.jsonl is the same file as the input' "${one[@]}" -i in.jsonl -o in.jsonl --overwrite
ln -s in.jsonl link.jsonl
foretold 'output link.jsonl is the same file as the input' "${one[@]}" -i in.jsonl -o link.jsonl --resume
ln in.jsonl hard.jsonl
foretold 'output hard.jsonl is the same file as the input' "${one[@]}" -i in.jsonl -o hard.jsonl --overwrite
foretold 'output tiny.gguf is the same file as the model' "${one[@]}" -i in.jsonl -o tiny.gguf --overwrite
foretold '--errors is the same file as the output' "${one[@]}" -i in.jsonl -o out.jsonl --errors out.jsonl
foretold '--errors is the same file as the output' "${one[@]}" -i in.jsonl -o out.jsonl --errors ./out.jsonl --overwrite
untouched out.jsonl 'errors as output'
foretold 'good.jsonl exists: --resume continues it, --overwrite replaces it' "${one[@]}" -i in.jsonl -o good.jsonl
ln -s nowhere dangling.jsonl
foretold 'dangling.jsonl' "${one[@]}" -i in.jsonl -o dangling.jsonl
check "no file is made through a link" [ ! -e nowhere ]
mkdir taken.jsonl.job.json
foretold 'taken.jsonl.job.json: Is a directory' "${one[@]}" -i in.jsonl -o taken.jsonl
check "no output is begun without its record" [ ! -e taken.jsonl ]
mkdir held.jsonl.job.json.tmp
expect 2 'held.jsonl.job.json.tmp' "${one[@]}" -i in.jsonl -o held.jsonl
expect 1 'cannot write to /dev/full: No space left' "${one[@]}" -i in.jsonl -o /dev/full

# A folder that may not be written, as nobody sees it. (Root may write everywhere.)
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
    chmod 755 . && mkdir shut && cp good.jsonl shut/old.jsonl && chmod 644 tiny.gguf in.jsonl
    nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups env "TMPDIR=$PWD/nobody" "HOME=$PWD/nobody")
    mkdir nobody && chown 65534 nobody
    if "${nobody[@]}" test -x "$LAMINA" -a -r tiny.gguf; then
        foretold 'shut/out.jsonl' "${nobody[@]}" "${one[@]}" -i in.jsonl -o shut/out.jsonl
        foretold 'shut/old.jsonl' "${nobody[@]}" "${one[@]}" -i in.jsonl -o shut/old.jsonl --overwrite
        check "what was there stays" cmp shut/old.jsonl good.jsonl
        chmod 600 tiny.gguf
        foretold 'tiny.gguf: cannot open: Permission denied' "${nobody[@]}" "${one[@]}" -i in.jsonl -o nobody/out.jsonl
        chmod 644 tiny.gguf && chmod 600 in.jsonl
        foretold 'cannot read input in.jsonl: Permission denied' "${nobody[@]}" "${one[@]}" -i in.jsonl -o nobody/out.jsonl
    fi
fi

# ---- standard streams that are closed: what is opened next is not taken for them
expect 1 'cannot write to stdout: Bad file descriptor' bash -c 'exec "$@" >&-' - "${one[@]}" -i in.jsonl -o -
expect 1 'stdin:1: reading failed: Bad file descriptor' bash -c 'exec "$@" <&-' - "${one[@]}" -i - -o closed.jsonl
for closed in '<&-' '>&-' '2>&-' '<&- >&- 2>&-'; do
    rm -f closed.jsonl*
    expect 0 '' bash -c 'exec "$@" '"$closed" - "${one[@]}" -i in.jsonl -o closed.jsonl
    check "the answers with $closed" same_answers closed.jsonl good.jsonl
done

# ---- what a resume finds
again() { # CODE TEXT OPTION...: resume a copy of the good output
    local code=$1 text=$2
    shift 2
    [ "$code" -eq 2 ] && expect 2 "$text" "${one[@]}" -i in.jsonl -o r.jsonl --resume "$@" --dry-run
    expect "$code" "$text" "${one[@]}" -i in.jsonl -o r.jsonl --resume "$@"
}
restore() {
    cp good.jsonl r.jsonl
    cp good.jsonl.job.json r.jsonl.job.json
}
restore
again 0 ''
check "all answered: nothing is touched" cmp good.jsonl r.jsonl
for damage in '{"broken' '' '[1]' 'null' '{}'; do
    printf '%s' "$damage" >r.jsonl.job.json
    again 2 r.jsonl.job.json
    check "answers stay with a corrupt job file" cmp good.jsonl r.jsonl
done
head -c 20000 /dev/urandom >r.jsonl.job.json
again 2 'r.jsonl.job.json, which says what the answers were made with, is damaged'
rm r.jsonl.job.json
again 2 'r.jsonl.job.json, which says what the answers were made with, is not there'
check "a job file is not left behind" [ ! -e r.jsonl.job.json ]
restore
sed -i 's/"version": 1/"version": 2/' r.jsonl.job.json
again 2 'version was 2 and is now 1'
restore
again 2 '--kv-type was "bf16" and is now "f32"' --kv-type f32
again 2 '--seed was "0" and is now "7"' --seed 7
cp in.jsonl other.jsonl
foretold 'input 1 was "in.jsonl" and is now "other.jsonl"' "${one[@]}" -i other.jsonl -o r.jsonl --resume
"$MAKE_GGUF" --seed 2 -o other.gguf
foretold 'cannot resume: model was' "$LAMINA" generate -m other.gguf -i in.jsonl -o r.jsonl --resume
check "answers stay where a resume is refused" cmp good.jsonl r.jsonl
{ echo garbage && cat good.jsonl; } >r.jsonl
again 2 'r.jsonl:1: not an answer of lamina, though answers follow'
restore
head -c -20 good.jsonl >r.jsonl
again 0 'r.jsonl: cut off'
check "a torn line is answered again" same_answers good.jsonl r.jsonl
printf '{"id":"batch' >>r.jsonl
again 0 'r.jsonl: cut off 12 bytes'
check "a torn tail is cut off" same_answers good.jsonl r.jsonl

scene_end
