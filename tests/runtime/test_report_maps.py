# SPDX-License-Identifier: Apache-2.0
"""Sensitivity maps and protection in pages of results, and files that are none."""

from __future__ import annotations

import pytest
from report_results import HOSTILE, page_data, write, write_map

from noisystore.runtime.report import write_report


def test_sensitivity_map(tmp_path):
    page = tmp_path / "r.html"
    found = write_map(tmp_path / "map.json", name=HOSTILE)
    write_report(write(tmp_path / "r.sqlite"), page, sensitivity=[found])
    text = page.read_text()
    assert 'class="q0"' in text
    assert 'class="q9"' in text
    assert "msb:1<br>exponent" in text
    assert "msb:9" not in text.split('id="data"')[0]
    assert "columns without any drop left out: 1" in text
    rows = page_data(text)["csv"]["sensitivity-1"]
    assert len(rows) == 7
    assert rows[1][3] == 1e-5


def test_protection(tmp_path, model_path, small_npz, ok):
    found, page = tmp_path / "protection.json", tmp_path / "r.html"
    words = ("--rate", "1e-2", "--target", "90%", "--mitigate", "none", "--images", 200)
    protected = ok("protect", model_path, "--data", f"npz:{small_npz}", *words, "-o", found)
    write_report(write(tmp_path / "r.sqlite"), page, protection=[found])
    text = page.read_text()
    head, *rows = page_data(text)["csv"]["protection-1"]
    (design,) = protected["designs"]
    assert [row[head.index("means")] for row in rows] == [m["means"] for m in design["means"]]
    assert [row[head.index("area_f2_to")] for row in rows] == [
        means["area_f2"][1] for means in design["means"]
    ]
    assert {row[head.index("target")] for row in rows} == {design["target"]}
    verified = [design["interval"][0], design["accuracy"], design["interval"][1]]
    for name, value in zip(("low", "verified_accuracy", "high"), verified, strict=True):
        assert {row[head.index(name)] for row in rows} == {value}
    assert [row[head.index("accuracy")] for row in rows] == [
        means["accuracy"] for means in design["means"]
    ]
    assert f'data-v="{design["bits"]}"' in text
    assert "bit error rate 0.01, target 90%" in text


@pytest.mark.parametrize("content", [b"no", b"[]", b'{"rate": [1], "designs": [{}]}', b'{"a": 1}'])
def test_bad_protection_files(tmp_path, error, content):
    results, bad, page = write(tmp_path / "r.sqlite"), tmp_path / "bad.json", tmp_path / "r.html"
    bad.write_bytes(content)
    said = error("report", results, "--protection", bad, "-o", page)
    assert "expected a file of `noisystore protect -o`" in said
    assert not page.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not json", "no JSON"),
        (b"[]", "no settings and sites"),
        (b'{"sites": [], "settings": {"precision": 0.1}}', 'no "noisystore_sensitivity": 1'),
        (None, "cannot be read"),
    ],
)
def test_bad_sensitivity_files(tmp_path, error, content, says):
    results, bad, page = write(tmp_path / "r.sqlite"), tmp_path / "bad.json", tmp_path / "r.html"
    if content is not None:
        bad.write_bytes(content)
    assert says in error("report", results, "--sensitivity", bad, "-o", page)
    assert not page.exists()
