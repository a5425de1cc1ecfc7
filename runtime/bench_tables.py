# SPDX-License-Identifier: Apache-2.0
"""A report of `noisystore bench` as tables, for a terminal or in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bench import CLEAN, NOISY
from .commands.common import table

NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Section:
    """Lines of text, then a table.

    Attributes
    ----------
    title : str
    lines : tuple of str
    head : tuple of str
    rows : tuple of tuple of str
    """

    title: str
    lines: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def plain(sections: Sequence[Section]) -> str:
    """Lay sections out for a terminal."""
    blocks = []
    for section in sections:
        lines = [f"{section.title}:", *(f"  {_printable(line)}" for line in section.lines)]
        if section.rows:
            cells = [[_printable(cell) for cell in row] for row in section.rows]
            head = [_printable(cell) for cell in section.head]
            lines += [f"  {line}" for line in table(head, cells).splitlines()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Lay sections out as a Markdown page."""
    lines = [f"# {_escaped(title)}", ""]
    for section in sections:
        lines += [f"## {_escaped(section.title[:1].upper() + section.title[1:])}", ""]
        if section.lines:
            lines += [*(f"- {_escaped(line)}" for line in section.lines), ""]
        if section.rows:
            lines += [_row(section.head), "|" + "---|" * len(section.head)]
            lines += [*map(_row, section.rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text that is only text: names in a report may come from anywhere."""
    return re.sub(r"([\\|`*<>\[\]&#])", r"\\\1", _printable(text))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def report_sections(report: dict[str, Any]) -> list[Section]:
    """Return the sections of a report, of this run or read back."""
    sections = [_machine(report), _operator(report["operator"])]
    if report.get("model") is not None:
        sections += [
            _model(report["model"], report["throughput"]),
            _start_up(report["start_up"]),
            _memory(report["memory"]),
            _energy(report["energy"]),
        ]
    seconds = report["import_seconds"]
    line = NOT_AVAILABLE
    if None not in seconds.values():
        line = (
            f"import noisystore.runtime: {seconds['package']:.3f} s; with all that it holds and "
            f"ONNX Runtime: {seconds['all']:.3f} s"
        )
    return [*sections, Section("imports", (line,))]


def _machine(report: dict[str, Any]) -> Section:
    here, versions = report["machine"], report["versions"]
    load = "" if here["load"] is None else f", load {here['load']:.1f}"
    gib = "" if here["memory"] is None else f", {here['memory'] / 2**30:.1f} GiB"
    lines = [
        f"{here['cpu']}, {here['cores']} cores, {here['instruction_set']}{load}",
        f"{here['model'] or here['architecture']}{gib}, {here['os']}, kernel {here['kernel']}",
        *here["gpus"],
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"measured {report['date']}"
        + (f", settings of the board {report['board']}" if report["board"] else ""),
        *report["notes"],
        *(f"set before measuring: {line}" for line in report["before_measuring"]),
    ]
    return Section("machine", tuple(lines))


def _operator(operator: dict[str, Any]) -> Section:
    lines = (
        f"{operator['elements']} x {operator['dtype']}, in place, one thread; memcpy "
        f"{operator['memcpy_us']:.2f} us; an empty foreign call, {operator['call_ns']:.0f} ns, is "
        "subtracted from all",
    )
    rows = tuple(
        (
            f"{row['rate']:g}",
            f"{row['us']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['flips']:.4g}",
            "-" if row["ns_per_flip"] is None else f"{row['ns_per_flip']:.2f}",
        )
        for row in operator["rows"]
    )
    return Section("operator", lines, ("rate", "us", "x memcpy", "flips", "ns a flip"), rows)


def _model(model: dict[str, Any], throughput: Sequence[dict[str, Any]]) -> Section:
    threads = "ONNX Runtime's choice" if model["threads"] is None else model["threads"]
    lines = [
        f"{model['name']}, sha256 {model['sha256'][:12]}, {model['sites']} sites "
        f"({', '.join(model['formats'])}), images {model['image']} of {model['data']}",
        f"{model['provider']}, threads: {threads}, batch {model['batch']}",
        f"harness: a sweep takes {model['harness']['ratio']:.3f} x the time of its ONNX Runtime "
        f"runs ({model['harness']['seconds']:.1f} s)",
    ]
    if model["prepare_ms"] is not None:
        lines.append(f"noise of weights and biases: {model['prepare_ms']:.1f} ms a trial, apart")
    by_graph = {(row["graph"], row["rate"], row["batch"]): row["ms"] for row in throughput}
    rows = tuple(
        (
            graph_name(row),
            str(row["batch"]),
            f"{row['ms']:.2f}",
            f"{row['images_per_second']:.1f}",
            _ratio(row["ms"], by_graph.get((NOISY, 0.0, row["batch"]))),
            _ratio(row["ms"], by_graph.get((CLEAN, None, row["batch"]))),
        )
        for row in throughput
    )
    head = ("graph", "batch", "ms", "images/s", "x all rates 0", "x without sites")
    return Section("model in ONNX Runtime", tuple(lines), head, rows)


def graph_name(row: dict[str, Any]) -> str:
    """Return what ran, in words: the graph without sites, or noisy at a rate."""
    if row["rate"] is None:
        return str(row["graph"])
    return "all rates 0" if row["rate"] == 0 else f"rate {row['rate']:g}"


def _ratio(ms: float, other: float | None) -> str:
    return f"{ms / other:.3f}" if other else "-"


def _start_up(start: dict[str, Any]) -> Section:
    if start.get("reason"):
        return Section("start-up", (f"{NOT_AVAILABLE}: {start['reason']}",))
    return Section(
        "start-up",
        (
            f"fresh process, Python's own start aside: imports {start['import_seconds']:.3f} s, "
            f"session {start['session_seconds']:.3f} s, first inference "
            f"{start['first_seconds']:.3f} s ({images(start['images'])})",
        ),
    )


def _memory(used: dict[str, Any]) -> Section:
    if used.get("reason"):
        return Section("memory", (f"{NOT_AVAILABLE}: {used['reason']}",))
    return Section(
        "memory",
        (
            f"peak of a process that runs one batch ({images(used['images'])}): "
            f"{mebibytes(used['peak'])}",
            f"growth while the batch runs: {mebibytes(used['growth'])}, an image: "
            f"{mebibytes(used['image'])}",
        ),
    )


def images(count: int) -> str:
    """Return a number of images in words."""
    return "1 image" if count == 1 else f"{count} images"


def mebibytes(size: float | None) -> str:
    """Return a size of memory, or that it is not known."""
    return NOT_AVAILABLE if size is None else f"{size / 2**20:.2f} MiB"


def _energy(energy: dict[str, Any]) -> Section:
    if not energy["rows"]:
        return Section("energy", (f"{NOT_AVAILABLE}: {energy['reason']}",))
    lines = [f"sum of {', '.join(energy['counted'])}; idle before: {energy['idle_watts']:.2f} W"]
    if energy["reason"]:
        lines.append(f"not in it: {energy['reason']}")
    rows = tuple(
        (
            graph_name(row),
            str(row["images"]),
            f"{row['joules_per_image']:.4g}",
            f"{row['net_joules_per_image']:.4g}",
            f"{row['watts']:.2f}",
        )
        for row in energy["rows"]
    )
    head = ("graph", "images", "J an image", "above idle", "mean W")
    return Section("energy", tuple(lines), head, rows)
