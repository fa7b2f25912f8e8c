#!/usr/bin/env python3
"""bench-gpu-peers.py - decode attention by cuDNN, at the points that lamina was measured at.

  jobs/bench-gpu-peers.py [--repeat N] [-o FILE] RESULTS.json...

RESULTS.json is what `lamina bench attention --format json` wrote on the same GPU; run both in one go,
for cards and days differ by some per cent. Each point whose sequences are all of one length is
measured through PyTorch's scaled_dot_product_attention with the cuDNN back end alone: bf16, one query
a sequence, K and V contiguous (cuDNN does not page here, so this is a bound rather than a drop-in).
As there, the calls go through as many copies of K and V as fill the footprint, stand in CUDA graphs,
and a measurement is as many replays as last 10 ms, the median of N (25). Before it is timed, cuDNN's
result is compared with a plain one in float32.
Prints a table; -o writes it as JSON too. Needs torch with CUDA and nothing from a network.
"""
import argparse
import json
import math
import re
import statistics
import sys

MEASURE_MS = 10


NEEDED = "batch", "length", "shortest", "longest", "time_us", "GB_per_s"


def refuse(text):
    print(text, file=sys.stderr)
    sys.exit(2)


def read_points(path):
    """Heads, bytes of the footprint and rows with one length, of one file of results."""
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except (OSError, ValueError) as error:
        refuse(f"{path}: {getattr(error, 'strerror', None) or error}")
    results = results if isinstance(results, dict) else {}
    heads = re.fullmatch(r"(\d+) on (\d+) KV heads of (\d+), (\w+)", str(results.get("heads")))
    footprint = re.match(r"(\d+) bytes", str(results.get("footprint")))
    rows = results.get("results")
    good = isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(row.get(name), (int, float)) for name in NEEDED)
        for row in rows)
    if not heads or not footprint or not good:
        refuse(f"{path}: these are not results of lamina bench attention --format json")
    if heads[4] != "bf16":
        refuse(f"{path}: K and V are {heads[4]}; cuDNN is compared in bf16")
    shape = tuple(int(heads[at]) for at in (1, 2, 3))
    return shape, int(footprint[1]), [row for row in rows if row["shortest"] == row["longest"]]


def import_torch():
    try:
        import torch
    except ImportError as error:
        sys.exit(f"cuDNN is measured through PyTorch, which is not here: {error}")
    if not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no GPU")
    if not torch.backends.cudnn.is_available():
        sys.exit(f"PyTorch {torch.__version__} has no cuDNN")
    return torch


def attend(torch, query, keys, values):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(query, keys, values, enable_gqa=True)


def check(torch, query, keys, values):
    """One sequence against softmax(Q K^T / sqrt D) V in float32."""
    group = query.shape[1] // keys.shape[1]
    q, k, v = query[:1].float(), keys[:1].float(), values[:1].float()
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    plain = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]), 3) @ v
    found = attend(torch, query, keys, values)[:1].float()
    error = ((found - plain).norm() / plain.norm()).item()
    if not error < 0.01:
        sys.exit(f"cuDNN's attention is off by {error:.3g} of its size")


def capture(torch, query, sets):
    """A graph with a call on each set; warmed up first, as capturing asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            for keys, values in sets:
                attend(torch, query, keys, values)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for keys, values in sets:
            attend(torch, query, keys, values)
    return graph


def time_ms(torch, graph, n):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(n):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measure(torch, shape, footprint, batch, length, repeat):
    """Microseconds a call, the median, and the bytes of K and V that it reads."""
    heads, kv_heads, head_dim = shape
    kv_bytes = 2 * batch * kv_heads * length * head_dim * 2
    n_sets = max(2, math.ceil(footprint / kv_bytes))

    def draw(*size):
        return torch.randn(size, dtype=torch.bfloat16, device="cuda")

    query = draw(batch, heads, 1, head_dim)
    sets = [tuple(draw(batch, kv_heads, length, head_dim) for _ in "KV") for _ in range(n_sets)]
    check(torch, query, *sets[0])
    graph = capture(torch, query, sets)
    for _ in range(3):
        once_ms = time_ms(torch, graph, 1)
    n = max(1, math.ceil(MEASURE_MS / once_ms))
    us = [time_ms(torch, graph, n) * 1e3 / (n * n_sets) for _ in range(repeat)]
    return statistics.median(us), kv_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=25, metavar="N")
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("results", nargs="+", metavar="RESULTS.json")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat {options.repeat}: at least 1")
    points = [read_points(path) for path in options.results]
    torch = import_torch()
    try:  # before minutes are spent
        output = open(options.output, "w", encoding="utf-8") if options.output else None
    except OSError as error:
        refuse(f"{options.output}: {error.strerror}")
    torch.manual_seed(0)
    print(f"# cuDNN {torch.backends.cudnn.version()} through PyTorch {torch.__version__}, "
          f"{torch.cuda.get_device_name()}")
    names = "batch", "length", "cudnn_us", "cudnn_GB_per_s", "lamina_us", "lamina_GB_per_s", "ratio"
    print("# " + "  ".join(names))
    rows = []
    for shape, footprint, of_lamina in points:
        for row in of_lamina:
            us, kv_bytes = measure(torch, shape, footprint, row["batch"], row["length"],
                                   options.repeat)
            torch.cuda.empty_cache()
            rows.append(dict(zip(names, (row["batch"], row["length"], us, kv_bytes / us * 1e-3,
                                         row["time_us"], row["GB_per_s"], row["time_us"] / us))))
            print("  " + "  ".join(f"{rows[-1][name]:>{len(name)}.5g}" for name in names), flush=True)
    if output:
        with output:
            json.dump({"results": rows}, output, indent=1)


if __name__ == "__main__":
    main()
