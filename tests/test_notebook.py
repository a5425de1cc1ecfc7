# SPDX-License-Identifier: Apache-2.0
"""The notebook runs, its numbers fit together, and its committed outputs are those of its code.

Run as a program, this file executes the notebook and writes its outputs into it.
"""

import json
import pathlib
import re
import time

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = pathlib.Path(__file__).parents[1] / "examples" / "midpoint.ipynb"
MOST_SECONDS, MOST_BYTES = 180, 300_000

#: Asked of the kernel after the last cell.
NUMBERS = """
import json
print(json.dumps({
    "trained": trained.accuracy,
    "same": float(same[numbers].mean()),
    "fit": fit.midpoint, "fit_interval": fit.interval,
    "found": found.midpoint, "found_interval": found.interval,
    "spent": found.inferences / swept.inferences,
    "every": every, "first": first, "others": min(others),
    "rate": rate, "target": best.target, "verified": best.accuracy, "accuracy": float(accuracy),
    "alone": design.designs[0].unprotected[0], "meets": [one.meets for one in design.designs],
    "bits": [one.bits for one in design.designs], "best": design.best,
}))
"""


def execute(notebook):
    """Run all cells in a fresh kernel; return what NUMBERS prints."""
    client = nbclient.NotebookClient(
        notebook, timeout=MOST_SECONDS, kernel_name="python3", record_timing=False
    )
    asked = nbformat.v4.new_code_cell(NUMBERS)
    notebook.cells.append(asked)
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            joined(cell)
    notebook.cells.pop()
    return json.loads(asked.outputs[0].text)


def joined(cell):
    """Make one output of the pieces in which a cell's text happened to arrive."""
    outputs = []
    for output in cell.get("outputs", []):
        if outputs and output.output_type == outputs[-1].output_type == "stream":
            outputs[-1].text += output.text
        else:
            outputs.append(output)
    if outputs:
        cell.outputs = outputs


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def run(committed, tmp_path_factory):
    """The notebook with fresh outputs, its numbers, and the seconds that it took."""
    for name in ("torch", "sklearn", "matplotlib", "ipykernel"):
        pytest.importorskip(name)
    fresh = nbformat.from_dict(json.loads(json.dumps(committed)))
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    patch = pytest.MonkeyPatch()
    # What it writes goes away with the test.
    patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("notebook")))
    begin = time.monotonic()
    try:
        numbers = execute(fresh)
    finally:
        patch.undo()
    return fresh, numbers, time.monotonic() - begin


def shape(cell):
    """Kinds of a cell's outputs, and the words of its text: numbers may be others elsewhere."""
    return [
        (output.output_type, sorted(output.get("data", {})), words(output.get("text", "")))
        for output in cell.outputs
        if output.output_type != "stream" or output.name == "stdout"
    ]


def words(text):
    return set(re.findall(r"[a-zA-Z]{4,}", text.split("\n")[0]))


def test_it_runs_in_time_and_says_nothing_else(run):
    fresh, _, seconds = run
    print(f"{seconds:.0f} s")
    assert seconds < MOST_SECONDS
    for cell in fresh.cells:
        for output in cell.get("outputs", []):
            assert output.output_type in ("stream", "display_data", "execute_result"), output
            assert output.get("name", "stdout") == "stdout", output.text


def test_its_numbers_fit_together(run):
    got = run[1]
    assert got["trained"] > 0.95
    assert got["same"] > 0.99
    low, high = got["found_interval"]
    assert low / 1.1 < got["fit"] < high * 1.1
    assert got["fit_interval"][0] < high
    assert low < got["fit_interval"][1]
    assert got["spent"] < 0.5
    # All bits together stand least, the first bit of the exponent decides, the rest follows far.
    assert 0.5 * got["found"] < got["every"] < 2 * got["found"]
    assert got["every"] < 1.5 * got["first"]
    assert got["others"] > 5 * got["first"]
    # The network as it is guesses at the rate, and the designs hold.
    assert got["rate"] > 10 * got["found"]
    assert got["alone"] < 0.2
    assert all(got["meets"])
    assert got["best"][0] == 1
    assert got["bits"][1] < 0.2 * got["bits"][0]
    assert got["verified"] >= got["target"] > 0.9
    assert got["accuracy"] > got["target"] - 0.03


def test_the_committed_outputs_are_those_of_its_code(run, committed):
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    fresh = [cell for cell in run[0].cells if cell.cell_type == "code"]
    for old, new in zip(code, fresh, strict=True):
        assert shape(old) == shape(new), old.source
    # Numbers of this cell come from arithmetic alone.
    flips = next(i for i, cell in enumerate(code) if "0.75 ->" in cell.source)
    assert code[flips].outputs == fresh[flips].outputs


def test_the_file(committed):
    nbformat.validate(committed)
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    assert not re.search(r"/(home|tmp|root|work|usr)/", NOTEBOOK.read_text())


if __name__ == "__main__":
    book = nbformat.read(NOTEBOOK, as_version=4)
    execute(book)
    book.metadata.language_info = {"name": "python"}
    nbformat.write(book, NOTEBOOK)
