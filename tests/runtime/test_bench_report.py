# SPDX-License-Identifier: Apache-2.0
"""Reports of `noisystore bench`: written, read back, compared, and refused."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timezone

import pytest

from noisystore.runtime.bench_compare import compare
from noisystore.runtime.bench_model import MODEL_RATES
from noisystore.runtime.bench_report import read_report
from noisystore.runtime.bench_tables import Section, markdown, plain, report_sections
from noisystore.runtime.cli import main


@pytest.fixture(scope="module")
def report_path(tmp_path_factory, model_path, small_npz):
    """A report of one quick run."""
    path = tmp_path_factory.mktemp("report") / "here.json"
    words = ["--model", model_path, "--data", f"npz:{small_npz}", "--batch-size", "8"]
    assert main(["bench", "--quick", *map(str, words), "-o", str(path)]) == 0
    return path


@pytest.fixture
def report(report_path):
    return json.loads(report_path.read_text())


@pytest.fixture
def other(tmp_path, report):
    """Write the report, changed by a function, as another file."""

    def write(change, name="other.json"):
        changed = copy.deepcopy(report)
        change(changed)
        path = tmp_path / name
        path.write_text(json.dumps(changed))
        return path

    return write


def test_a_report_says_where_it_was_measured(report, model_path):
    assert report["format"] == "noisystore-bench"
    measured = datetime.fromisoformat(report["date"])
    assert measured.tzinfo == timezone.utc
    assert abs((datetime.now(timezone.utc) - measured).total_seconds()) < 600
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["kernel"]
    assert report["machine"]["architecture"]
    import numpy
    import onnxruntime

    assert report["versions"]["onnxruntime"] == onnxruntime.__version__
    assert report["versions"]["numpy"] == numpy.__version__
    assert report["board"] is None
    assert report["model"]["name"] == model_path.name
    assert report["model"]["sites"] == 2
    # What scripts of earlier versions read.
    assert {"operator", "model", "import_seconds", "machine"} <= set(report)
    assert {"cpu", "cores", "instruction_set", "load"} <= set(report["machine"])
    assert {"model", "batch", "threads", "zero_ms", "clean_ms", "prepare_ms", "rows"} <= set(
        report["model"]
    )


def test_a_report_is_read_back(report_path, report):
    read = read_report(report_path)
    for name, value in report.items():
        if isinstance(value, dict):
            assert read[name].items() >= value.items()
        else:
            assert read[name] == value


def test_what_may_be_missing(report_path, other):
    def change(report):
        for name in ("load", "cores", "memory"):
            report["machine"].pop(name)
        report.pop("board")
        report["model"].pop("threads")
        report["model"].pop("clean_sha256")  # older reports have none
        report["memory"] = {"reason": "killed"}
        report["start_up"] = {}

    rows = rows_of(compare([report_path, other(change)]))
    assert rows["peak memory", "MiB"]["values"][1] is None
    assert rows["start-up: imports", "s"]["values"][1] is None


def test_markdown(report):
    text = markdown("Report", report_sections(report))
    for part in ("## Machine", "## Operator", "## Model in ONNX Runtime", "## Memory", "## Energy"):
        assert part in text
    check_tables(text)


def check_tables(text):
    """Every table of a Markdown page has one number of cells."""
    width = None
    rows = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = line.replace("\\|", "").count("|") - 1
        assert width in (None, cells), line
        width = cells
        rows += 1
    assert rows > 2


def test_names_cannot_break_a_table(other, report_path, tmp_path, capsys):
    evil = "AMD | <img src=x>\n| a | b |\n\n# title `x` [y](z) \x1b[31m &amp; \\"

    def change(report):
        report["machine"]["cpu"] = evil
        report["model"]["name"] = evil
        report["versions"]["noisystore"] = "1|2"
        report["machine"]["gpus"] = ["a\rb\ud800"]

    path, out = other(change), tmp_path / "out.md"
    assert main(["bench", "--compare", str(path), str(report_path), "-o", str(out)]) == 0
    text = out.read_text()
    check_tables(text)
    cell = (
        "AMD \\| \\<img src=x\\> \\| a \\| b \\|  \\# title \\`x\\` \\[y\\](z)  \\[31m \\&amp; \\\\"
    )
    assert f"| processor |  | {cell} |" in text
    assert "1\\|2" in text
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    # Nothing of it begins a line of its own.
    assert all(not line.startswith(("# title", "| a |")) for line in (text + printed).splitlines())


def test_sections_for_a_terminal():
    text = plain([Section("a", ("line",), ("h", "n"), (("x", "1"), ("yy", "10")))])
    assert text.splitlines() == ["a:", "  line", "  h    n", "  x    1", "  yy  10"]


def rows_of(result):
    return {(row["measure"], row["unit"]): row for row in result["rows"]}


def test_compare_equal_settings(report_path, other, report):
    def change(changed):
        for row in changed["throughput"]:
            row["images_per_second"] *= 2
        changed["memory"]["peak"] = 3 << 20

    result = compare([report_path, other(change)])
    assert result["model"]["sha256"] == report["model"]["sha256"]
    assert all(row["differs"] == [] for row in result["rows"])
    rows = rows_of(result)
    first = {(r["rate"], r["batch"]): r["images_per_second"] for r in report["throughput"]}
    for rate, name in ((0.0, "all rates 0"), (0.1, "rate 0.1"), (1e-6, "rate 1e-06")):
        for batch, measure in ((8, "a batch"), (1, "one by one")):
            a, b = rows[f"{name}, {measure}", "images/s"]["values"]
            assert a == first[rate, batch]
            assert b == 2 * a
    assert rows["peak memory", "MiB"]["values"][1] == 3
    assert rows["operator, rate 0.01", "x memcpy"]["values"][0] == next(
        row["ratio"] for row in report["operator"]["rows"] if row["rate"] == 0.01
    )


@pytest.mark.parametrize(
    ("change", "differs", "one_by_one", "operator"),
    [
        (lambda r: r["model"].update(threads=3), "threads", True, False),
        (lambda r: r["versions"].update(onnxruntime="1.20.1"), "onnxruntime version", True, False),
        (lambda r: r["versions"].update(library="9"), "library version", False, True),
        (
            lambda r: r["model"].update(provider="CUDAExecutionProvider"),
            "provider",
            True,
            False,
        ),
        (lambda r: r["model"].update(image=[1, 7, 7]), "image size", True, False),
    ],
)
def test_what_is_not_comparable(report_path, other, change, differs, one_by_one, operator):
    rows = rows_of(compare([report_path, other(change)]))
    assert (differs in rows["rate 0.1, one by one", "images/s"]["differs"]) == one_by_one
    assert (differs in rows["rate 0.1, a batch", "images/s"]["differs"]) == one_by_one
    assert (differs in rows["operator, rate 0.1", "x memcpy"]["differs"]) == operator


def test_other_batch_sizes(report_path, other, capsys):
    def change(report):
        report["model"]["batch"] = 4
        for row in report["throughput"]:
            row["batch"] = 4 if row["batch"] == 8 else row["batch"]

    path = other(change)
    rows = rows_of(compare([report_path, path]))
    batch = rows["rate 0.1, a batch", "images/s"]
    assert batch["differs"] == ["batch size"]
    assert None not in batch["values"]
    assert rows["memory an image", "MiB"]["differs"] == ["batch size"]
    assert rows["rate 0.1, one by one", "images/s"]["differs"] == []
    assert rows["start-up: imports", "s"]["differs"] == []
    assert main(["bench", "--compare", str(report_path), str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "rate 0.1, a batch" in line).endswith(
        "no: other batch size"
    )
    assert next(line for line in lines if "rate 0.1, one by one" in line).endswith("yes")


def energy(counted, joules):
    return {
        "reason": "",
        "counted": counted,
        "idle_watts": 3.0,
        "rows": [
            {
                "graph": "noisy",
                "rate": 0.0,
                "images": 100,
                "joules_per_image": joules,
                "net_joules_per_image": joules / 2,
                "watts": 6.0,
            }
        ],
    }


def test_energy_of_other_meters(report_path, other):
    board = other(lambda r: r.update(energy=energy(["VDD_IN"], 0.5)), "board.json")
    server = other(lambda r: r.update(energy=energy(["package-0"], 2.0)), "server.json")
    without = other(lambda r: r.update(energy={**energy([], 1), "rows": []}), "without.json")
    rows = rows_of(compare([board, without, board]))
    assert rows["energy, all rates 0", "J an image"]["values"] == [0.5, None, 0.5]
    assert rows["energy, all rates 0", "J an image"]["differs"] == []
    rows = rows_of(compare([board, server]))
    assert rows["energy, all rates 0, above idle", "J an image"]["values"] == [0.25, 1.0]
    assert rows["energy, all rates 0", "J an image"]["differs"] == ["energy meters"]


def test_other_models_without_sites(other):
    def with_clean(sha256):
        def change(report):
            row = {**report["throughput"][0], "graph": "without sites", "rate": None}
            report["throughput"].append(row)
            report["model"].update(clean_sha256=sha256)
            for row in report["model"]["rows"]:
                row["ratio_clean"] = 1.5

        return other(change, f"{sha256}.json")

    a, b, unknown = (with_clean(sha256) for sha256 in ("a", "b", None))
    of_clean = ("without sites, one by one", "without sites, a batch", "rate 0.1, x without sites")
    for paths, differs in (((a, b), ["model without sites"]), ((unknown, a), []), ((a, a), [])):
        rows = {row["measure"]: row for row in compare(paths)["rows"]}
        assert [rows[name]["differs"] for name in of_clean if name in rows] == [differs] * 2
        assert rows["rate 0.1, a batch"]["differs"] == []
        assert rows["rate 0.1, x all rates 0"]["differs"] == []


def test_compare_as_json(ok, report_path, other, tmp_path):
    out = tmp_path / "out.json"
    path = other(lambda r: r.update(notes=["A note."]))
    result = ok("bench", "--compare", report_path, path, report_path, "-o", out)
    assert json.loads(out.read_text()) == result
    assert [one["file"] for one in result["reports"]] == [
        str(report_path),
        str(path),
        str(report_path),
    ]
    assert result["reports"][1]["notes"] == ["A note."]
    assert all(len(row["values"]) == 3 for row in result["rows"])


def test_other_models_are_refused(error, report_path, other):
    path = other(lambda r: r["model"].update(sha256="0" * 64))
    said = error("bench", "--compare", report_path, path)
    assert f"report {path}: expected the model of {report_path}" in said
    assert "got 000000000000" in said

    def without(report):
        for name in ("model", "throughput", "start_up", "memory", "energy"):
            report.pop(name)

    path = other(without)
    assert "got no model" in error("bench", "--compare", report_path, path)
    assert "two or more" in error("bench", "--compare", report_path)
    assert "run of its own" in error("bench", "--compare", path, path, "--model", "x.onnx")
    # The operator alone can be compared.
    assert compare([path, path])["model"] is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": "noisystore-bench", "version": NaN}',
        b'{"format": "other", "version": 1}',
        b"1" * 5000,
    ],
)
def test_no_reports(error, report_path, tmp_path, content):
    path = tmp_path / "none.json"
    path.write_bytes(content)
    said = error("bench", "--compare", report_path, path)
    assert f"report {path}: expected a report of noisystore bench -o FILE.json, got none" in said


def test_a_file_that_is_too_large_or_missing(error, report_path, tmp_path):
    path = tmp_path / "large.json"
    path.write_bytes(report_path.read_bytes() + b" " * (1 << 20))
    assert "at most 1,048,576 bytes" in error("bench", "--compare", report_path, path)
    assert "No such file" in error("bench", "--compare", report_path, tmp_path / "gone.json")
    assert "cannot be read" in error("bench", "--compare", report_path, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(version=2), "expected version 1"),
        (lambda r: r.update(version=True), "expected version 1"),
        (lambda r: r.update(machine=[]), "machine: expected an object"),
        (lambda r: r["machine"].update(cpu=5), "machine.cpu: expected text"),
        (lambda r: r["machine"].update(cpu="x" * 2000), "at most 1000 characters"),
        (lambda r: r["machine"].update(cores=True), "machine.cores: expected an integer"),
        (lambda r: r["machine"].update(load=10**400), "machine.load: expected a number"),
        (lambda r: r["operator"].update(rows={}), "operator.rows: expected a list"),
        (
            lambda r: r["operator"]["rows"][0].pop("ratio"),
            "an item of operator.rows.ratio: expected a number",
        ),
        (lambda r: r["model"].update(batch=1.5), "model.batch: expected an integer"),
        (lambda r: r["throughput"].append(None), "an item of throughput: expected an object"),
        (lambda r: r["model"].pop("rows"), "model.rows: expected a list"),
        (lambda r: r["memory"].update(peak="3"), "memory.peak: expected a number"),
        (lambda r: r.pop("energy"), "expected model and energy together"),
        (lambda r: r.update(model=None), "expected model and throughput together"),
        (lambda r: r["energy"].update(counted="VDD_IN"), "energy.counted: expected a list"),
    ],
)
def test_reports_that_are_damaged(error, report_path, other, change, message):
    path = other(change)
    said = error("bench", "--compare", report_path, path)
    assert said.startswith(f"noisystore: error: report {path}: ")
    assert message in said


def test_ratios_are_compared(ok, report_path):
    compared = ok("bench", "--compare", report_path, report_path)
    rows = {row["measure"]: row for row in compared["rows"]}
    ratios = [name for name in rows if name.endswith("x all rates 0")]
    assert len(ratios) == len(MODEL_RATES)
    assert all(rows[name]["unit"] == "ratio" for name in ratios)
    assert "harness: sweep / its runs" in rows


def test_a_comparison_does_not_overwrite_its_reports(error, report_path):
    before = report_path.read_bytes()
    said = error("bench", "--compare", report_path, report_path, "-o", report_path)
    assert "expected another file" in said
    assert report_path.read_bytes() == before


OF_A_MODEL = ("--data", "--clean", "--provider", "--threads", "--batch-size", "--custom-ops")


@pytest.mark.parametrize("option", OF_A_MODEL)
def test_options_without_a_model(error, option):
    assert f"{option}: expected --model too" in error("bench", "--quick", option, "3")


@pytest.mark.parametrize(
    "options", [["--quick"], ["--board", "x86-server"], *([name, "3"] for name in OF_A_MODEL)]
)
def test_options_beside_compare(error, report_path, options):
    said = error("bench", "--compare", report_path, report_path, *options)
    assert f"give {options[0]} in a run of its own" in said
