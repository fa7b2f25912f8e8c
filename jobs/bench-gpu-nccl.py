#!/usr/bin/env python3
"""bench-gpu-nccl.py - messages between two GPUs by NCCL's send and receive in a CUDA graph.

  mpirun -n 2 jobs/bench-gpu-nccl.py [--repeat N] [--sizes LIST] [-o FILE]
  jobs/bench-gpu-nccl.py --beside NCCL.json WIRE.json

The peer of `lamina bench wire`: one block goes from rank 0 to rank 1, whose kernel adds 1 to it, and comes
back, as layer by layer Q goes and OUT comes. Rounds stand in a graph, as lamina's stand in runs, so the host
launches nothing in between; time is half a round, the median of N (5) graphs of 100 rounds. What came back is
compared. Through PyTorch's process group; LIST is bytes, 16,1024,8192,... Needs torch with CUDA and NCCL, a GPU a
rank, and nothing from a network.
--beside prints lamina's time over NCCL's at the sizes that both files have.
"""
import argparse
import json
import os
import statistics
import sys

ROUNDS = 100
SIZES = (16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)


def import_torch():
    try:
        import torch
        import torch.distributed
    except ImportError as error:
        sys.exit(f"NCCL is measured through PyTorch, which is not here: {error}")
    if not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no GPU")
    return torch


def exchange(torch, rank, block, room):
    """Half of a round trip on each rank."""
    if rank == 0:
        torch.distributed.send(block, 1)
        torch.distributed.recv(block, 1)
    else:
        torch.distributed.recv(room, 0)
        torch.add(room, 1, out=block)
        torch.distributed.send(block, 0)


def capture(torch, rank, block, room):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            exchange(torch, rank, block, room)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(ROUNDS):
            exchange(torch, rank, block, room)
    return graph


def time_us(torch, graph):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.distributed.barrier()
    torch.cuda.synchronize()
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / (2 * ROUNDS)


def measure(torch, rank, size, repeat):
    """The median of half a round, and how many numbers came back wrong."""
    n = max(1, size // 4)
    block = torch.zeros(n, dtype=torch.int32, device="cuda")
    room = torch.zeros_like(block)
    graph = capture(torch, rank, block, room)
    block.zero_()
    times = [time_us(torch, graph) for _ in range(repeat + 1)][1:]
    wrong = int((block != ROUNDS * (repeat + 1)).sum()) if rank == 0 else 0
    return statistics.median(times), wrong


def measure_all(options):
    rank, n_ranks = (int(os.environ.get(f"OMPI_COMM_WORLD_{name}", -1)) for name in ("RANK", "SIZE"))
    if n_ranks != 2:
        sys.exit("two ranks are needed: mpirun -n 2 jobs/bench-gpu-nccl.py")
    torch = import_torch()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.distributed.init_process_group("nccl", rank=rank, world_size=2)
    rows = []
    for size in options.sizes:
        us, wrong = measure(torch, rank, size, options.repeat)
        rows.append({"size": size, "time_us": us, "wrong": wrong})
        if rank == 0:
            print(f"{size:>10} {us:>10.2f} us  {wrong} wrong", flush=True)
    version = ".".join(map(str, torch.cuda.nccl.version()))
    if rank == 0 and options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump({"nccl": version, "results": rows}, file, indent=1)
    torch.distributed.destroy_process_group()
    if any(row["wrong"] for row in rows):
        sys.exit("numbers came back wrong")


def read_results(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path}: not results of a measurement: {error}")


def print_beside(nccl_path, wire_path):
    nccl = {row["size"]: row["time_us"] for row in read_results(nccl_path)}
    print(f"{'bytes':>10}{'device, us':>14}{'NCCL, us':>12}{'ratio':>8}   (floor 0.25, aim 0.14 to 64 KiB)")
    for row in read_results(wire_path):
        if row.get("wire") == "device" and row.get("blocks") == 1 and row.get("size") in nccl:
            theirs = nccl[row["size"]]
            print(f"{row['size']:>10}{row['time_us']:>14.2f}{theirs:>12.2f}"
                  f"{row['time_us'] / theirs:>8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    parser.add_argument("--sizes", default=SIZES, metavar="LIST",
                        type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--beside", nargs=2, metavar=("NCCL.json", "WIRE.json"))
    options = parser.parse_args()
    if options.repeat < 1 or min(options.sizes) < 4:
        parser.error("--repeat is 1 or more, sizes are 4 bytes or more")
    if options.beside:
        print_beside(*options.beside)
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
