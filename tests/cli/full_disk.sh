#!/bin/bash
# full_disk.sh - an output that can grow no further: exit 1, a message, the answers that are in it
# whole; once there is room again --resume goes on. On a tmpfs of 64 KiB, in a mount namespace of its
# own; skipped where that is not allowed.
. "$(dirname "$0")/scene.sh"

if [ -z "${IN_NAMESPACE:-}" ]; then
    for how in -m -rm; do
        unshare "$how" true 2>/dev/null && IN_NAMESPACE=1 exec unshare "$how" "$0" "$@"
    done
    scene_skip 'unshare may make no mount namespace here'
fi

scene_open
make_requests 300 40 >in.jsonl
expect 0 '' "${one[@]}" -i in.jsonl -o undisturbed.jsonl
check "the answers are more than fit" [ "$(wc -c <undisturbed.jsonl)" -gt 70000 ]
mkdir small
mount -t tmpfs -o size=64k none small 2>/dev/null || scene_skip 'no tmpfs may be mounted here'

fills() { # COMMAND...: answers until there is no more room
    rm -f small/out.jsonl*
    mount -o remount,size=64k small
    expect 1 'cannot write to small/out.jsonl: No space left on device; the answers in it are whole' "$@"
    said_once 'No space left'
    check "some are answered" has_lines 20 small/out.jsonl
    check "not all are" [ "$(n_lines small/out.jsonl)" -lt 300 ]
    check "their lines are whole" is_whole small/out.jsonl
}

goes_on() { # COMMAND...: --resume, still without room, then with
    cp small/out.jsonl kept.jsonl
    while printf x 2>/dev/null >>small/filler; do :; done
    expect 1 'No space left on device' "$@" --resume
    check "a resume without room keeps the answers" cmp small/out.jsonl kept.jsonl
    rm small/filler
    mount -o remount,size=4m small
    expect 0 '' "$@" --resume
    check "every request is answered once" has_each_once small/out.jsonl 300
    check "as if undisturbed" same_answers small/out.jsonl undisturbed.jsonl
    check "the first ones were kept" cmp <(head -n "$(n_lines kept.jsonl)" small/out.jsonl) kept.jsonl
}

for run in one three; do
    declare -n command=$run
    fills "${command[@]}" -i in.jsonl -o small/out.jsonl
    goes_on "${command[@]}" -i in.jsonl -o small/out.jsonl
done

# No room at all: nothing is left behind.
rm -f small/*
mount -o remount,size=64k small
head -c 100000 /dev/zero 2>/dev/null >small/filler
expect 1 'No space left on device' "${one[@]}" -i in.jsonl -o small/out.jsonl
check "no output is begun" [ ! -e small/out.jsonl ]
check "no record is begun" [ "$(ls small)" = filler ]

# A trace that finds no room is one warning; the answers are elsewhere, and all of them come.
for run in one three; do
    declare -n command=$run
    rm -f small/*
    mount -o remount,size=64k small
    expect 0 'No space left on device' "${command[@]}" -i in.jsonl -o roomy.jsonl --overwrite --trace small/t.h5 --trace-steps all
    said_once 'small/t.h5'
    check "all is answered beside a full disk" same_answers roomy.jsonl undisturbed.jsonl
    check "no trace is begun" [ ! -e small/t.h5 ]
    rm -f small/*
    head -c 100000 /dev/zero 2>/dev/null >small/filler
    expect 0 'No space left on device' "${command[@]}" -i in.jsonl -o roomy.jsonl --overwrite --timeline small/t.json
    said_once 'small/t.json'
    check "all is answered beside a disk that was full" same_answers roomy.jsonl undisturbed.jsonl
done

# A limit on the size of files (ulimit -f) is the same kind of thing, though the kernel sends a
# signal for it. Set when the job runs, because MPI makes files of its own at the start.
limited() { # N OPTION...: five requests, then the limit, then all N
    local n_requests=$1 job
    shift
    rm -f limited.jsonl*
    "${one[@]}" -i pipe -o limited.jsonl "$@" 2>stderr &
    job=$!
    exec 7>pipe
    head -n 5 in.jsonl >&7
    check "the first requests are answered" try_until 60 has_lines 5 limited.jsonl
    prlimit --pid $job --fsize=8192
    head -n "$n_requests" in.jsonl | tail -n +6 >&7
    exec 7>&-
    wait $job
}
if command -v prlimit >/dev/null; then
    mkfifo pipe
    limited 300
    ended 1 'a limit on the size of files' $?
    says 'cannot write to limited.jsonl: File too large; the answers in it are whole'
    check "whole lines below a limit" is_whole limited.jsonl
    limited 10 --timeline timeline.json
    check "a timeline beyond the limit is no signal" [ $? -lt 128 ]
    says 'timeline.json'
    check "all is answered" has_each_once limited.jsonl 10
    limited 10 --trace trace.h5
    ended 0 'a trace beyond a limit on the size of files' $?
    said_once 'trace.h5'
    check "all is answered beside it" has_each_once limited.jsonl 10
fi

umount small
scene_end
