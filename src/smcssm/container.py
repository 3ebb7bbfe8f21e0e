"""One file for named arrays and what is to be said of them: a ZIP without compression, sealed as a whole.

    manifest.json      format, the caller's words, and of each array its dtype, shape and SHA-256
    NAME.npy           one per array: NumPy opens them without this package (``numpy.load(path)``)
    the ZIP's comment  SHA-256 of every byte before it, or its HMAC under a key

Reading trusts nothing: the seal is compared before anything is parsed, sizes are added up before anything is
allocated, and no member is taken that the manifest does not name, or whose header says something else than it does.
Nothing is executed: arrays are numbers, the rest is JSON.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import math
import os
import re
import struct
import zipfile
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smcssm.errors import CheckpointError
from smcssm.files import whole, why

FORMAT = 1
MANIFEST, SUFFIX = "manifest.json", ".npy"
PIECE = 1 << 20
PLAIN, SIGNED = b"sha256=", b"hmac256"  # of one length, so that the seal has its place
SEAL = len(PLAIN) + 64
NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
KINDS = "biufM"


class Contents(NamedTuple):
    """What a file holds: the caller's words, and the arrays by name."""

    words: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(path: Path, contents: Contents, key: bytes | None = None) -> None:
    """Write a file whole, or leave what was there.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with whole(path) as file:
            pack(file, contents, key)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {why(error)}. What was there before is intact") from error


def pack(file: BufferedIOBase, contents: Contents, key: bytes | None = None) -> None:
    """Write to an empty file, open for reading as well."""
    listed = {}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in contents.arrays.items():
            if not NAME.fullmatch(name) or array.dtype.kind not in KINDS:
                raise ValueError(f"{name}: {array.dtype} is not an array of numbers with a plain name")
            header, array = io.BytesIO(), np.asarray(array, order="C")
            np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
            raw = [header.getvalue(), array.reshape(-1).view(np.uint8)]
            listed[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _digest(*raw)}
            with archive.open(zipfile.ZipInfo(name + SUFFIX), "w", force_zip64=array.nbytes > 1 << 30) as member:
                for piece in raw:
                    member.write(piece)
        manifest = {"format": FORMAT, "words": contents.words, "arrays": listed}
        archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, allow_nan=False, indent=1))
        archive.comment = (PLAIN if key is None else SIGNED) + b"0" * 64
    seal = _seal(file, file.seek(0, os.SEEK_END) - 64, key)
    file.seek(-64, os.SEEK_END)
    file.write(seal.encode())


def read(path: Path, key: bytes | None = None) -> Contents:
    """Read and check a file.

    Raises:
        CheckpointError: it is not whole, was altered, or is no such file; the text says what was found.
    """
    try:
        with open(path, "rb") as file:
            return unpack(file, str(path), key)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {why(error)}") from error


def unpack(file: BufferedIOBase, name: str, key: bytes | None = None) -> Contents:
    """The contents of an open file."""
    size = _check_seal(file, name, key)
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = _manifest(archive, size)
            _check_members(archive.infolist(), manifest["arrays"], size)
            arrays = {n: _array(archive, n, about) for n, about in manifest["arrays"].items()}
            return Contents(manifest["words"], arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{name} is not to be trusted: {error}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged, or no checkpoint: {error!r}") from error
    except (NotImplementedError, RuntimeError, struct.error) as error:  # zipfile's, of exotic members
        raise CheckpointError(f"{name} is no checkpoint: {error}") from error


def _check_seal(file: BufferedIOBase, name: str, key: bytes | None) -> int:
    """Compare the seal of the whole file; returns the file's size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - SEAL, 0))
    end = file.read(SEAL)
    kind, seal = end[: len(PLAIN)], end[len(PLAIN) :]
    if kind not in (PLAIN, SIGNED):
        raise CheckpointError(f"{name} is cut off, or no checkpoint: it has {size} bytes and does not end in a seal")
    if key is None and kind == SIGNED:
        raise CheckpointError(f"{name} is signed: give hmac_key=, the key that it was written with")
    if key is not None and kind == PLAIN:
        raise CheckpointError(f"{name} is not signed, and hmac_key= was given: it may be anybody's")
    if not hmac.compare_digest(_seal(file, size - 64, key).encode(), seal):
        whose = "" if key is None else " under this hmac_key"
        raise CheckpointError(f"{name} was altered: its bytes do not match its seal{whose}")
    return size


