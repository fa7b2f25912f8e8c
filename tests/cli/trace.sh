#!/bin/bash
# trace.sh - the trace of real runs: what another reader finds in the HDF5 file is what the run said of
# itself; a timeline made of it is the run's own; journals that a killed run left become the same; a
# signal, a file that cannot be made and a folder that is too deep are no matter.
. "$(dirname "$0")/scene.sh"
scene_open
make_requests 30 25 >in.jsonl

# ---- another reader: h5py, or HDF5's own h5dump ----

for python in python3 /usr/bin/python3 ''; do # Debian's h5py is for Debian's Python
    [ -n "$python" ] && "$python" -c 'import h5py' 2>/dev/null && break
done
[ -n "$python" ] || command -v h5dump >/dev/null || scene_skip 'neither h5py nor h5dump is here to read HDF5 with'

# unpack FILE: every dataset as a file in FILE.d, an element a line, of enumerations the names.
unpack() {
    rm -rf "$1.d"
    if [ -n "$python" ]; then
        "$python" - "$1" <<'END'
import os, sys, h5py
def write(name, data):
    if not isinstance(data, h5py.Dataset):
        return
    assert data.attrs["unit"]
    names = h5py.check_enum_dtype(data.dtype)
    names = {number: text for text, number in names.items()} if names else None
    path = os.path.join(sys.argv[1] + ".d", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        for element in data[:]:
            text = names[element] if names else element.decode() if isinstance(element, bytes) else element
            print(text, file=file)
h5py.File(sys.argv[1], "r").visititems(write)
END
    else
        local name
        for name in $(h5ls -r "$1" | awk '$2 == "Dataset" { print $1 }'); do
            mkdir -p "$1.d/$(dirname "$name")"
            h5dump -y -o column -d "$name" "$1" >/dev/null
            (cat column && echo) | tr ',' '\n' | sed 's/^[ "]*//; s/[ "]*$//; /^$/d' >"$1.d/$name"
        done
    fi
}

column() { cat "$1.d/$2"; } # FILE DATASET
sum_of() { column "$@" | awk '{ sum += $1 } END { printf "%d\n", sum }'; }
rows_of() { column "$@" | wc -l; }

# A number of the run's summary, and a line of its table of messages: count and bytes.
summary() { sed -n "s/^lamina: $1: *\([0-9]*\).*/\1/p" stderr; }
message() { sed -n "s/^lamina: $1  *\([0-9][0-9]*\)  *\([0-9][0-9]*\).*/\1 \2/p" stderr; }

arrived() { # FILE RANKS MESSAGE: count and bytes
    local rank
    for ((rank = 0; rank < $2; rank++)); do
        paste -d '|' <(column "$1" "/ranks/$rank/spans/kind") <(column "$1" "/ranks/$rank/spans/label") \
            <(column "$1" "/ranks/$rank/spans/bytes")
    done | awk -F '|' -v wanted="$3" '$1 == "arrived" && $2 == wanted { n++; bytes += $3 } END { print n + 0, bytes + 0 }'
}

is() { # WHAT GOT WANTED
    n_checks=$((n_checks + 1))
    [ "$2" = "$3" ] || fail "$1: $2, not $3"
}

# shellcheck disable=SC2317 # `check` calls it
no_journals() { [ -z "$(compgen -G "$1.*.journal")" ]; }

# ---- what the run said ----

agrees() { # RANKS SHARES OPTION...: SHARES: over how many attention ranks a row is spread
    local ranks=$1 shares=$2 rank rows=0 name
    shift 2
    expect 0 'trace: ' "$MPIRUN" -n "$ranks" "${one[@]}" -i in.jsonl -o out.jsonl --overwrite \
        --trace t.h5 --timeline t.json --trace-steps all "$@"
    unpack t.h5
    check "journals are taken away" no_journals t.h5
    is steps "$(rows_of t.h5 /ranks/0/steps/rows)" "$(summary Steps)"
    is "prompt rows" "$(sum_of t.h5 /ranks/0/steps/prompt_rows)" "$(summary 'Total input tokens')"
    is "recomputed rows" "$(sum_of t.h5 /ranks/0/steps/recomputed_rows)" "$(summary 'Rows recomputed after preemption')"
    # the first token of an answer comes of its prompt
    is "decode rows" "$(sum_of t.h5 /ranks/0/steps/decode_rows)" \
        $(($(summary 'Total generated tokens') - 30 + $(summary 'Rows past the end of their sequence')))
    is "rows by kind" "$(paste <(column t.h5 /ranks/0/steps/prompt_rows) <(column t.h5 /ranks/0/steps/decode_rows) \
        <(column t.h5 /ranks/0/steps/recomputed_rows) | awk '{ print $1 + $2 + $3 }')" \
        "$(column t.h5 /ranks/0/steps/rows)"
    pages=$(column t.h5 /ranks/0/steps/pages_used | sort -n | tail -n 1)
    check "pages are used" [ "$pages" -gt 0 ]
    check "at most the peak" [ "$pages" -le "$(summary 'KV pages, peak')" ]
    for ((rank = 1; rank < ranks; rank++)); do
        rows=$((rows + $(sum_of t.h5 "/ranks/$rank/steps/rows")))
    done
    [ "$ranks" -gt 1 ] && is "rows of attention ranks" "$rows" $((shares * $(sum_of t.h5 /ranks/0/steps/rows)))
    for name in Q KV OUT STEP; do
        [ "$ranks" -gt 1 ] && is "messages $name" "$(arrived t.h5 "$ranks" $name)" "$(message $name)"
    done
    is ranks "$(column t.h5 /role_map/role | sort | uniq -c | awk '{ print $1, $2 }' | tr '\n' ' ')" \
        "$([ "$ranks" -gt 1 ] && echo "$((ranks - 1)) attention ")1 model "
    expect 0 '' "$LAMINA" inspect t.h5 --timeline u.json
    check "the same timeline" cmp t.json u.json
}

agrees 1 1
agrees 3 2 --partition heads=2 --slots 2
agrees 3 1 --partition sequences=2 --max-batch 4 --max-rows 16
agrees 3 2 --kv-tokens 256 --max-batch 8 --slots 1

# ---- inspect ----

expect 0 '' "$LAMINA" inspect t.h5
check "a summary" grep -q "^steps  *$(rows_of t.h5 /ranks/0/steps/rows)$" stdout
for name in Q KV OUT STEP; do
    is "summed up: $name" "$(sed -n "s/^$name  *\([0-9]*\)  *\([0-9]*\).*/\1 \2/p" stdout)" "$(arrived t.h5 3 $name)"
done
expect 0 '' "$LAMINA" inspect t.h5 --csv tables
check "a table of spans" cmp <(awk -F, '$1 == 1 { print $4, $9, $10 }' tables/spans.csv) \
    <(paste -d ' ' <(column t.h5 /ranks/1/spans/bytes) <(column t.h5 /ranks/1/spans/kind) <(column t.h5 /ranks/1/spans/label))
check "a table of turns" cmp <(awk -F, '$1 == 2 { print $4, $5 }' tables/turns.csv) \
    <(paste -d ' ' <(column t.h5 /ranks/2/turns/busy) <(column t.h5 /ranks/2/turns/wait))
is "a table of ranks" "$(wc -l <tables/ranks.csv)" 4
expect 2 'tables/ranks.csv: File exists' "$LAMINA" inspect t.h5 --csv tables
expect 2 't.h5 is the same file as the trace: name another' "$LAMINA" inspect t.h5 --timeline t.h5
expect 0 '' "$LAMINA" inspect t.h5 --trace-steps 3 --csv third
is "spans of one step" "$(awk -F, 'NR > 1 && $9 != "arrived" && $5 != "-1" { print $5 }' third/spans.csv | sort -u | tr '\n' ' ')" '3 '

# ---- some steps ----

expect 0 'spans of steps 2 to 4' "${three[@]}" -i in.jsonl -o out.jsonl --overwrite --trace t.h5 --timeline t.json --trace-steps 2-4
unpack t.h5
is "all steps" "$(rows_of t.h5 /ranks/0/steps/rows)" "$(summary Steps)"
is "spans of some" "$(column t.h5 /ranks/1/turns/step | sort -nu | tr '\n' ' ')" '2 3 4 '
expect 0 '' "$LAMINA" inspect t.h5 --timeline u.json
check "the same timeline of some steps" cmp t.json u.json
flights=$(grep -c '"ph":"b".*"name":"Q"' t.json)
is "every Q was on its way" "$flights" "$(grep -c '"ph":"X","name":"gather Q"' t.json)"

# ---- a run that is killed ----

make_requests 400 150 >many.jsonl
begin() { # OPTION...: of which some requests are answered
    rm -rf out.jsonl* t.h5*
    "$MPIRUN" -n 3 "${one[@]}" -i many.jsonl -o out.jsonl --max-batch 4 "$@" 2>stderr &
    job=$!
    check "answers come" try_until 60 has_lines 10 out.jsonl
    n_answered=$(n_lines out.jsonl)
    sleep 0.5
}

begin --trace t.h5 --trace-steps 5-50
n_tokens=$(head -n "$n_answered" out.jsonl | sed 's/.*"completion_tokens":\([0-9]*\).*/\1/' | awk '{ n += $1 - 1 } END { print n }')
# shellcheck disable=SC2046
kill -KILL $(children_of $job)
wait $job 2>/dev/null
check "there is no trace yet" [ ! -e t.h5 ]
is "journals" "$(compgen -G 't.h5.*.rank*.journal' | wc -l)" 3
expect 0 '' "$LAMINA" inspect t.h5.*.journal -o t.h5
unpack t.h5
expect 0 '' "$LAMINA" inspect t.h5
is "none is complete" "$(awk '$2 == "model" || $2 == "attention" { print $7 }' stdout | head -n 3 | tr '\n' ' ')" 'no no no '
check "decode rows of what was answered are there" [ "$(sum_of t.h5 /ranks/0/steps/decode_rows)" -ge "$n_tokens" ]
for rank in 0 1 2; do
    is "steps of rank $rank without a gap" "$(paste -d ' ' <(column t.h5 /ranks/$rank/steps/slot) <(column t.h5 /ranks/$rank/steps/step) |
        awk 'NF == 2 { if ($1 in last && $2 != last[$1] + 1) gaps++; last[$1] = $2 } END { print gaps + 0 }')" 0
    is "spans of rank $rank" "$(column t.h5 /ranks/$rank/turns/step | sort -nu | tr '\n' ' ')" "$(seq 5 50 | tr '\n' ' ')"
