# SPDX-License-Identifier: Apache-2.0
"""Mitigations without memory bits, behind the sites of an annotated graph: clipping, NaN to 0."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..ortops.errors import InputError
from ..ortops.formats import WORD_FORMATS
from ..runtime.hardening import HARDENING_KEY, Hardening
from ..runtime.sites import Site, read_sites
from .onnx_files import Source, check, light, read_model, write_model
from .onnx_graph import is_store
from .onnx_model import MAX_IR
from .onnx_order import graphs, refill
from .onnx_sessions import check_loads
from .onnx_types import FLOATS, infer_types
from .site_request import PARAMETER_KINDS

_TYPES: dict[int, Any] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.DOUBLE: np.float64,
}
#: Opsets of IsNaN and Where, of Clip with bounds as tensors, and of Clip for doubles.
_NAN_OPSET, _CLIP_OPSET, _DOUBLE_CLIP_OPSET = 9, 11, 12


@dataclass(frozen=True)
class Hardened:
    """What `harden` made.

    Attributes
    ----------
    path : str
    sites : int
        Of the model.
    clipped : tuple of int
        Sites that are clipped.
    nan_to_zero : tuple of int
        Sites at which a NaN reads as 0.
    left_alone : dict from int to str
        Sites that were chosen but stay as they are, and why.
    ranges : dict from int to (low, high)
        Of the clipped sites, as numbers of the tensor's type.
    notes : list of str
        What could not be checked.
    """

    path: str
    sites: int
    clipped: tuple[int, ...]
    nan_to_zero: tuple[int, ...]
    left_alone: dict[int, str]
    ranges: dict[int, tuple[float, float]]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "path": self.path,
            "sites": self.sites,
            "clipped": list(self.clipped),
            "nan_to_zero": list(self.nan_to_zero),
            "left_alone": {str(site): why for site, why in self.left_alone.items()},
            "ranges": {str(site): list(bounds) for site, bounds in self.ranges.items()},
            "notes": self.notes,
        }


def harden(
    model: Any,
    path: str | os.PathLike[str],
    *,
    ranges: Mapping[int, tuple[float, float]] | None = None,
    nan_to_zero: bool = True,
    sites: Collection[int] | None = None,
    source: str = "",
    custom_op_libraries: Sequence[Any] = (),
) -> Hardened:
    """Clip what is read from noisy memory, and read a NaN as 0, in an annotated graph.

    Behind a site's NoisyStore follows ``Where(IsNaN(y), 0, y)``, then ``Clip``, and everything
    that read the site, in subgraphs and as an output of the graph, too, reads the result. Stores,
    noise inputs and the records of the sites stay: the same bits flip. Without clipping, plus and
    minus infinity stay; with it they become the ends of the range.

    Weights and biases are left alone, since they are stored before a trial, and so are integers,
    which have no NaN and a range of their own.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        Annotated; left as it is.
    path : path-like
        Written whole or not at all; weights go to ``<path>.data`` where one file is too small.
    ranges : mapping from site to (low, high), optional
        Such as `noisystore.runtime.clean_ranges.clean_ranges` finds; sites without one are not
        clipped.
    nan_to_zero : bool
    sites : collection of int, optional
        Change only these; None: all.
    source : str
        Where the ranges come from, for the file's metadata.
    custom_op_libraries : sequence of path-like
        Shared libraries with the model's other operators.

    Returns
    -------
    Hardened

    Raises
    ------
    InputError
        No annotated model, one that is hardened already or has nothing to harden, a range or site
        that is none, tensors of bfloat16 (ONNX Runtime's CPU kernels take none), an opset that is
        too old, or a path that cannot be written.

    Examples
    --------
    >>> harden("vgg-a.onnx", "vgg-a-hard.onnx", ranges={0: (0.0, 6.5)}).clipped
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"{os.fspath(path)}: the folder {folder} does not exist; create it")
    read = read_model(model)
    named = Path(model) if not isinstance(model, onnx.ModelProto) else Path("in memory")
    metadata = {p.key: p.value for p in read.model.metadata_props}
    if HARDENING_KEY in metadata:
        raise InputError(
            f"{read.name}: it is hardened already; harden the file that it was made from"
        )
    known = read_sites(metadata, named)
    bounds = _checked_ranges(ranges or {}, len(known))
    wanted = set(range(len(known))) if sites is None else _checked_sites(sites, len(known))
    notes: list[str] = []
    edit = _Edit(read.model, _element_types(read, custom_op_libraries, notes))
    for site in known:
        if site.site in wanted:
            edit.add(site, bounds.get(site.site), nan_to_zero)
    if not edit.nan_to_zero and not edit.ranges:
        raise InputError(_nothing(read.name, edit.left_alone, nan_to_zero))
    edit.finish(source)
    check(read.model)
    read.load_tensors()
    check_loads(read.model, model, custom_op_libraries, notes)
    write_model(read.model, path)
    return Hardened(
        os.fspath(path),
        len(known),
        tuple(edit.ranges),
        tuple(edit.nan_to_zero),
        edit.left_alone,
        edit.ranges,
        notes,
    )


