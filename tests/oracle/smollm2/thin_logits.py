#!/usr/bin/env python3
"""Keep every fourth id of logits.f32 ([8][5][49152] floats; logits.json says of which prompts and
steps), so that the file fits the repository: 0, 4, 8, ...

    thin_logits.py logits.f32 logits_thin.f32

test_oracle.c tells from the size of its file how many ids lie apart; the whole one works as well.
"""
import array
import sys

EVERY = 4

logits = array.array("f")
with open(sys.argv[1], "rb") as whole:
    logits.frombytes(whole.read())
with open(sys.argv[2], "wb") as thin:
    thin.write(logits[::EVERY].tobytes())
