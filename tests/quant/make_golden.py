#!/usr/bin/env python3
"""Write golden.bin: random blocks of every storage type and the float32 values that the `gguf`
package (made with 0.19.0 and numpy 2.4) unpacks them to.

    python3 make_golden.py golden.bin

One record a type: name (8 bytes, zero padded), ggml's type number, blocks, elements a block, bytes
a block (4 little-endian u32), the blocks, the values.
"""
import struct
import sys

import gguf
import numpy as np

# Where a block keeps its halves, and how many blocks to draw.
TYPES = {
    "F32": ([], 600), "F16": ([], 600), "BF16": ([], 600),
    "Q8_0": ([0], 60), "Q4_0": ([0], 60), "Q5_0": ([0], 60),
    "Q4_1": ([0, 2], 80), "Q5_1": ([0, 2], 80),
    "Q4_K": ([0, 2], 36), "Q5_K": ([0, 2], 36), "Q6_K": ([208], 36),
}
# zeros, smallest and largest subnormals, smallest normal, one, largest, infinity, NaN
EXTREME = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0x7E00]


def draw(rng, n_blocks, n_bytes, halves):
    blocks = rng.integers(0, 256, (n_blocks, n_bytes), dtype=np.uint8)
    for at in halves:
        kind = rng.integers(0, 3, n_blocks)
        value = np.where(kind == 0, rng.choice(EXTREME, n_blocks),
                         np.where(kind == 1, rng.integers(1, 0x400, n_blocks),  # subnormal
                                  rng.normal(0, 0.05, n_blocks).astype(np.float16).view(np.uint16)))
        blocks[:, at:at + 2] = value.astype("<u2").view(np.uint8).reshape(-1, 2)
    # codes of all zeros and all ones under ordinary scales
    for block, fill in ((0, 0), (1, 255)):
        keep = blocks[block].copy()
        blocks[block] = fill
        for at in halves:
            blocks[block, at:at + 2] = keep[at:at + 2]
    return blocks


def main():
    rng = np.random.default_rng(20240229)
    with open(sys.argv[1], "wb") as out, np.errstate(all="ignore"):
        for name, (halves, n_blocks) in TYPES.items():
            kind = gguf.GGMLQuantizationType[name]
            n_elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
            blocks = draw(rng, n_blocks, n_bytes, halves)
            values = np.ascontiguousarray(gguf.dequantize(blocks, kind), dtype="<f4")
            assert values.size == n_blocks * n_elements
            out.write(struct.pack("<8s4I", name.encode(), int(kind), n_blocks, n_elements, n_bytes))
            out.write(blocks.tobytes())
            out.write(values.tobytes())


main()
