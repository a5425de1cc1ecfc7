# SPDX-License-Identifier: Apache-2.0
"""Put NoisyStore at the sites of a PyTorch model, and set its noise."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ..ortops.errors import InputError
from .examples import flatten_args
from .kinds import STORE
from .rows import measure_rows
from .sites import Choice, Request, find_sites, parse_sites
from .storage import check_name, site_format, word_bits
from .torch_graph import Trace, dataflow, is_symbolic, trace
from .torch_op import NOISE_NAMES, NoisyStore, noise_tensors


@dataclass(frozen=True)
class Site:
    """One site's record, as it stands in the exported file's metadata."""

    site: int
    name: str
    kind: str
    op: str
    storage_format: str
    elements: int
    bits_per_word: int
    rows_per_sample: int

    def as_dict(self) -> dict[str, Any]:
        """Give the record as a dictionary."""
        return asdict(self)


@dataclass
class NoisyTrace:
    """A traced model with its NoisyStore nodes; the noise inputs follow the model's own."""

    trace: Trace
    sites: list[Site]
    links: list[tuple[nn.Module, str, nn.Module, str]]


class Instrumented(nn.Module):
    """A model whose sites go through NoisyStore; clean until `noise` says otherwise.

    It shares the model's parameters and buffers, so training it trains the model. It is traced
    at its first call, once for each training mode and input shape; the batch size is free.
    """

    def __init__(self, model: nn.Module, request: Request, storage_format: str) -> None:
        super().__init__()
        self.model = model
        self.request = request
        self.storage_format = storage_format
        self.noise: dict[str, Any] = {}
        self._traces: dict[Any, NoisyTrace] = {}
        self._rows: dict[Any, list[int]] = {}
        self._latest: NoisyTrace | None = None
        self.training = model.training

    @property
    def sites(self) -> list[Site]:
        """Records of the sites, by number.

        Raises
        ------
        InputError
            The model is not traced yet.
        """
        if self._latest is None:
            raise InputError("the sites are known after the first call; or pass args to instrument")
        return self._latest.sites

    def traced(self, args: tuple[Any, ...]) -> NoisyTrace:
        """Trace for these arguments in the present mode, or give the trace made before.

        Raises
        ------
        InputError
            The model cannot be traced, or has no such site.
        """
        leaves, spec = flatten_args(args)
        shapes = tuple(
            (v.dtype, tuple(v.shape[1:]), v.dim()) if isinstance(v, Tensor) else (type(v), v)
            for v in leaves
        )
        form = (spec, shapes)
        odd = [type(v).__name__ for v in leaves if not isinstance(v, (Tensor, Hashable))]
        if odd:
            raise InputError(f"arguments: expected tensors and numbers, got {odd[0]}")
        key = (tuple(m.training for m in self.model.modules()), form)
        found = self._traces.get(key)
        if found is None:
            found = self._traces[key] = self._build(args, form)
        self._latest = found
        return found

    def _build(self, args: tuple[Any, ...], form: Any) -> NoisyTrace:
        training = any(m.training for m in self.model.modules())
        if training and form not in self._rows:
            with evaluating(self.model):
                self.traced(args)
        traced = trace(self.model, args)
        choices = find_sites(dataflow(traced.module, self.model), self.request)
        handles = [choice.node.handle for choice in choices]
        rows = self._rows.get(form)
        if training and (rows is None or len(rows) != len(handles)):
            rows = [_rows_by_shape(node.meta["val"], traced.batch) for node in handles]
        elif rows is None:
            rows = self._rows[form] = measure_rows(traced, handles)
        sites = insert_stores(traced, choices, rows, self.storage_format)
        return NoisyTrace(traced, sites, _links(traced.module, self.model))

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Run the model with the noise that is set.

        Parameters
        ----------
        *args
            The model's, by position.
        **keywords
            None: a traced graph and an ONNX file take arguments by position.

        Raises
        ------
        InputError
            A keyword argument, or a model that cannot be traced with these arguments.
        """
        if keywords:
            raise InputError(
                f"an instrumented model takes arguments by position, got {next(iter(keywords))!r} "
                "by keyword; wrap the model in a module whose forward passes it on"
            )
        noisy = self.traced(args)
        for copy, name, owner, attribute in noisy.links:
            tensor = getattr(owner, attribute)
            if getattr(copy, name) is not tensor:
                setattr(copy, name, tensor)
        leaves, _ = flatten_args(args)
        result = noisy.trace.module(*leaves, *noise_tensors(len(noisy.sites), **self.noise))
        return pytree.tree_unflatten(list(result), noisy.trace.out_spec)


def instrument(
    model: nn.Module,
    *,
    sites: Any = "activation",
    storage_format: str = "native",
    args: Any = None,
) -> Instrumented:
    """Wrap a model so that the tensors at its sites go through NoisyStore.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is; parameters are shared with it.
    sites : str or sequence
        "activation", "layer", "input", or a list of these, of module types and name patterns.
    storage_format : str
        How values are held in memory; "native" is each tensor's own type.
    args : torch.Tensor or tuple, optional
        Example arguments to trace with now; by default the first call's are taken.

    Returns
    -------
    Instrumented
        A module with the model's signature (positional arguments), and its ``sites``.

    Raises
    ------
    InputError
        Bad ``sites`` or format, or (with args) a model that cannot be traced.

    Examples
    --------
    >>> noisy = instrument(model)
    >>> with noise(noisy, bit_error_rate=1e-4, seed=1):
    ...     logits = noisy(images)
    """
    if isinstance(model, Instrumented):
        raise InputError("instrument: the model is instrumented already; pass the original")
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    check_name(storage_format)
    wrapped = Instrumented(model, parse_sites(sites), storage_format)
    if args is not None:
        wrapped.traced(args if isinstance(args, tuple) else (args,))
    return wrapped


@contextmanager
def noise(
    model: nn.Module,
    bit_error_rate: Any,
    bit_mask: Any = None,
    seed: int = 0,
    sample_index: Any = 0,
) -> Iterator[None]:
    """Set the noise of a model within a block, and restore what was set before.

    Parameters
    ----------
    model : torch.nn.Module
        Of `instrument`, or one that holds `NoisyStore` modules (numbered in module order).
    bit_error_rate : float, (p01, p10), or array_like [S, 2]
    bit_mask : int or array_like [S], optional
        Bits that may flip; by default every bit.
    seed : int
    sample_index : int or array_like [N]
        Data-set index of the batch's first sample, or of each sample.

    Raises
    ------
    InputError
        The model holds no site, or a value is out of range.
    """
    settings = {
        "bit_error_rate": bit_error_rate,
        "bit_mask": bit_mask,
        "seed": seed,
        "sample_index": sample_index,
    }
    wrapped = [m for m in model.modules() if isinstance(m, Instrumented)]
    inside = {m for w in wrapped for m in w.modules()}
    stores = [m for m in model.modules() if isinstance(m, NoisyStore) and m not in inside]
    if not wrapped and not stores:
        raise InputError(
            "noise: expected a model from instrument() or one that holds NoisyStore modules, "
            f"got a {type(model).__name__} with neither"
        )
    for module in wrapped:
        if module._latest is not None:
            noise_tensors(len(module.sites), **settings)
    tensors = noise_tensors(len(stores), **settings) if stores else ()
    before = [module.noise for module in wrapped]
    kept = [(m.site, *(getattr(m, name) for name in NOISE_NAMES)) for m in stores]
    try:
        for module in wrapped:
            module.noise = settings
        for number, module_store in enumerate(stores):
            _set(module_store, number, tensors)
        yield
    finally:
        for module, previous in zip(wrapped, before, strict=True):
            module.noise = previous
        for module_store, (number, *previous_tensors) in zip(stores, kept, strict=True):
            _set(module_store, number, tuple(previous_tensors))


def _set(store: NoisyStore, site: int, tensors: tuple[Tensor, ...]) -> None:
    store.site = site
    for name, tensor in zip(NOISE_NAMES, tensors, strict=True):
        setattr(store, name, tensor)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode within a block, module by module as it was after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def insert_stores(
    traced: Trace, choices: list[Choice], rows: list[int], storage_format: str
) -> list[Site]:
    """Put a NoisyStore at every chosen tensor and give the graph its four noise inputs.

    Parameters
    ----------
    traced : Trace
        Changed in place.
    choices : list of Choice
        Of `find_sites`, in execution order.
    rows : list of int
        rows_per_sample of each.
    storage_format : str
        Of all but the NoisyStore modules, which keep their own.

    Returns
    -------
    list of Site
        In execution order.

    Raises
    ------
    InputError
        The format cannot hold a site's type.
    """
    graph = traced.module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    taken = {node.target for node in graph.nodes if node.op == "placeholder"}
    inputs = []
    for name, value in zip(NOISE_NAMES, noise_tensors(len(choices)), strict=True):
        with graph.inserting_after(last):
            own = f"noise_{name}"
            while own in taken:
                own += "_"
            last = graph.placeholder(own)
        last.meta["val"] = value
        inputs.append(last)
    records = []
    for number, (choice, rows_per_sample) in enumerate(zip(choices, rows, strict=True)):
        node: fx.Node = choice.node.handle
        value = node.meta["val"]
        format_ = storage_format
        if choice.op == STORE:
            source, *_, format_, scale, zero_point, _ = _bound_arguments(node)
            format_ = site_format(format_, value.dtype)
            node.args = (source, *inputs, number, format_, scale, zero_point, rows_per_sample)
            node.kwargs = {}
        else:
            format_ = site_format(format_, value.dtype)
            with graph.inserting_after(last if node.op == "placeholder" else node):
                new = graph.call_function(
                    torch.ops.noisystore.store.default,
                    (node, *inputs, number, format_, 1.0, 0, rows_per_sample),
                )
            new.meta = dict(node.meta)
            for user in [user for user in node.users if user is not new]:
                user.replace_input_with(node, new)
        records.append(
            Site(
                site=number,
                name=choice.name,
                kind=choice.kind,
                op=choice.op,
                storage_format=format_,
                elements=_elements(value, traced.batch),
                bits_per_word=word_bits(format_, value.dtype),
                rows_per_sample=rows_per_sample,
            )
        )
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    graph.lint()
    traced.module.recompile()
    return records


def _bound_arguments(node: fx.Node) -> list[Any]:
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    given.update(node.kwargs)
    return [given.get(a.name, a.default_value) for a in schema.arguments]


def _length(length: Any) -> int:
    """Length of a traced axis; of a symbolic one, that of the example."""
    known: Any = length.node.hint if isinstance(length, torch.SymInt) else length
    return int(known)


def _rows_by_shape(value: Tensor, batch: int) -> int:
    rows, rest = divmod(_length(value.shape[0]) if value.dim() else 1, batch)
    return -1 if rest else rows


def _elements(value: Tensor, batch: int) -> int:
    """Elements per sample of a traced tensor, from the hint of its symbolic batch size."""
    total = math.prod(_length(length) for length in value.shape)
    grows = any(is_symbolic(length) for length in value.shape)
    return total // batch if grows and total % batch == 0 else total


def _links(module: fx.GraphModule, model: nn.Module) -> list[tuple[nn.Module, str, nn.Module, str]]:
    """Pair every parameter and buffer of the graph with the model's own."""
    owners = dict(model.named_modules(remove_duplicate=False))
    links = []
    for path, copy in module.named_modules(remove_duplicate=False):
        for name in [*copy._parameters, *copy._buffers]:
            owner = owners.get(path)
            if owner is not None and (name in owner._parameters or name in owner._buffers):
                links.append((copy, name, owner, name))
    return links
