# SPDX-License-Identifier: Apache-2.0
"""Put NoisyStore at the sites of a PyTorch model, and set its noise."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..ortops.errors import InputError
from .examples import flatten_args
from .site_formats import parse_formats
from .site_request import Request, parse_sites
from .sites import Choice, find_sites, split_sites
from .torch_graph import Trace, dataflow, trace
from .torch_op import NOISE_NAMES, NoisyStore, noise_tensors
from .torch_stores import NoisyTrace, Site, insert_stores, links, rows_of


class Instrumented(nn.Module):
    """A model whose sites go through NoisyStore; clean until `noise` says otherwise.

    It shares the model's parameters and buffers, so training it trains the model. It is traced
    at its first call, once for each training mode, input shape and state of autocast; the batch
    size is free.
    """

    def __init__(self, model: nn.Module, request: Request, formats: Mapping[str, str]) -> None:
        super().__init__()
        self.model = model
        self.request = request
        self.formats = dict(formats)
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
            (v.dtype, v.device, tuple(v.shape[1:]), v.dim())
            if isinstance(v, Tensor)
            else (type(v), v)
            for v in leaves
        )
        # Autocast gives tensors other types, which the sites' words follow.
        casts = tuple(
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            for kind in ("cpu", "cuda")
        )
        form = (spec, shapes, casts)
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
        rows = rows_of(traced, choices, self._rows.get(form), measure=not training)
        if not training:
            self._rows[form] = rows
        return self._insert(traced, choices, rows)

    def traced_without_parameters(self, args: tuple[Any, ...]) -> tuple[NoisyTrace, Request | None]:
        """Trace anew in the present mode, and leave the parameters to the writer of a file.

        Returns
        -------
        NoisyTrace
            With the sites that are no parameters, if there are any.
        Request or None
            What asks for parameters.

        Raises
        ------
        InputError
            The model cannot be traced, or has no such site.
        """
        traced = trace(self.model, args)
        choices, rest = split_sites(dataflow(traced.module, self.model), self.request)
        rows = rows_of(traced, choices, None, measure=True)
        return self._insert(traced, choices, rows), rest

    def _insert(self, traced: Trace, choices: list[Choice], rows: list[int]) -> NoisyTrace:
        sites, word_formats = insert_stores(traced, choices, rows, self.formats)
        return NoisyTrace(traced, sites, word_formats, links(traced.module, self.model))

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
        tensors = noise_tensors(len(noisy.sites), formats=noisy.word_formats, **self.noise)
        result = noisy.trace.module(*leaves, *tensors)
        return pytree.tree_unflatten(list(result), noisy.trace.out_spec)


def instrument(
    model: nn.Module,
    *,
    sites: Any = "activation",
    storage_format: str | Mapping[str, str] = "native",
    args: Any = None,
) -> Instrumented:
    """Wrap a model so that the tensors at its sites go through NoisyStore.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is; parameters are shared with it.
    sites : str or sequence
        "activation", "layer", "input", "weight", "bias", or a list of these, of module types and
        of name patterns. "weight" and "bias" are the stored parameters of convolutions, linear
        layers and normalisations, each one site however many layers read it. A pattern such as
        "features.*" chooses results; one that matches none chooses parameters, as "*.weight".
    storage_format : str or mapping
        How values are held in memory; "native" is each tensor's own type. By kind of site too:
        ``{"weight": "bfloat16", "activation": "float16"}`` or "weight=bfloat16,activation=float16".
    args : torch.Tensor or tuple, optional
        Example arguments to trace with now; by default the first call's are taken.

    Notes
    -----
    Parameters are stored as the module holds them, and their gradients pass straight through;
    the noise of a parameter depends on the seed and the site alone.

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
    wrapped = Instrumented(model, parse_sites(sites), parse_formats(storage_format))
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
    bit_mask : int, str, or array_like [S] of them, optional
        Bits that may flip, as numbers or names (`noisystore.ortops.bit_mask`); by default every
        bit.
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
            noise_tensors(len(module.sites), formats=module._latest.word_formats, **settings)
    formats = [None if m.storage_format == "native" else m.storage_format for m in stores]
    tensors = noise_tensors(len(stores), formats=formats, **settings) if stores else ()
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
