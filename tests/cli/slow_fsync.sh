#!/bin/bash
# slow_fsync.sh - decode never waits for the disk: where every fsync and rename takes 200 ms, all writes
# and syncs of the output are the helper thread's, the status file is replaced by it too, and the main
# thread syncs and renames nothing while the job runs.
# (How much slower decode gets is a benchmark: jobs/bench-fsync.sh.)
. "$(dirname "$0")/scene.sh"
: "${SLOW_FSYNC:?the module to preload}"
scene_open
if ldd "$LAMINA" | grep -qE 'lib[at]san'; then scene_skip 'a sanitizer wants to be loaded first'; fi
make_requests 40 30 >in.jsonl
mkfifo pipe

# The answers are synced every 5 s and at the end: requests come in two parts, 6 s apart.
slow() { # COMMAND...
    rm -f out.jsonl* report
    env LD_PRELOAD="$SLOW_FSYNC" SLOW_FSYNC_MS=200 SLOW_FSYNC_NAME=/out.jsonl SLOW_FSYNC_REPORT="$PWD/report" \
        "$@" -i pipe -o out.jsonl --output-order input --status status.json --progress-interval 0.3 2>stderr &
    local job=$!
    exec 7>pipe
    head -n 20 in.jsonl >&7
    check "the first half is answered" try_until 60 has_lines 20 out.jsonl
    sleep 6
    tail -n +21 in.jsonl >&7
    exec 7>&-
    wait $job
    ended 0 "$*" $?
    check "every request is answered" has_each_once out.jsonl 40
    check "the shim saw the output" [ -s report ]
    check "the helper writes" [ "$(number write 'lamina desk')" -eq 40 ]
    check "the helper syncs, at 5 s and at the end" [ "$(number fsync 'lamina desk')" -ge 2 ]
    check "the main thread writes no answer" [ "$(number write main)" -eq 0 ]
    check "the main thread syncs no answer" [ "$(number fsync main)" -eq 0 ]
    check "nor anything else while the job runs" [ "$(number late-fsync main)" -eq 0 ]
    check "the helper replaces the status file" [ "$(number late-rename 'lamina desk')" -ge 5 ]
    check "the main thread does so when the job has ended" [ "$(number late-rename main)" -eq 1 ]
    check "and then it says so" grep -q '"state":"done","exit_code":0,.*"completed":40,' status.json
    check "nobody else does" [ "$(grep -cvE ' (main|lamina desk) ' report)" -eq 0 ]
}

number() { # CALL THREAD
    local n
    n=$(sed -n "s/^$1 $2 //p" report)
    echo "${n:-0}"
}

slow "${one[@]}"
slow "${three[@]}"
scene_end
