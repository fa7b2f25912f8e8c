"""checkpoint_keys.py - what h5py and numpy say of the checkpoints of real jobs; knows the GGUF and HDF5
formats, and nothing of lamina.

  checkpoint_keys.py totals FOLDER          choices, tokens, positions and pages of the newest checkpoint
  checkpoint_keys.py layer0 MODEL FOLDER TYPE
                                            its K and V of layer 0 are those computed from the model
  checkpoint_keys.py grown FOLDER OTHER     the newest of OTHER was made later and has all positions of that
                                            of FOLDER
  checkpoint_keys.py same FOLDER OTHER      and there the same bits, in all layers
"""
import pathlib
import struct
import sys

import h5py
import numpy

PAGE_TOKENS = 64


def check(what, good):
    if not good:
        sys.exit(f"{what} is not as it should be")


# ---- checkpoints ----

class Checkpoint:
    """The newest of a folder by its master file: the pages, tokens and number of rows of each choice."""

    def __init__(self, folder):
        path = max(p for p in pathlib.Path(folder).glob("c*.h5") if p.stem[1:].isdigit())
        with h5py.File(path, "r") as master:
            self.number = int(master.attrs["number"])
            progress = master["progress"]
            ids = progress["custom_ids"][:].tobytes()
            tokens = progress["tokens"][:]
            self.choices = progress["choices"][:]
            self.index = master["index"][:]
            self.kv = master["kv"][:].astype("f4")  # exact for every type of the cache
        self.key, self.token, self.row_of = [], [], {}
        for row in self.choices:
            begin = row["first_byte"]
            self.key.append((ids[begin:begin + row["n_id_bytes"]], int(row["index"])))
            self.token.append(tokens[row["first_token"]:row["first_token"] + row["n_tokens"]])
        for row, page in enumerate(self.index):
            self.row_of[int(page["sequence"]), int(page["page"])] = row

    def rows(self, sequence):
        """(layers, K|V, heads, positions, dim) of a choice, whose every page must be there."""
        n_rows = int(self.choices[sequence]["n_rows"])
        parts = []
        for page in range(-(-n_rows // PAGE_TOKENS)):
            row = self.row_of[sequence, page]
            n_valid = min(n_rows - page * PAGE_TOKENS, PAGE_TOKENS)
            check("n_tokens of a page", self.index[row]["n_tokens"] == n_valid)
            check("the rest of a page", not self.kv[row, :, :, :, n_valid:].any())
            parts.append(self.kv[row, :, :, :, :n_valid])
        return numpy.concatenate(parts, axis=3)


# ---- the model ----

def read_gguf(path):
    """Keys and F32 tensors, each as (rows, columns) or (columns)."""
    data = pathlib.Path(path).read_bytes()
    formats = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    at = 0

    def take(code):
        nonlocal at
        value, = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value

    def take_string():
        nonlocal at
        n_bytes = take("Q")
        at += n_bytes
        return data[at - n_bytes:at].decode()

    def take_value(kind):
        if kind == 8:
            return take_string()
        if kind == 9:
            element, n_elements = take("I"), take("Q")
            return [take_value(element) for _ in range(n_elements)]
        return take(formats[kind])

    check("the model", data[:4] == b"GGUF")
    at = 8
    n_tensors, n_keys = take("Q"), take("Q")
    keys, tensors, found = {}, {}, []
    for _ in range(n_keys):
        name = take_string()
        keys[name] = take_value(take("I"))
    for _ in range(n_tensors):
        name, n_dims = take_string(), take("I")
        shape = [take("Q") for _ in range(n_dims)][::-1]  # innermost first in the file
        check("the type of a tensor", take("I") == 0)
        found.append((name, shape, take("Q")))
    alignment = keys.get("general.alignment", 32)
    base = -(-at // alignment) * alignment
    for name, shape, offset in found:
        tensors[name] = numpy.frombuffer(data, "<f4", numpy.prod(shape), base + offset).reshape(shape)
    return keys, tensors


def layer0(model, tokens):
    """K and V of layer 0 of a llama in double precision, and the sums of absolute values that bound what
    32-bit sums of the same terms can differ by: (heads, positions, dim) each."""
    keys, tensors = model
    n_heads, base = keys["llama.attention.head_count_kv"], keys["llama.rope.freq_base"]
    x = tensors["token_embd.weight"][tokens].astype("f8")
    eps = keys["llama.attention.layer_norm_rms_epsilon"]
    normed = x / numpy.sqrt((x * x).mean(1, keepdims=True) + eps) * tensors["blk.0.attn_norm.weight"]

    def project(name):
        weight = tensors[f"blk.0.{name}.weight"].astype("f8")
        shape = len(tokens), n_heads, -1
        return [(a @ b.T).reshape(shape).transpose(1, 0, 2)
                for a, b in ((normed, weight), (abs(normed), abs(weight)))]

    (k, k_bound), v_and_bound = project("attn_k"), project("attn_v")
    n_rotated = keys.get("llama.rope.dimension_count", k.shape[2])
    angle = numpy.outer(numpy.arange(len(tokens)), base ** (-numpy.arange(0, n_rotated, 2) / n_rotated))
    cosine, sine = numpy.cos(angle), numpy.sin(angle)
    even, odd = k[..., 0:n_rotated:2].copy(), k[..., 1:n_rotated:2].copy()  # pairs of neighbours turn
    k[..., 0:n_rotated:2] = even * cosine - odd * sine
    k[..., 1:n_rotated:2] = even * sine + odd * cosine
    pair = k_bound[..., 0:n_rotated:2] + k_bound[..., 1:n_rotated:2]
    k_bound[..., 0:n_rotated:2] = k_bound[..., 1:n_rotated:2] = pair
    return (k, k_bound), v_and_bound


def compare_layer0(model_path, folder, kv_type):
    model, kept = read_gguf(model_path), Checkpoint(folder)
    n_hidden = model[1]["token_embd.weight"].shape[1]
    sums = (n_hidden + 16) * 2.0**-24  # roundings of a chain of sums, of the norm and of rope
    stored = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}[kv_type]
    n_compared = 0
    for sequence, tokens in enumerate(kept.token):
        got = kept.rows(sequence)
        n_rows = got.shape[3]
        for side, (wanted, bound) in enumerate(layer0(model, tokens[:n_rows])):
            most = bound * sums * (1 + stored) + abs(wanted) * stored
            off = ~(abs(got[0, side] - wanted) <= most)  # what no file holds is NaN
            if off.any():
                head, position, dim = numpy.argwhere(off)[0]
                sys.exit(f"{'KV'[side]} of choice {sequence}, head {head}, position {position}, dim {dim} is "
                         f"{got[0, side, head, position, dim]}, not {wanted[head, position, dim]}")
        n_compared += n_rows
    check("the number of positions", n_compared > 1000)
    print(n_compared, "positions are as computed from the model")


# ---- two checkpoints of one job ----

def grown(first, second):
    there = {key: row["n_rows"] for key, row in zip(second.key, second.choices)}
    return second.number > first.number and all(
        row["n_rows"] <= there.get(key, 0) for key, row in zip(first.key, first.choices))


def compare(first, second):
    check("what the second checkpoint has", grown(first, second))
    for sequence, key in enumerate(first.key):
        later = second.key.index(key)
        here, n_rows = first.rows(sequence), int(first.choices[sequence]["n_rows"])
        there = numpy.ascontiguousarray(second.rows(later)[:, :, :, :n_rows])
        tokens = first.token[sequence][:n_rows], second.token[later][:n_rows]
        check(f"tokens of {key}", (tokens[0] == tokens[1]).all())
        differ = here.view("u4") != there.view("u4")
        place = numpy.argwhere(differ)[:1].tolist()
        check(f"{key} at (layer, K|V, head, position, dim) {place}", not differ.any())
    print(len(first.key), "choices have the same bits")


def totals(kept):
    n_rows = int(kept.choices["n_rows"].sum())
    n_prompt = int(kept.choices["n_prompt"].sum())
    print(f"{len(kept.choices)} choices: {n_prompt} tokens of prompts, "
          f"{int(kept.choices['n_tokens'].sum()) - n_prompt} generated")
    print(f"{n_rows} positions in {len(kept.index)} pages")


what, folders = sys.argv[1], sys.argv[2:]
if what == "layer0":
    compare_layer0(*folders)
elif what == "totals":
    totals(Checkpoint(folders[0]))
elif what == "grown":
    try:
        sys.exit(not grown(*map(Checkpoint, folders)))
    except (OSError, KeyError, ValueError):  # of a running job: its files may go while they are read
        sys.exit(1)
elif what == "same":
    compare(*map(Checkpoint, folders))
else:
    sys.exit(f"{what}: unknown\n{__doc__}")
