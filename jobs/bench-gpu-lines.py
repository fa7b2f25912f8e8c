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


# ---- one file ----

def show(value):
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_table(path):
    results = json.loads(path.read_text(encoding="utf-8"))
    rows = results.pop("results")
    for name, fact in results.items():
        print(f"# {name}: {fact if isinstance(fact, str) else '; '.join(fact)}")
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
        results = json.loads(path.read_text(encoding="utf-8"))
        return results, results["results"]

    def rows(self, name, **wanted):
        return [row for row in self.read(name)[1]
                if all(row[column] == value for column, value in wanted.items())]

    def long_read(self):
        """GB/s of reads over the whole footprint of 8 GiB, 0 when it was not measured."""
        found = re.search(r"read at ([0-9.]+) GB/s",
                          self.read("attention-4096")[0].get("footprint", ""))
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
    for row in folder.rows("attention-4096", length=4096):
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
        yield f"{name}, vLLM's time / ours", VLLM_STEP_MS[point] / row["step_ms"], None, None, True
    for row in rows:
        name = f"step B{row['batch']} L{row['length']}"
        yield f"{name}, host CPU time, us", row["host_us"], None, 10, False
        if row["idle"] is not None:
            yield f"{name}, GPU idle between steps, %", 100 * row["idle"], None, 1, False


def job_lines(folder):
    path = folder.path / "job.log"
    log = path.read_text(encoding="utf-8") if path.exists() else ""
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
        print_ratios(Folder(sys.argv[2]))
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        print_table(pathlib.Path(sys.argv[1]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
