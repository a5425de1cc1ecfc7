# SPDX-License-Identifier: Apache-2.0
"""PyTorch front end: trace a module to a flat FX graph, and show it to the site rules."""

from __future__ import annotations

import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ..ortops.errors import InputError
from .dataflow import Node, Scope
from .examples import batch_size, batched, batched_example, flatten_args
from .kinds import ACTIVATIONS, ATEN_KINDS, FILLED, STORE
from .regions import inline_grad_regions, refuse_hidden_activations
from .torch_parameters import Parameters, attribute, is_view

_MULTIPLE = frozenset({"max_pool", "layer_norm", "batch_norm", "group_norm"})


@dataclass
class Trace:
    """A module as a flat FX graph.

    Attributes
    ----------
    module : torch.fx.GraphModule
        Takes the leaves of the arguments, gives the leaves of the result; shares the model's
        parameters and buffers.
    in_spec, out_spec : TreeSpec
        How arguments and result are put together.
    example : tuple
        The flat arguments it was traced with.
    batch : int
        Their batch size.
    batched : list of int
        Positions of the arguments whose axis 0 follows it.
    """

    module: fx.GraphModule
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    example: tuple[Any, ...]
    batch: int
    batched: list[int]


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Silence the exporter: warnings, log lines and prints."""
    if verbose:
        yield
        return
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Trace attention and encoder layers as their parts, not as one fused call."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def trace(model: nn.Module, args: Any) -> Trace:
    """Trace a model in its present mode, for any batch size.

    Parameters
    ----------
    model : torch.nn.Module
    args : torch.Tensor or tuple
        Example arguments; axis 0 runs over the batch. A batch of one is repeated.

    Returns
    -------
    Trace

    Raises
    ------
    InputError
        The model cannot be traced, or only for one batch size.
    """
    _refuse_keywords(model)
    leaves, in_spec = flatten_args(args)
    size = max(batch_size(leaves), 2)
    long = batched(leaves)
    example = batched_example(leaves, size, long)
    grown = pytree.tree_unflatten(list(example), in_spec)
    free = {0: torch.export.Dim.AUTO}
    dims = [free if i in long else None for i in range(len(example))]
    shapes = pytree.tree_unflatten(dims, in_spec)
    try:
        with _no_fast_path(), quiet():
            exported = torch.export.export(model, grown, dynamic_shapes=shapes)
            keywords = {}
            if "check_guards" in inspect.signature(exported.module).parameters:
                keywords["check_guards"] = False
            traced: Any = exported.module(**keywords)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"cannot trace {type(model).__name__} with torch.export: "
            f"{type(error).__name__}: {lines[0] if lines else ''}"
        ) from error
    graph = traced.graph
    graph.set_codegen(fx.graph.CodeGen())
    module = fx.GraphModule(traced, graph)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    lengths = {i: placeholders[i].meta["val"].shape[0] for i in long}
    if not is_symbolic(lengths[long[0]]):
        raise InputError(
            f"{type(model).__name__} fixes the batch size to {size} (input "
            f"{placeholders[long[0]].name!r}); expected a model that takes any batch size on axis 0"
        )
    long = [i for i in long if is_symbolic(lengths[i])]  # the others are as long by chance
    inline_grad_regions(module)
    refuse_hidden_activations(module)
    make_functional(module)
    module.recompile()
    out_spec = exported.call_spec.out_spec
    return Trace(module, in_spec, out_spec, example, size, long)


def _refuse_keywords(model: nn.Module) -> None:
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise InputError(
                f"{type(model).__name__} needs the keyword-only argument {name!r}, but a graph "
                "takes arguments by position; wrap it in a module whose forward passes it on"
            )


def is_symbolic(length: Any) -> bool:
    """Say whether a traced length follows the batch size."""
    return isinstance(length, torch.SymInt) and length.node.maybe_as_int() is None


def make_functional(module: fx.GraphModule) -> None:
    """Replace in-place operations on activations by their functional forms where that is exact.

    Raises
    ------
    InputError
        An activation function is applied in place to a view whose base is read later.
    """
    graph = module.graph
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        functional = _functional_form(node)
        if functional is None:
            continue
        target = node.args[0]
        aliases = _aliases(target)
        if any(alias.op == "get_attr" for alias in aliases):
            continue
        now = position[node]
        elsewhere = any(
            position[user] > now
            for alias in aliases
            if alias is not target and position[alias] < now
            for user in alias.users
        )
        if elsewhere:
            kind, _ = _kind(node)
            if kind in ACTIVATIONS:
                raise InputError(
                    f"the model changes part of a tensor in place by {kind}, where no site can be "
                    "placed; write that part out of place"
                )
            continue
        node.target = functional
        target.replace_all_uses_with(node, delete_user_cb=lambda u, now=now: position[u] > now)


def _functional_form(node: fx.Node) -> Any:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, name = target._schema.name.split("::")
    if namespace != "aten" or not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, target._overloadname, None) if packet is not None else None


def _aliases(node: fx.Node) -> set[fx.Node]:
    root = node
    while is_view(root) and isinstance(root.args[0], fx.Node):
        root = root.args[0]
    found, pending = {root}, [root]
    while pending:
        for user in pending.pop().users:
            if user not in found and is_view(user) and user.args[0] in found:
                found.add(user)
                pending.append(user)
    return found


def dataflow(module: fx.GraphModule, model: nn.Module) -> list[Node]:
    """Show a traced graph to the site rules.

    Parameters
    ----------
    module : torch.fx.GraphModule
        Of `trace`.
    model : torch.nn.Module
        The model that was traced, for the types of its modules.

    Returns
    -------
    list of Node
        Inputs first, in execution order; ``handle`` is the FX node. Parameters stand in their
        readers' ``parameters``.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = Parameters(module, model)
    known: dict[fx.Node, Any] = {}
    nodes: list[Node] = []
    outputs: set[Node] = set()
    for fx_node in module.graph.nodes:
        if fx_node.op == "get_attr":
            known[fx_node] = _constant(module, fx_node)
        elif fx_node.op == "output":
            leaves = pytree.tree_leaves(fx_node.args)
            outputs = {known[v] for v in leaves if isinstance(known.get(v), Node)}
        else:
            node = _node(fx_node, known, modules, parameters)
            known[fx_node] = node
            if isinstance(node, Node) and node.handle is fx_node:
                nodes.append(node)
    for node in outputs:
        node.is_output = True
    return nodes


