"""checkpoint_master.py FOLDER HOW - read FOLDER/all.h5 with h5py and compare it with expected.bin
and expected.txt, which test_checkpoint_master.c made from its formula."""
import pathlib
import sys

import h5py
import numpy

folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]


def check(what, good):
    if not good:
        sys.exit(f"{what} is not as it should be")


with h5py.File(folder / "all.h5", "r") as master:
    check("format", master.attrs["format"] in ("lamina checkpoint", b"lamina checkpoint"))
    check("number", master.attrs["number"] == 2)
    progress = master["progress"]
    choice = progress["choices"][0]
    first, n_tokens = choice["first_token"], choice["n_tokens"]
    check("tokens", progress["tokens"][first : first + n_tokens].tolist() == [11, 12, 13])
    check("options", progress["options"][:].tobytes() == b"{}")
    begin, n_bytes = choice["first_byte"], choice["n_id_bytes"]
    custom_id = progress["custom_ids"][begin : begin + n_bytes].tobytes()
    check("custom_id", custom_id.decode() == "grüß")
    check("units", "n_prompt: tokens" in str(progress["choices"].attrs["units"]))
    if how == "none":
        check("kv", "kv" not in master and len(master["index"]) == 0)
        sys.exit(0)

    expected_index = numpy.loadtxt(folder / "expected.txt", dtype=int).tolist()
    index = [list(row) for row in master["index"][:].tolist()]
    check("index", index == expected_index)
    kv = master["kv"]
    check("kv", kv.is_virtual and kv.ndim == 6)
    got = kv[:]
    if how == "f32":
        expected = numpy.fromfile(folder / "expected.bin", "<f4")
    elif how == "f16":
        expected = numpy.fromfile(folder / "expected.bin", "<f2")
        check("dtype", kv.dtype == numpy.float16)
    else:
        bits = numpy.fromfile(folder / "expected.bin", "<u2").astype("<u4") << 16
        expected = bits.view("<f4")
    expected = expected.reshape(kv.shape)
    if how == "missing":  # the older file of owner 1: sequence 4's first page
        lost = expected_index.index([4, 0, 64])
        check("what is missing", numpy.isnan(got[lost].astype("f4")).all())
        got, expected = numpy.delete(got, lost, 0), numpy.delete(expected, lost, 0)
    for side, name in enumerate("KV"):
        there, here = got[:, :, side].astype("f4"), expected[:, :, side].astype("f4")
        check(name, numpy.isfinite(here).all() and there.tobytes() == here.tobytes())