done
n_least=$(rows_of t.h5 /ranks/0/steps/rows)
check "attention ranks had the same rows" cmp \
    <(column t.h5 /ranks/1/steps/rows | head -n $((n_least - 8))) <(column t.h5 /ranks/0/steps/rows | head -n $((n_least - 8)))
expect 0 '' "$LAMINA" inspect t.h5.*.journal --timeline t.json
expect 0 '' "$LAMINA" inspect t.h5 --timeline u.json
check "the same timeline of journals and file" cmp t.json u.json
expect 0 'the journal of rank 1 is not among them' "$LAMINA" inspect t.h5.*.rank[02].journal
rank0=$(compgen -G 't.h5.*.rank0.journal')
expect 2 'is the same file as the' "$LAMINA" inspect t.h5.*.journal -o "$rank0"
expect 2 'not a journal' "$LAMINA" inspect t.h5.*.journal t.h5
expect 2 'not a trace of lamina' "$LAMINA" inspect tiny.gguf --csv no
mkfifo pipe.h5 pipe.journal # nobody writes to them: opening them as files would wait for ever
limit=20
expect 2 'pipe.h5' "$LAMINA" inspect pipe.h5
expect 2 'pipe.journal' "$LAMINA" inspect pipe.journal
expect 2 'not a journal' "$LAMINA" inspect "$rank0" pipe.journal
limit=120
rm pipe.h5 pipe.journal
cp "$rank0" damaged
middle=$((64 * ($(wc -c <damaged) / 128)))
printf '\1' | dd of=damaged bs=1 seek=$((middle + 6)) conv=notrunc 2>/dev/null
expect 0 "damaged: damaged at byte $middle: 1 of" "$LAMINA" inspect damaged t.h5.*.rank[12].journal

