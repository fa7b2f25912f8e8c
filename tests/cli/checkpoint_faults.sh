#!/bin/bash
# checkpoint_faults.sh - what can be wrong with a folder of checkpoints, and what comes of it: never a wrong
# token, never an answer lost. Folders without room are on a tmpfs in a mount namespace of its own; where
# that is not allowed these are left out, and told.
. "$(dirname "$0")/scene.sh"

if [ -z "${IN_NAMESPACE:-}" ]; then
    for how in -m -rm; do
        unshare "$how" true 2>/dev/null && IN_NAMESPACE=1 exec unshare "$how" "$0" "$@"
    done
fi

scene_open
n_requests=40
make_requests $n_requests 500 >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl

# One stopped job with two checkpoints; every case starts from a copy.
"${three[@]}" -i in.jsonl -o out.jsonl --checkpoint kept --checkpoint-interval 0.5 2>stderr &
job=$!
check "answers come" try_until 120 has_lines 3 out.jsonl
check "two checkpoints come" try_until 120 grep -q 'checkpoint 2:' stderr
kill -USR1 $job
wait $job
ended 75 'stopped by USR1' $?
mkdir stopped
mv out.jsonl out.jsonl.job.json kept stopped
number=$(sed -n 's/^ *"number": \([0-9]*\).*/\1/p' stopped/kept/manifest.json | sort -n | tail -n 1)
newest=kept/$(printf 'c%06d' "$number")

begin() {
    rm -rf out.jsonl* kept
    cp -a stopped/. .
}

goes_on() { # WHAT TEXT OPTION...: the job is finished as if nothing had been wrong, and TEXT is said
    local what=$1 text=$2
    shift 2
    expect 0 "$text" "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept "$@"
    check "every request is answered once: $what" has_each_once out.jsonl $n_requests
    check "as if undisturbed: $what" same_answers out.jsonl undisturbed.jsonl
}

refused() { # CODE TEXT: nothing is touched
    local kept
    kept=$(cd kept && cksum ./c* manifest.json)
    expect "$1" "$2" "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept
    check "answers stay: $2" cmp out.jsonl stopped/out.jsonl
    check "the checkpoint stays: $2" [ "$(cd kept && cksum ./c* manifest.json)" = "$kept" ]
}

