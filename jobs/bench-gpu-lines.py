#!/usr/bin/env python3
"""bench-gpu-lines.py - the results of jobs/bench-gpu.sh as people read them.

  jobs/bench-gpu-lines.py RESULTS.json     one file as a table, facts first
  jobs/bench-gpu-lines.py --ratios FOLDER  of all that lie there, the ratios that have been asked for on an
                                           H200, beside their floor and aim; what was not measured is left out

vLLM's figures are those of version 0.26 on an H200 with the same shape, bf16, made-up weights.
"""
import json
import pathlib
import re
import sys

VLLM_STEP_MS = {(1, 1024): 4.92, (32, 1024): 6.27, (128, 1024): 10.45, (128, 4096): 22.19}
VLLM_TOKENS_PER_S = 9430

# Numbers that rows of a measurement have, by the first word of its name.
NEEDED = {
    "attention": ("batch", "length", "shortest", "longest", "calls", "replayed", "time_us", "GB_per_s",
                  "read_GB_per_s", "ratio"),
    "step": ("batch", "length", "step_ms", "host_us", "ratio"),
    "peers": ("batch", "length", "ratio"),
}


def refuse(text):
    print(text, file=sys.stderr)
    sys.exit(2)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_results(path, needed=()):
    """The facts and rows of a file that lamina bench wrote; the end of the program if it did not."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse(f"{path}: {getattr(error, 'strerror', None) or error}")
    rows = results.pop("results", None) if isinstance(results, dict) else None
    good = isinstance(rows, list) and rows and all(
        isinstance(row, dict) and row and row.keys() == rows[0].keys() and
        all(is_number(row.get(name)) for name in needed) for row in rows)
    if not good:
        refuse(f"{path}: not what lamina bench --format json writes"
               f"{', with numbers as ' if needed else ''}{', '.join(needed)}")
    return results, rows


# ---- one file ----

def show(value):
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_table(path):
    facts, rows = read_results(path)
    for name, fact in facts.items():
        print(f"# {name}: {'; '.join(map(str, fact)) if isinstance(fact, list) else fact}")
    names = list(rows[0])
    widths = [max([len(name)] + [len(show(row[name])) for row in rows]) for name in names]
    print("# " + "  ".join(f"{name:>{width}}" for name, width in zip(names, widths)))
    for row in rows:
        print("  " + "  ".join(f"{show(row[name]):>{width}}" for name, width in zip(names, widths)))


# ---- the ratios ----

class Folder:
    def __init__(self, path):
        self.path = pathlib.Path(path)

    def read(self, name):
        """The facts and rows of one measurement; none when it was not made."""
        path = self.path / f"{name}.json"
        if not path.exists():
            return {}, []
        return read_results(path, NEEDED[name.split("-")[0]])

    def rows(self, name, **wanted):
        return [row for row in self.read(name)[1]
                if all(row[column] == value for column, value in wanted.items())]

    def long_read(self):
        """GB/s of reads over the whole footprint of 8 GiB, 0 when it was not measured."""
        found = re.search(r"read at ([0-9.]+) GB/s",
                          str(self.read("attention-4096")[0].get("footprint")))
        return float(found[1]) if found else 0


def attention_lines(folder):
    """(what, value, floor, aim, whether more is better)"""
    read = folder.long_read()
    if read:
        yield "read ceiling at 8.6 GB, TB/s", read / 1e3, 4.5, None, True
    alike = folder.rows("attention-1024", shortest=1024)
    ragged = [row for row in folder.rows("attention-1024") if row["shortest"] < 1024]
    for row in alike:
        yield "read ceiling at 0.54 GB, TB/s", row["read_GB_per_s"] / 1e3, 4.3, None, True
    for row in folder.rows("attention-4096", length=4096) if read else []:
        yield "attention B128 L4096 / ceiling", row["GB_per_s"] / read, 0.90, 0.985, True
    for row in alike:
        yield "attention B128 L1024 / ceiling at 0.54 GB", row["ratio"], 0.85, 0.975, True
    for one, other in zip(alike, ragged):
        yield (f"attention B128 ragged {other['shortest']}..{other['longest']} / uniform",
               one["time_us"] / other["time_us"], 0.85, 0.97, True)
    for row in folder.rows("peers", batch=1, length=8192):
        yield "attention B1 L8192, time / cuDNN's", row["ratio"], 1.2, 0.75, False
    for name in "attention-1", "attention-1024", "attention-4096":
        for row in folder.rows(name):
            if row["replayed"] < row["calls"]:
                yield f"calls replayed, B{row['batch']} L{row['length']}", \
                    row["replayed"] / row["calls"], 1, 1, True


def step_lines(folder):
    rows = folder.rows("step-1024") + folder.rows("step-4096")
    for row in rows:
        point = row["batch"], row["length"]
        floor = 0.82 if point == (128, 4096) else 0.67
        name = f"step B{point[0]} L{point[1]}"
        yield f"{name} / ceiling", row["ratio"], floor, 0.90, True
        if point in VLLM_STEP_MS:
            yield f"{name}, vLLM's time / ours", VLLM_STEP_MS[point] / row["step_ms"], None, None, True
    for row in rows:
        name = f"step B{row['batch']} L{row['length']}"
        yield f"{name}, host CPU time, us", row["host_us"], None, 10, False
        if is_number(row.get("idle")):
            yield f"{name}, GPU idle between steps, %", 100 * row["idle"], None, 1, False


def job_lines(folder):
    path = folder.path / "job.log"
    log = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for found in re.findall(r"Output token throughput \(tok/s\): *([0-9.]+)", log):
        yield "job, output tok/s / vLLM's", float(found) / VLLM_TOKENS_PER_S, 0.75, 1.25, True


def print_ratios(folder):
    print(f"{'':<52}{'measured':>10}{'floor':>8}{'aim':>8}")
    for lines in attention_lines, step_lines, job_lines:
        for what, value, floor, aim, more in lines(folder):
            kept = floor is None or (value >= floor if more else value <= floor)
            reached = aim is not None and (value >= aim if more else value <= aim)
            print(f"{what:<52}{value:>10.4g}{show(floor):>8}{show(aim):>8}  "
                  f"{'' if kept else 'below the floor'}{'aim reached' if kept and reached else ''}"
                  .rstrip())


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--ratios":
        folder = Folder(sys.argv[2])
        if not folder.path.is_dir():
            refuse(f"{folder.path}: no such folder")
        try:
            print_ratios(folder)
        except ZeroDivisionError:
            refuse(f"{folder.path}: a result is 0 that others are divided by")
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        print_table(pathlib.Path(sys.argv[1]))
    else:
        refuse(__doc__)


if __name__ == "__main__":
    main()