# ---- a signal ----

begin --trace t.h5
kill -USR1 $job
check "the job stops" try_until 60 has_ended $job
wait $job
ended 75 "stopped by USR1" $?
unpack t.h5
check "with its trace" [ "$(rows_of t.h5 /ranks/0/steps/rows)" -gt 10 ]
check "and no journals" no_journals t.h5

# ---- places ----

# A name with room for the file's own, and none for the journal's beside it: journals go to /tmp.
long=$(printf 'x%.0s' $(seq 236)).h5
rm -f "/tmp/${long:0:200}".*.journal # of a test that was killed
expect 0 'trace: ' "${three[@]}" -i in.jsonl -o out.jsonl --overwrite --trace "$long"
mv "$long" long.h5
unpack long.h5
check "with journals elsewhere" [ "$(rows_of long.h5 /ranks/2/steps/rows)" -gt 10 ]
check "which are taken away" no_journals "/tmp/${long:0:200}"
expect 2 'no-folder/t.h5' "${one[@]}" -i in.jsonl -o none.jsonl --trace no-folder/t.h5
check "before the output is made" [ ! -e none.jsonl ]
expect 2 'is the same file as the' "${three[@]}" -i in.jsonl -o none.jsonl --trace t --timeline t
expect 2 'is the same file as the' "${one[@]}" -i in.jsonl -o none.jsonl --trace in.jsonl
expect 2 'no-folder/t.h5' "${one[@]}" -i in.jsonl --dry-run --trace no-folder/t.h5
expect 0 'nothing left to do' "${one[@]}" -i in.jsonl -o out.jsonl --resume --trace new.h5
check "nothing done leaves no trace" [ ! -e new.h5 ]
check "and no journals" no_journals new.h5

scene_end