def _manifest(archive: zipfile.ZipFile, size: int) -> dict[str, Any]:
    if [m.filename for m in archive.infolist()].count(MANIFEST) != 1:
        raise CheckpointError(f"it has no {MANIFEST}, or several")
    info = archive.getinfo(MANIFEST)
    if info.file_size != info.compress_size or info.file_size > size:
        raise CheckpointError(f"{MANIFEST} claims {info.file_size} bytes, the file has {size}")
    manifest = json.loads(archive.read(info))
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"its format is {manifest['format']}; this version of smcssm reads {FORMAT}")
    return manifest


def _check_members(members: list[zipfile.ZipInfo], listed: dict[str, Any], size: int) -> None:
    """Members are those of the manifest, and as large as it says; before any is read."""
    names = [m.filename for m in members]
    expected = {MANIFEST, *(name + SUFFIX for name in listed)}
    unknown = sorted({n for n in names if n not in expected or names.count(n) > 1})
    missing = sorted(expected - set(names))
    odd = sorted(n for n in listed if not NAME.fullmatch(n))
    if unknown or missing or odd:
        told = [f"{what} {', '.join(map(repr, some[:3]))}" for what, some in _named(unknown, missing, odd) if some]
        raise CheckpointError("; ".join(told))
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            claim = f"{member.file_size} bytes out of {member.compress_size}"
            raise CheckpointError(f"{member.filename} is compressed, and claims {claim}")
    total = sum(m.file_size for m in members)
    claimed = sum(_size(n, about) for n, about in listed.items())
    if max(total, claimed) > size:
        raise CheckpointError(f"its members claim {max(total, claimed)} bytes, the file has {size}")


def _named(unknown: list[str], missing: list[str], odd: list[str]) -> list[tuple[str, list[str]]]:
    return [("unknown or repeated members", unknown), ("members are missing:", missing), ("names that are none:", odd)]


def _size(name: str, about: dict[str, Any]) -> int:
    """Bytes of an array by the manifest."""
    dtype, shape = np.dtype(about["dtype"]), about["shape"]
    if dtype.kind not in KINDS or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(f"{name} is not an array of numbers: {about['dtype']!r}, {shape}")
    return math.prod(shape) * dtype.itemsize


def _array(archive: zipfile.ZipFile, name: str, about: dict[str, Any]) -> np.ndarray:
    """One array; its member is no larger than the file."""
    raw = archive.read(name + SUFFIX)
    if _digest(raw) != about["sha256"]:
        raise CheckpointError(f"{name} does not match its checksum")
    data = io.BytesIO(raw)
    if np.lib.format.read_magic(data) != (1, 0):
        raise CheckpointError(f"{name} has an unknown header")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(data)
    told = (np.dtype(about["dtype"]), tuple(about["shape"]))
    if (dtype, shape) != told or by_columns or dtype.hasobject:
        raise CheckpointError(f"{name} is {dtype} {shape} by its header, and {told[0]} {told[1]} by the manifest")
    if len(raw) - data.tell() != _size(name, about):
        raise CheckpointError(f"{name} has {len(raw) - data.tell()} bytes for {shape} of {dtype}")
    return np.frombuffer(raw, dtype, offset=data.tell()).reshape(shape).copy()


def _seal(file: BufferedIOBase, size: int, key: bytes | None) -> str:
    """Of the first ``size`` bytes, a piece at a time."""
    state = hashlib.sha256() if key is None else hmac.new(key, digestmod="sha256")
    file.seek(0)
    while size > 0 and (piece := file.read(min(PIECE, size))):
        state.update(piece)
        size -= len(piece)
    return state.hexdigest()


def _digest(*pieces: Any) -> str:
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()
