"""Files of checkpoints: whole or refused, with a clear error, before anything of them is believed."""

import functools
import io
import json
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from smcssm import checkpoint, container
from smcssm.container import MANIFEST, SEAL, Contents
from smcssm.errors import CheckpointError

RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(size=(3, 2, 40)),
    "b.c": np.arange(7),
    "b.mask": RNG.random((5, 1)) > 0.5,
    "b.single": RNG.normal(size=9).astype(np.float32),
    "nothing": np.zeros((0, 4)),
    "number": np.asarray(2.5),
    "when": np.asarray(["2026-01-02", "NaT"], "datetime64[ns]"),
}
WORDS = {"t": 12, "nested": [{"x": None}, "é"]}


@functools.cache
def whole_file():
    file = io.BytesIO()
    container.pack(file, Contents(WORDS, ARRAYS))
    return file.getvalue()


def unpack(data, key=None):
    return container.unpack(io.BytesIO(bytes(data)), "file", key)


def refused(data, match, key=None):
    with pytest.raises(CheckpointError, match=match):
        unpack(data, key)


def members():
    with zipfile.ZipFile(io.BytesIO(whole_file())) as archive:
        return {m.filename: archive.read(m) for m in archive.infolist()}


def forged(parts, compression=zipfile.ZIP_STORED, key=None):
    """A file of other members with a seal that is right: by somebody who knows how it is made."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in parts if isinstance(parts, list) else parts.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
        archive.comment = (container.PLAIN if key is None else container.SIGNED) + b"0" * 64
    return sealed(file.getvalue(), key)


def sealed(data, key=None):
    file = io.BytesIO(data)
    return data[:-64] + container._seal(file, len(data) - 64, key).encode()


def with_manifest(change):
    parts = members()
    manifest = json.loads(parts[MANIFEST])
    change(manifest)
    return parts | {MANIFEST: json.dumps(manifest)}


def npy(header, data=b""):
    """A member with any header."""
    text = (header + " " * (-(len(header) + 11) % 64) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def test_what_was_written_is_read():
    words, arrays = unpack(whole_file())
    assert words == WORDS
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].flags.writeable
    plain = np.load(io.BytesIO(whole_file()))  # without this package
    np.testing.assert_array_equal(plain["b.c"], ARRAYS["b.c"])


def test_every_flipped_bit_is_refused():
    data = whole_file()
    bits = np.random.default_rng(1).choice(8 * len(data), 200, replace=False)
    for bit in bits:
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << (bit % 8)
        refused(altered, "altered|cut off|no checkpoint|signed")


def test_truncated_files_and_zeroed_tails_are_refused():
    data = whole_file()
    for part in range(16):
        refused(data[: len(data) * part // 16], "cut off")
    refused(data[:-1], "cut off")
    refused(data + b"\0", "cut off")
    for tail in (1, 64, SEAL, SEAL + 22, 512, 4096):
        refused(data[:-tail] + bytes(tail), "altered|cut off")
    refused(data[:500] + bytes(100) + data[600:], "altered")


def test_members_are_those_of_the_manifest():
    parts = members()
    assert unpack(forged(parts)).words == WORDS
    for name in parts:
        message = "members are missing" if name != MANIFEST else "no manifest"
        refused(forged({n: d for n, d in parts.items() if n != name}), message)
    for name in ("../a.npy", "/etc/a.npy", "x.pkl", "a.npy/", "C:\\a.npy"):
        refused(forged(parts | {name: b"x"}), "unknown or repeated members '")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = forged([*parts.items(), ("a.npy", parts["a.npy"])])
    refused(twice, "repeated members 'a.npy'")
    for name in ("../up", "/root", "a/b", "", "a..b"):
        listed = with_manifest(lambda m, n=name: m["arrays"].update({n: m["arrays"]["a"]}))
        refused(forged(listed | {name + ".npy": parts["a.npy"]}), "names that are none")


def test_sizes_are_added_up_before_anything_is_allocated():
    """8 TB by the manifest, by a header, and 256 MB in a few bytes: refused for less than the file's size."""
    huge = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
    told = with_manifest(lambda m: m["arrays"]["a"].update(shape=[10**12]))
    endless = with_manifest(lambda m: m["arrays"]["a"].update(shape=[2**62, 2**62]))
    right = with_manifest(lambda m: m["arrays"]["a"].update(sha256=container._digest(huge)))
    bomb = members() | {"a.npy": bytes(1 << 28)}
    cases = [
        (forged(told), "members claim 8000000000"),
        (forged(told | {"a.npy": huge}), "members claim 8000000000"),
        (forged(endless), "members claim"),
        (forged(members() | {"a.npy": huge}), "does not match its checksum"),
        (forged(right | {"a.npy": huge}), r"a is float64 \(1000000000000,\) by its header"),
        (forged(bomb, zipfile.ZIP_DEFLATED), "claims"),
        (forged(members(), zipfile.ZIP_DEFLATED), "claims"),
    ]
    tracemalloc.start()
    for data, match in cases:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        refused(data, match)
        assert tracemalloc.get_traced_memory()[1] - before < len(data) + container.PIECE + (1 << 19)
    tracemalloc.stop()


