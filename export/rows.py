# SPDX-License-Identifier: Apache-2.0
"""How many rows of axis 0 of a tensor belong to one sample: measured, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ..ortops.errors import InputError
from .examples import batched_example
from .torch_graph import Trace

_BATCH = 3
_CHANGED = 1
_ATTEMPTS = 3


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps a copy of chosen tensors."""

    def __init__(self, module: fx.GraphModule, watched: Sequence[fx.Node]) -> None:
        super().__init__(module)
        self.watched = set(watched)
        self.kept: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.watched:
            self.kept[n] = value.detach().clone()
        return value


def measure_rows(traced: Trace, nodes: Sequence[fx.Node]) -> list[int]:
    """Find rows_per_sample of tensors by running the clean graph.

    The number of rows must be the same multiple of two batch sizes, and changing one sample of
    a batch may change only its rows. A model whose first output mixes samples has no rows of a
    sample at all, for the batch is its sample.

    Parameters
    ----------
    traced : Trace
        In evaluation mode.
    nodes : sequence of torch.fx.Node

    Returns
    -------
    list of int
        -1 where a tensor has no batch axis in front.

    Raises
    ------
    InputError
        The graph does not run on the example at these batch sizes.
    """
    generator = torch.Generator().manual_seed(0)
    batched = traced.batched
    output = _first_output(traced)
    watched = list(dict.fromkeys([*nodes, *([output] if output is not None else [])]))
    base = _varied(batched_example(traced.example, _BATCH, batched), batched, None, generator)
    first = _run(traced, watched, base)
    other = _run(traced, watched, batched_example(traced.example, _BATCH - 1, batched))
    rows = {node: _rows(first[node], other[node]) for node in watched}
    pending = {node for node, count in rows.items() if count > 0}
    mixed = set()
    for _ in range(_ATTEMPTS):
        if not pending:
            break
        changed = _run(traced, watched, _varied(base, batched, _CHANGED, generator))
        for node in list(pending):
            if first[node].shape != changed[node].shape:  # its length depends on the values
                rows[node] = -1
                pending.discard(node)
                continue
            moved = _changed_rows(first[node], changed[node])
            own = torch.zeros_like(moved)
            own[_CHANGED * rows[node] : (_CHANGED + 1) * rows[node]] = True
            if bool((moved & ~own).any()):
                mixed.add(node)
            if bool(moved.any()):
                pending.discard(node)
    if output in mixed and rows[output] == 1:
        return [-1] * len(nodes)
    return [-1 if node in mixed else rows[node] for node in nodes]


def _first_output(traced: Trace) -> fx.Node | None:
    """First tensor of the result, if the graph computes one."""
    end = next(node for node in traced.module.graph.nodes if node.op == "output")
    leaves = (leaf for leaf in pytree.tree_leaves(end.args) if isinstance(leaf, fx.Node))
    return next((leaf for leaf in leaves if isinstance(leaf.meta.get("val"), Tensor)), None)


def _run(
    traced: Trace, nodes: Sequence[fx.Node], example: tuple[Any, ...]
) -> dict[fx.Node, Tensor]:
    recorder = _Recorder(traced.module, nodes)
    recorder.extra_traceback = False
    try:
        with torch.no_grad():
            recorder.run(*example)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            f"the model does not run on example arguments of {traced.batch} samples repeated or "
            f"cut to {_BATCH} or {_BATCH - 1}: {type(error).__name__}: {first}"
        ) from error
    return recorder.kept


def _rows(first: Tensor, other: Tensor) -> int:
    if not first.dim() or not other.dim() or not first.numel():
        return -1
    rows, rest = divmod(first.shape[0], _BATCH)
    return rows if rows and not rest and other.shape[0] == rows * (_BATCH - 1) else -1


def _changed_rows(before: Tensor, after: Tensor) -> Tensor:
    """Rows that differ by more than the rounding of a differently blocked product."""
    rounding = 8 * torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
    a, b = (tensor.reshape(len(tensor), -1).double() for tensor in (before, after))
    same = (a == b) | (a.isnan() & b.isnan())
    span = a.nan_to_num(posinf=0, neginf=0).abs().amax() if a.numel() else a.new_zeros(())
    return (~same & ~((a - b).abs() <= max(1e-6, rounding) * span)).any(dim=1)


def _varied(
    example: tuple[Any, ...],
    batched: Sequence[int],
    sample: int | None,
    generator: torch.Generator,
) -> tuple[Any, ...]:
    """Draw new values, like the example's, for one sample or for all."""

    def vary(leaf: Tensor) -> Tensor:
        if not leaf.numel():
            return leaf
        if leaf.dtype.is_floating_point:
            spread = float(leaf.double().std(correction=0)) or 1.0
            new = torch.randn(leaf.shape, generator=generator) * spread + float(
                leaf.double().mean()
            )
        else:
            pick = torch.randint(leaf.numel(), tuple(leaf.shape), generator=generator)
            new = leaf.reshape(-1)[pick.to(leaf.device)]
        new = new.to(leaf)
        if sample is None:
            return new
        result = leaf.clone()
        result[sample] = new[sample]
        return result

    return tuple(vary(leaf) if i in batched else leaf for i, leaf in enumerate(example))
