"""Which entries of a PyTensor matrix are constants, told from its graph.

Followed are stacking, joining, transposing, diagonal and block-diagonal matrices, set_subtensor with fixed indices,
casts, specified shapes, products with a known zero, and elementwise functions of constants; what comes in another way
counts as not constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.scalar.basic import Cast, Identity, Mul
from pytensor.tensor.basic import Alloc, AllocDiag, Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.linalg.constructors import BlockDiagonal
from pytensor.tensor.shape import SpecifyShape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, IncSubtensor, Subtensor, indices_from_subtensor

Index = tuple[int, ...]


def constant_entry(matrix: Any, index: Index) -> float | None:
    """The number at an index, or None where it is computed."""
    if isinstance(matrix, Constant):
        return float(np.asarray(matrix.data)[index])
    op = matrix.owner.op if matrix.owner else None
    op = getattr(op, "core_op", op) if matrix.ndim == len(index) == 2 else op
    rule = next((rule for kind, rule in _RULES.items() if isinstance(op, kind)), None)
    return None if rule is None else rule(op, matrix.owner.inputs, index)


def _elemwise(op: Any, inputs: list[Any], index: Index) -> float | None:
    entries = [_broadcast_entry(v, index) for v in inputs]
    if isinstance(op.scalar_op, Mul) and 0.0 in entries:
        return 0.0
    if isinstance(op.scalar_op, Cast | Identity):
        return entries[0]
    if any(e is None for e in entries):
        return None
    out = [[None]]
    op.perform(op.make_node(*entries), [np.asarray(e) for e in entries], out)
    return float(np.asarray(out[0][0]))


def _broadcast_entry(variable: Any, index: Index) -> float | None:
    return constant_entry(
        variable, tuple(0 if size == 1 else i for i, size in zip(index, variable.type.shape, strict=True))
    )


def _dimshuffle(op: Any, inputs: list[Any], index: Index) -> float | None:
    back = [0] * inputs[0].ndim
    for i, axis in zip(index, op.new_order, strict=True):
        if axis != "x":
            back[axis] = i
    return constant_entry(inputs[0], tuple(back))


def _join(op: Any, inputs: list[Any], index: Index) -> float | None:
    axis, parts = (op.axis, inputs) if hasattr(op, "axis") else (int(inputs[0].data), inputs[1:])
    place = index[axis]
    for part in parts:
        size = part.type.shape[axis]
        if size is None:
            return None
        if place < size:
            return constant_entry(part, (*index[:axis], place, *index[axis + 1 :]))
        place -= size
    return None


def _make_vector(op: Any, inputs: list[Any], index: Index) -> float | None:
    return constant_entry(inputs[index[0]], ())


def _alloc(op: Any, inputs: list[Any], index: Index) -> float | None:
    value = inputs[0]
    return _broadcast_entry(value, index[len(index) - value.ndim :])


def _alloc_diag(op: Any, inputs: list[Any], index: Index) -> float | None:
    if inputs[0].ndim != 1 or op.offset != 0:
        return None
    return constant_entry(inputs[0], index[:1]) if index[0] == index[1] else 0.0


def _block_diagonal(op: Any, inputs: list[Any], index: Index) -> float | None:
    row, column = index
    for block in inputs:
        if None in block.type.shape:
            return None
        n, m = block.type.shape
        if row < n or column < m:
            return constant_entry(block, (row, column)) if row < n and column < m else 0.0
        row, column = row - n, column - m
    return None


def _same(op: Any, inputs: list[Any], index: Index) -> float | None:
    return constant_entry(inputs[0], index)


def _set_subtensor(op: Any, inputs: list[Any], index: Index) -> float | None:
    """Where the index lies in what was set, its entry there; otherwise the entry of what there was."""
    into, values, *rest = inputs
    where = _fixed(rest, op.idx_list)
    if where is None or not op.set_instead_of_inc or None in into.type.shape or None in values.type.shape:
        return None
    numbers = np.arange(int(np.prod(values.type.shape, dtype=int))).reshape(values.type.shape)
    places = np.full(into.type.shape, -1)
    places[where] = numbers
    place = places[index]
    if place < 0:
        return constant_entry(into, index)
    return constant_entry(values, tuple(map(int, np.unravel_index(place, values.type.shape))) if values.ndim else ())


def _subtensor(op: Any, inputs: list[Any], index: Index) -> float | None:
    source, *rest = inputs
    where = _fixed(rest, op.idx_list)
    if where is None or None in source.type.shape:
        return None
    place = int(np.arange(int(np.prod(source.type.shape))).reshape(source.type.shape)[where][index])
    return constant_entry(source, tuple(map(int, np.unravel_index(place, source.type.shape))))


def _fixed(inputs: list[Any], idx_list: Any) -> tuple | None:
    """The index as numbers and slices, if all of it is known."""

    def number(v: Any) -> Any:
        if hasattr(v, "owner") and v.owner is not None and isinstance(v.owner.op, ScalarFromTensor):
            v = v.owner.inputs[0]
        if not isinstance(v, Constant) or v.data is None:
            return v
        return int(v.data) if np.ndim(v.data) == 0 else np.asarray(v.data)

    def part(i: Any) -> Any:
        if isinstance(i, slice):
            return slice(*(None if v is None else number(v) for v in (i.start, i.stop, i.step)))
        return number(i)

    where = tuple(part(i) for i in indices_from_subtensor(inputs, idx_list))
    flat = [v for i in where for v in ((i.start, i.stop, i.step) if isinstance(i, slice) else (i,))]
    return where if all(v is None or isinstance(v, int | np.ndarray) for v in flat) else None


_RULES: dict[type, Any] = {
    Elemwise: _elemwise,
    DimShuffle: _dimshuffle,
    Join: _join,
    MakeVector: _make_vector,
    Alloc: _alloc,
    TensorFromScalar: _same,
    ScalarFromTensor: _same,
    SpecifyShape: _same,
    AllocDiag: _alloc_diag,
    BlockDiagonal: _block_diagonal,
    IncSubtensor: _set_subtensor,
    AdvancedIncSubtensor: _set_subtensor,
    Subtensor: _subtensor,
}
