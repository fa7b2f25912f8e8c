#!/bin/bash
# bad_layout.sh - layouts that cannot be: exit 2 through mpirun, one line with the numbers, said once
# whatever the number of ranks, and no file touched. A rank with nothing to do is refused where the
# layout says so, and idles where only the requests leave it without work.
. "$(dirname "$0")/scene.sh"
scene_open
make_requests 3 8 >in.jsonl
good=("${one[@]}" -i in.jsonl -o out.jsonl)

refused() { # TEXT RANKS OPTION...
    local text=$1 n_ranks=$2
    shift 2
    expect 2 "$text" "$MPIRUN" -n "$n_ranks" "${good[@]}" "$@"
    said_once lamina:
    check "nothing is left behind by $*" [ ! -e out.jsonl ] && check "nor a job file" [ ! -e out.jsonl.job.json ]
}

mixed() { # TEXT ARGUMENT...: an MPMD launch
    local text=$1
    shift
    expect 2 "$text" "$MPIRUN" "$@"
    said_once lamina:
    check "nothing is left behind" [ ! -e out.jsonl ]
}

refused '1 + 1 = 2, but mpirun started 3' 3 --model-ranks 1 --attention-ranks 1
refused '--attention-ranks 3 leaves no rank for the model: 1 + 3 = 4 MPI ranks are needed, and there are 3' 3 --attention-ranks 3
refused '--model-ranks 2 is not built yet' 2 --model-ranks 2
refused 'more than one model rank' 2 --attention-ranks 0
refused '--partition heads=4,sequences=1: 4 x 1 = 4, but there are 2 attention ranks' 3 --partition heads=4
refused '--partition heads=2,sequences=2: 2 x 2 = 4, but there are 3' 4 --partition heads=2,sequences=2
refused 'the model has 3 KV heads, so 1 attention ranks would have nothing to do' 5 --partition heads=4
refused '--nonsense' 2 --nonsense
refused 'exceeds the model' 3 --context 99999
refused 'holds no page' 3 --kv-tokens 63
refused 'cannot read input nofile.jsonl' 3 -i nofile.jsonl
expect 2 'nofile.gguf: cannot open' "$MPIRUN" -n 3 "$LAMINA" generate -m nofile.gguf -i in.jsonl -o out.jsonl
said_once lamina:
expect 2 'nofolder/out.jsonl' "${three[@]}" -i in.jsonl -o nofolder/out.jsonl
said_once lamina:

mixed '--model-ranks 2' -n 1 "${good[@]}" --role model : -n 1 "${good[@]}" --role model
mixed 'all 2 ranks were started with --role attention' -n 1 "${good[@]}" --role attention : -n 1 "${good[@]}" --role attention
mixed '--role is given for some components of the job and not for 1 of its 2' -n 1 "${good[@]}" --role model : -n 1 "${good[@]}"
mixed 'rank 1 was started with other options' -n 1 "${good[@]}" --role model : -n 1 "${good[@]}" --role attention --kv-type f32
mixed 'rank 1 was started with other options' -n 1 "${good[@]}" : -n 1 "${good[@]}" --slots 1
mixed '--nonsense' -n 1 "${good[@]}" : -n 1 "${good[@]}" --nonsense
mixed 'no requests' -n 1 "${good[@]}" --role model : -n 1 "${one[@]}" -o out.jsonl --role attention

# The model on the second component is the leader still.
expect 0 '' "$MPIRUN" -n 1 "${good[@]}" --role attention : -n 1 "${good[@]}" --role model
expect 0 '' "${one[@]}" -i in.jsonl -o one.jsonl
check "the same answers" same_answers out.jsonl one.jsonl

# Three requests over four owners of sequences: one rank has nothing to do, and all ends well.
expect 0 '' "$MPIRUN" -n 5 "${one[@]}" -i in.jsonl -o idle.jsonl --partition sequences=4
check "the same answers beside an idle rank" same_answers idle.jsonl one.jsonl

scene_end