def test_a_size_in_the_directory_that_is_not_true():
    data = bytearray(forged(members()))
    at = data.rindex(b"a.npy") - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    for size in (8 * 10**8, 10):
        data[at + 20 : at + 28] = struct.pack("<II", size, size)
        refused(sealed(bytes(data)), "members claim|damaged|does not match")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = io.BytesIO()
    np.lib.format.write_array(trap, np.asarray([Trap()], object), allow_pickle=True)
    for data in (trap.getvalue(), pickle.dumps(Trap())):
        for dtype in ("|O", "<f8"):

            def change(m, data=data, dtype=dtype):
                m["arrays"]["a"].update(sha256=container._digest(data), dtype=dtype, shape=[1])

            refused(forged(with_manifest(change) | {"a.npy": data}), "not an array of numbers|header|damaged")
    refused(forged(members() | {MANIFEST: pickle.dumps(Trap())}), "damaged")
    refused(forged(members() | {MANIFEST: "[" * 200_000}), "damaged")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="not an array of numbers"):
        container.pack(io.BytesIO(), Contents({}, {"a": np.asarray([Trap()])}))


@pytest.mark.parametrize("change", [{"format": 2}, {"format": None}, {"arrays": 3}, {"arrays": {"a": 3}}])
def test_manifests_that_are_none(change):
    refused(forged(with_manifest(lambda m: m.update(change))), "format is|damaged|missing|unknown")


def test_a_key_tells_who_wrote_it(tmp_path):
    path = tmp_path / "signed"
    container.write(path, Contents(WORDS, ARRAYS), b"secret")
    assert container.read(path, b"secret").words == WORDS
    for key, match in ((None, "is signed: give hmac_key"), (b"other", "match its seal under this hmac_key")):
        with pytest.raises(CheckpointError, match=match):
            container.read(path, key)
    refused(whole_file(), "not signed", b"secret")
    refused(forged(members() | {"x.pkl": b""}, key=b"guess"), "altered", b"secret")


def test_a_full_disk_leaves_what_was_there(tmp_path):
    folder = checkpoint.Folder(tmp_path / "c", keep=2)
    folder.write(1, Contents({"t": 1}, ARRAYS))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole_file()) // 2, before[1]))
    try:
        for t in (1, 2):
            with pytest.raises(CheckpointError, match=r"too large.*intact"):
                folder.write(t, Contents({"t": 2}, ARRAYS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "c").iterdir()] == [f"{1:015d}.npz"]
    assert folder.newest(lambda c: c.words["t"]) == (1, [])
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        container.read(tmp_path / "none")


def test_the_last_few_are_kept_and_the_newest_good_one_is_found(tmp_path):
    folder = checkpoint.Folder(tmp_path, keep=3)
    for t in (8, 9, 10, 100, 1000):
        folder.write(t, Contents({"t": t}, ARRAYS))
    assert [int(p.stem) for p in folder.files()] == [1000, 100, 10]
    (tmp_path / "000.12345.tmp").write_bytes(b"half")  # of a process that was killed
    files = folder.files()
    files[0].write_bytes(files[0].read_bytes()[:-9])

    def use(found):
        if found.words["t"] == 100:
            raise CheckpointError("ahead of the journal")
        return found.words["t"]

    found, skipped = folder.newest(use)
    assert found == 10
    assert [s.partition(":")[0] for s in skipped] == [files[0].name, files[1].name]
    assert "cut off" in skipped[0]
    assert "ahead of the journal" in skipped[1]
    assert not list(tmp_path.glob("*.tmp"))
    assert checkpoint.Folder(tmp_path / "none").newest(use) == (None, [])