def _constant(module: fx.GraphModule, fx_node: fx.Node) -> float | None:
    value = attribute(module, fx_node.target)
    if isinstance(value, torch.Tensor) and value.numel() == 1 and value.device.type != "meta":
        return float(value.detach())
    return None


def _node(
    fx_node: fx.Node,
    known: dict[fx.Node, Any],
    modules: dict[str, nn.Module],
    parameters: Parameters,
) -> Any:
    value = fx_node.meta.get("val")
    common: dict[str, Any] = {
        "is_float": isinstance(value, torch.Tensor) and value.dtype.is_floating_point,
        "handle": fx_node,
        "scopes": _scopes(fx_node, modules),
    }
    if fx_node.op == "placeholder":
        return Node("input", label=fx_node.name, **common)
    inputs = tuple(
        known.get(v) if isinstance(v, fx.Node) else float(v) if isinstance(v, (int, float)) else v
        for v in fx_node.args
    )
    if fx_node.target is operator.getitem:
        parent = inputs[0] if isinstance(inputs[0], Node) else None
        kind = parent.kind if parent and parent.kind in (_MULTIPLE | {"split"}) else ""
        if kind and kind != "split" and inputs[1] != 0:
            kind = ""
        inputs = parent.inputs if parent and kind else inputs
        dynamic = bool(parent and parent.dynamic)
        read = parent.parameters if parent and kind else {}
        return Node(kind, tuple(inputs), dynamic=dynamic, parameters=read, **common)
    kind, attrs = _kind(fx_node)
    sources = [known.get(v) for v in fx_node.all_input_nodes]
    if kind == "identity" and isinstance(inputs[0], (Node, float)):
        return inputs[0]
    if kind in FILLED:
        return FILLED[kind]
    if kind == "sub" and "rsub" in str(fx_node.target):
        inputs = (inputs[1], inputs[0], *inputs[2:])
    if kind == "gemm":
        inputs = (*inputs[1:3], inputs[0])
    if "square" in str(fx_node.target):
        inputs = (inputs[0], 2.0)
    kept = tuple(v if isinstance(v, (Node, float)) else None for v in inputs)
    inner = [v for v in sources if isinstance(v, Node)]
    node = Node(kind, kept, attrs, dynamic=any(v.dynamic for v in inner), **common)
    node.parameters = parameters.of(fx_node, kind, known, node.scopes)
    for source in inner:
        if node not in source.readers:
            source.readers.append(node)
    return node


def _kind(fx_node: fx.Node) -> tuple[str, dict[str, Any]]:
    target = fx_node.target
    if not isinstance(target, torch._ops.OpOverload):
        return "", {}
    namespace, name = target._schema.name.split("::")
    if (namespace, name) == ("noisystore", STORE):
        return STORE, {}
    kind = ATEN_KINDS.get(name, ATEN_KINDS.get(name.rstrip("_"), "")) if namespace == "aten" else ""
    options = dict(zip((a.name for a in target._schema.arguments), fx_node.args, strict=False))
    options.update(fx_node.kwargs)
    if name.endswith("dropout") and options.get("train"):
        return "", {}
    if name in ("add", "sub", "rsub") and options.get("alpha", 1) != 1:
        return "", {}
    if name == "div" and options.get("rounding_mode") is not None:
        return "", {}
    if name in ("max", "min") and target._overloadname != "other":
        return "", {}
    if kind == "threshold":
        is_relu = options.get("threshold") == 0 and options.get("value") == 0
        return ("relu" if is_relu else ""), {}
    if kind == "clip":
        return kind, _clip_bounds(name, options)
    if kind == "mean":
        rank = fx_node.args[0].meta["val"].dim()  # type: ignore[union-attr]
        dims: Any = options.get("dim")
        axes = {a % rank for a in dims or ()}
        return kind, {"spatial": rank >= 4 and axes == set(range(2, rank))}
    return kind, {}


def _clip_bounds(name: str, options: dict[str, Any]) -> dict[str, Any]:
    low, high = options.get("min"), options.get("max")
    if name.startswith("relu6"):
        low, high = 0, 6
    elif name.startswith("hardtanh"):
        low, high = options.get("min_val", -1), options.get("max_val", 1)
    bounds = {"min": low, "max": high}
    return {k: float(v) if isinstance(v, (int, float)) else None for k, v in bounds.items()}


def _scopes(fx_node: fx.Node, modules: dict[str, nn.Module]) -> tuple[Scope, ...]:
    scopes = []
    for key, (path, _) in (fx_node.meta.get("nn_module_stack") or {}).items():
        path = str(path).split("@")[0]
        module = modules.get(path)
        leaf = module is not None and not any(True for _ in module.children())
        scopes.append(Scope(str(key), path, module, leaf))
    return tuple(scopes)