def _checked_ranges(
    ranges: Mapping[int, tuple[float, float]], sites: int
) -> dict[int, tuple[float, float]]:
    _checked_sites(ranges, sites)
    result = {}
    for site, given in ranges.items():
        try:
            low, high = map(float, given)
        except (TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(
                f"ranges: site {site}: expected two finite numbers (low, high) with low <= high, "
                f"got {given!r:.80}"
            )
        result[int(site)] = low, high
    return result


def _checked_sites(given: Collection[int], sites: int) -> set[int]:
    for site in given:
        if not isinstance(site, (int, np.integer)) or not 0 <= site < sites:
            raise InputError(
                f"sites: expected numbers from 0 to {sites - 1}, the model's, got {site!r}"
            )
    return {int(site) for site in given}


def _element_types(source: Source, libraries: Sequence[Any], notes: list[str]) -> dict[str, int]:
    """Find the types of all tensors: those behind a store are those in front of it."""
    copy = light(source.model)
    for node in copy.graph.node:
        if is_store(node):
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    types = infer_types(Source(copy, source.name, source.folder), libraries, notes)
    return {name: kind.code for name, kind in types.items()}


def _nothing(name: str, left_alone: Mapping[int, str], nan_to_zero: bool) -> str:
    if left_alone:
        kinds = ", ".join(sorted(set(left_alone.values())))
        return (
            f"{name}: nothing to harden: the chosen sites are left alone ({kinds}); choose sites "
            "of floating-point activations"
        )
    what = "ranges" if nan_to_zero else "ranges, or nan_to_zero"
    return f"{name}: nothing to harden: give {what} for the chosen sites"


class _Edit:
    """Puts nodes behind the stores of a graph, in place."""

    def __init__(self, model: onnx.ModelProto, types: Mapping[str, int]) -> None:
        self.model, self.graph, self.types = model, model.graph, types
        self.ranges: dict[int, tuple[float, float]] = {}
        self.nan_to_zero: list[int] = []
        self.left_alone: dict[int, str] = {}
        self._stores = {
            next((a.i for a in node.attribute if a.name == "site"), 0): i
            for i, node in enumerate(self.graph.node)
            if is_store(node)
        }
        self._taken: set[str] = set()
        for part in graphs(self.graph):  # a subgraph's own name would hide the outer one
            self._taken |= {n for node in part.node for n in (*node.input, *node.output)}
            self._taken |= {v.name for v in (*part.input, *part.output, *part.initializer)}
            self._taken |= {node.name for node in part.node}
        self._zeros: dict[int, str] = {}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._opset = 0

    def add(self, site: Site, bounds: tuple[float, float] | None, nan_to_zero: bool) -> None:
        """Add what one site needs, or note why it is left alone.

        Raises
        ------
        InputError
            It stores bfloat16 tensors.
        """
        place = self._stores.get(site.site)
        store = None if place is None else self.graph.node[place]
        code = self.types.get(store.input[0], 0) if store is not None else 0
        if site.rows_per_sample == 0 or site.kind in PARAMETER_KINDS:
            self.left_alone[site.site] = "weights and biases"
        elif place is None or store is None or not store.output[0]:
            self.left_alone[site.site] = "in a subgraph, or not read"
        elif code == onnx.TensorProto.BFLOAT16:
            raise InputError(
                f"site {site.site} ({site.name}): expected a tensor of float16, float32 or "
                "float64, got bfloat16, for which ONNX Runtime has no IsNaN, Where and Clip on the "
                "CPU: leave it out, or store bfloat16 in a float32 graph"
            )
        elif code not in FLOATS:
            self.left_alone[site.site] = "integers" if code else "of unknown type"
        else:
            word = WORD_FORMATS.get(site.storage_format)
            nan = nan_to_zero and not (word is not None and word.is_integer)
            if nan or bounds is not None:
                self._put(site.site, place, code, bounds, nan)

    def _put(
        self, site: int, place: int, code: int, bounds: tuple[float, float] | None, nan: bool
    ) -> None:
        """Let the last new node give the tensor that the store gave, whoever reads it."""
        store = self.graph.node[place]
        result, kind = store.output[0], _TYPES[code]
        current = self._unique(f"{result}.read")
        store.output[0] = current
        self._note_type(result, current)
        nodes = []
        if nan:
            if code not in self._zeros:
                self._zeros[code] = self._constant(f"zero.{np.dtype(kind).name}", kind(0))
            found = self._unique(f"{result}.is_nan")
            target = result if bounds is None else self._unique(f"{result}.number")
            nodes.append(self._node("IsNaN", site, [current], found))
            nodes.append(self._node("Where", site, [found, self._zeros[code], current], target))
            current = target
            self.nan_to_zero.append(site)
            self._opset = max(self._opset, _NAN_OPSET)
        if bounds is not None:
            # Not beyond the largest finite number, so that no infinity is left.
            limits = np.clip(bounds, float(np.finfo(kind).min), float(np.finfo(kind).max))
            low, high = (kind(limit) for limit in limits)
            names = [self._constant(f"{result}.{n}", v) for n, v in (("low", low), ("high", high))]
            nodes.append(self._node("Clip", site, [current, *names], result))
            self.ranges[site] = float(low), float(high)
            double = code == onnx.TensorProto.DOUBLE
            self._opset = max(self._opset, _DOUBLE_CLIP_OPSET if double else _CLIP_OPSET)
        self._after[place] = nodes

    def finish(self, source: str) -> None:
        """Put the nodes in, and say in the metadata what was done.

        Raises
        ------
        InputError
            The model's opset is too old and cannot be raised.
        """
        self._raise_opset()
        ordered: list[onnx.NodeProto] = []
        for i, node in enumerate(self.graph.node):
            ordered += [node, *self._after.get(i, ())]
        refill(self.graph.node, ordered)
        done = Hardening(self.ranges, tuple(self.nan_to_zero), source if self.ranges else "")
        self.model.metadata_props.add(key=HARDENING_KEY, value=json.dumps(done.as_dict()))

    def _raise_opset(self) -> None:
        """Raise the opset to that of the new nodes where it changes the meaning of no other."""
        entry = next((o for o in self.model.opset_import if o.domain in ("", "ai.onnx")), None)
        if entry is None:
            self.model.opset_import.append(helper.make_opsetid("", self._opset))
            return
        if entry.version >= self._opset:
            return
        others = [n for g in graphs(self.graph) for n in g.node if n.domain in ("", "ai.onnx")]
        changed = [n.op_type for n in others if not _is_same(n.op_type, entry.version, self._opset)]
        if changed or self.model.functions:
            what = changed[0] if changed else "a function"
            raise InputError(
                f"opset {entry.version}: expected {self._opset} or newer, and {what} may differ "
                "there: convert the model that was annotated with onnx.version_converter first"
            )
        entry.version = self._opset
        needed = helper.find_min_ir_version_for([entry], ignore_unknown=True)
        self.model.ir_version = max(self.model.ir_version, min(needed, MAX_IR))

    def _unique(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _node(self, kind: str, site: int, inputs: Sequence[str], output: str) -> onnx.NodeProto:
        name = self._unique(f"harden.{kind}_{site}")
        return helper.make_node(kind, list(inputs), [output], name=name)

    def _constant(self, name: str, value: Any) -> str:
        name = self._unique(f"harden.{name}")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _note_type(self, known: str, name: str) -> None:
        """Say the type of a tensor, as the file says it of another."""
        for value in (*self.graph.value_info, *self.graph.output):
            if value.name == known:
                self.graph.value_info.add().CopyFrom(value)
                self.graph.value_info[-1].name = name
                return


def _is_same(operator: str, before: int, after: int) -> bool:
    try:
        versions = {onnx.defs.get_schema(operator, v, "").since_version for v in (before, after)}
    except onnx.defs.SchemaError:  # an operator that a runtime adds to ONNX's domain
        return False
    return len(versions) == 1