flip() { # FILE OFFSET: one bit
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\x$(printf %x $((byte ^ 16)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

begin
goes_on 'nothing wrong' 'it is read' --restore kv

# KV files: the sequences in them are computed again.
begin
rm "${newest}-kv-owner0-share0.h5"
goes_on 'a KV file is missing' 'computed again' --restore kv
begin
truncate -s -5000 "${newest}-kv-owner0-share0.h5"
goes_on 'a KV file is truncated' 'computed again' --restore kv
begin
size=$(stat -c %s "${newest}-kv-owner0-share1.h5")
for ((at = size / 4; at < size; at += size / 5)); do flip "${newest}-kv-owner0-share1.h5" $at; done
goes_on 'bits of a KV file are flipped' '' --restore kv
begin
: >"${newest}-kv-owner0-share0.h5"
goes_on 'a KV file is empty' 'computed again' --restore kv

# The leader's file: the checkpoint before counts.
begin
truncate -s -100 "$newest-progress.h5"
goes_on 'progress is truncated' "checkpoint $number cannot be used"
says "checkpoint $((number - 1)) of"
begin
rm "$newest-progress.h5"
goes_on 'progress is missing' "checkpoint $number cannot be used"
begin
rm kept/c*-progress.h5
goes_on 'no progress is left' "checkpoint $((number - 1)) cannot be used"
begin
rm "$newest.h5"
goes_on 'the file that shows all is missing' 'it is read' --restore kv

# What a writer that was killed has left goes with the next run's first checkpoint, on any layout.
begin
next=kept/$(printf 'c%06d' $((number + 1)))
touch "$next-kv-owner0-share1.h5.tmp" "$next-progress.h5" kept/mine.h5
expect 0 '' "${one[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept --keep-checkpoint
check "a killed writer's files are gone" [ -z "$(ls "$next"* 2>/dev/null)" ]
check "others stay" [ -e kept/mine.h5 ]

# The manifest.
begin
rm kept/manifest.json
goes_on 'no manifest' 'kept holds no checkpoint of this job that can be used: anything that was in flight is computed again'
begin
goes_on 'a folder that was not meant' 'kpet holds no checkpoint of this job that can be used' --checkpoint kpet
begin
echo '{"format":' >kept/manifest.json
refused 1 'manifest.json: damaged: not a manifest of checkpoints; delete it'
rm kept/manifest.json
goes_on 'a damaged manifest is deleted' ''
begin
sed -i 's/"write_s": */&1/' kept/manifest.json
refused 1 'its checksum is another; delete it, and what was in flight is computed again'
begin
sed -i 's/"format_version": *"1\.[0-9]*"/"format_version": "2.0"/' kept/manifest.json
refused 2 'is of format 2, and this lamina reads format 1: use the newer one'
begin
sed -i 's/"format_version": *"1\.[0-9]*"/"format_version": "0.9"/' kept/manifest.json
refused 2 'is of format 0, and this lamina reads format 1: use the older one'

# Nothing is emptied before all that can be wrong has been asked.
untouched() { # CODE TEXT OPTION...: of a new job on the old output
    local code=$1 text=$2
    shift 2
    expect "$code" "$text" "${one[@]}" -i in.jsonl -o out.jsonl "$@"
    check "answers stay: $text" cmp out.jsonl stopped/out.jsonl
    check "their record stays: $text" cmp out.jsonl.job.json stopped/out.jsonl.job.json
}
begin
echo '{"format":' >kept/manifest.json
untouched 1 'manifest.json' --overwrite --checkpoint kept
untouched 2 'asks Slurm, and this is no job of it' --overwrite --time-limit auto
begin
sed -i 's/"format_version": *"1\.[0-9]*"/"format_version": "2.0"/' kept/manifest.json
untouched 2 'is of format 2' --overwrite --checkpoint kept
begin
expect 2 'needs an output that is a file' "${one[@]}" -i in.jsonl -o - --errors out.jsonl --overwrite --checkpoint kept
check "errors stay" cmp out.jsonl stopped/out.jsonl
untouched 2 'exists: --resume continues it' --checkpoint new_folder
check "a folder made in vain is taken away" [ ! -e new_folder ]
mkfifo never
exec 7<>never
"${one[@]}" -i never -o theirs.jsonl --checkpoint theirs 2>their_stderr &
job=$!
check "another job has its folder" try_until 60 [ -e theirs/manifest.json ]
untouched 1 'is held by' --overwrite --checkpoint theirs
kill -KILL $job
wait $job 2>/dev/null
exec 7>&-
rm -rf theirs* never

# Another job's, another model's, other options.
begin
head -n 5 in.jsonl >few.jsonl
expect 0 '' "${one[@]}" -i few.jsonl -o few_out.jsonl --checkpoint theirs --checkpoint-interval 0.001 --keep-checkpoint
mv kept own
mv theirs kept
refused 2 'belongs to another job'
cp stopped/out.jsonl whole.jsonl
printf '{"id":' | tee -a out.jsonl >>stopped/out.jsonl # a torn line, which a resume would cut off
refused 2 'belongs to another job'
mv whole.jsonl stopped/out.jsonl
expect 2 'belongs to another job' "${one[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept --dry-run
expect 2 'belongs to another job' "${one[@]}" -i in.jsonl -o fresh.jsonl --resume --checkpoint kept
check "an output is not made in vain" [ ! -e fresh.jsonl ]
rm -r own
begin
expect 2 '--kv-type was' "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept --kv-type f32
check "answers stay" cmp out.jsonl stopped/out.jsonl
begin
expect 2 '--seed was' "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept --seed 7
begin
"$MAKE_GGUF" --seed 2 -o tiny.gguf
expect 2 'model was' "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint kept
"$MAKE_GGUF" -o tiny.gguf
check "answers stay" cmp out.jsonl stopped/out.jsonl

# A file in the place of a temporary one: nothing is written through a link.
begin
echo precious >precious
for name in manifest.json checkpoint.job.json; do
    ln -sf "$PWD/precious" "kept/$name.tmp"
done
goes_on 'links in the folder' ''
check "what a link leads to stays" [ "$(cat precious)" = precious ]

# A folder that may not be written; to root nothing is forbidden, so only where the file system says so.
mkdir small
if [ -n "${IN_NAMESPACE:-}" ] && mount -t tmpfs -o size=16m none small 2>/dev/null; then
    begin
    cp -a kept/. small
    mount -o remount,ro small
    expect 2 'small' "${three[@]}" -i in.jsonl -o out.jsonl --resume --checkpoint small
    check "answers stay" cmp out.jsonl stopped/out.jsonl
    mount -o remount,rw small
    rm -rf small/*

    # No room for the KV cache: tokens only. No room for anything: a warning, and the run goes on.
    rm -f out.jsonl*
    mount -o remount,size=400k small
    expect 0 'this checkpoint keeps tokens only' "${three[@]}" -i in.jsonl -o out.jsonl --checkpoint small \
        --checkpoint-interval 0.5 --keep-checkpoint
    check "as if undisturbed, with little room" same_answers out.jsonl undisturbed.jsonl
    says 'KiB free in small: tokens only are kept'
    rm -rf out.jsonl* small/*
    mount -o remount,size=100m small # one checkpoint fits at most, two need not
    expect 0 'MiB free in small: the KV cache is kept where there is room, else tokens only' "${one[@]}" -i few.jsonl \
        -o roomy.jsonl --checkpoint small --kv-tokens 64000
    expect 0 'MiB free in small: the KV cache is kept' "${one[@]}" -i few.jsonl -o roomy.jsonl --overwrite \
        --checkpoint small --kv-tokens 6400
    check "that is for good" [ -z "$(grep 'where there is room' stderr)" ]
    mount -o remount,size=400k small
    "${three[@]}" -i in.jsonl -o out.jsonl --checkpoint small --checkpoint-interval 0.5 2>stderr &
    job=$!
    check "answers come" try_until 60 has_lines 2 out.jsonl
    until has_ended $job; do # what is deleted meanwhile too
        dd if=/dev/zero of=small/filler bs=4k oflag=append conv=notrunc status=none 2>/dev/null
        sleep 0.02
    done
    wait $job
    ended 0 'a folder that is full' $?
    says 'failed, the one before stays'
    check "as if undisturbed, without room" same_answers out.jsonl undisturbed.jsonl

    # Full from the beginning: what is there is read, nothing is kept, and the run goes on all the same.
    fill() { head -c 32M /dev/zero >small/filler 2>/dev/null; }
    rm -rf small/*
    begin
    mount -o remount,size=16m small
    mv kept small
    fill
    expect 0 'No space left on device: the run goes on, and every checkpoint tries again' "${three[@]}" \
        -i in.jsonl -o out.jsonl --resume --checkpoint small/kept --checkpoint-interval 0.2 --restore kv
    says 'it is read' 'choices go on where they stopped' 'failed, the one before stays'
    check "as if undisturbed, with a full folder to go on from" same_answers out.jsonl undisturbed.jsonl
    rm -rf out.jsonl* small/kept
    fill
    full='; 0 B free in small/new: none is kept until there is room, and the run goes on'
    expect 0 "$full" "${one[@]}" -i few.jsonl -o out.jsonl --checkpoint small/new --dry-run
    check "nothing is left" [ "$(ls -A small)" = filler ]
    expect 0 'No space left on device: the run goes on' "${one[@]}" -i few.jsonl -o out.jsonl --checkpoint small/new
    says "$full"
    check "all is answered" same_answers out.jsonl few_out.jsonl
    rm -rf small/*
    mount -o remount,nr_inodes=1 small
    expect 0 'cannot make small/new: No space left on device: the run goes on' "${one[@]}" -i few.jsonl \
        -o out.jsonl --overwrite --dry-run --checkpoint small/new
    expect 0 'cannot make small/new: No space left on device: the run goes on' "${one[@]}" -i few.jsonl \
        -o out.jsonl --overwrite --checkpoint small/new --checkpoint-interval 0.01
    says 'checkpoint 1 failed'
    check "all is answered, without a folder" same_answers out.jsonl few_out.jsonl
    umount small
else
    echo 'left out: folders without room (no tmpfs may be mounted here)'
fi

scene_end
