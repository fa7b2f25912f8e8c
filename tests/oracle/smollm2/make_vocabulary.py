#!/usr/bin/env python3
"""Write the vocabulary-only copy of a GGUF file: all keys, byte for byte, and no tensors.

    make_vocabulary.py MODEL.gguf vocabulary.gguf
"""
import mmap
import struct
import sys

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def after_string(data, at):
    return at + 8 + struct.unpack_from("<Q", data, at)[0]


def after_value(data, at, kind):
    if kind == STRING:
        return after_string(data, at)
    if kind != ARRAY:
        return at + SCALAR_BYTES[kind]
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element in SCALAR_BYTES:
        return at + count * SCALAR_BYTES[element]
    for _ in range(count):
        at = after_value(data, at, element)
    return at


def main():
    with open(sys.argv[1], "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, _, n_keys = struct.unpack_from("<4sIQQ", data, 0)
    assert magic == b"GGUF" and version == 3, (magic, version)
    at = 24
    for _ in range(n_keys):
        at = after_string(data, at)
        at = after_value(data, at + 4, struct.unpack_from("<I", data, at)[0])
    with open(sys.argv[2], "wb") as file:
        file.write(struct.pack("<4sIQQ", magic, version, 0, n_keys) + data[24:at])


main()
