# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: of sweeps, and of measurements of unknown length."""

from __future__ import annotations

import io
import re
import shutil
import sys

from small_sweeps import run

from noisystore.runtime.progress import Progress, StatusLine, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_line(model_path, small_data, monkeypatch, capsys):
    monkeypatch.setattr("noisystore.runtime.progress._REDRAW_SECONDS", 0.0)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    run(model_path, small_data, "1e-6,1e-4", progress=None)
    text = terminal.getvalue()
    assert "2/4 points" in text
    assert re.search(r"4/4 points  \d+s in all  0.0001 trial 1  accuracy 0\.8", text)
    assert "% of samples skipped" in text
    assert "s left" in text
    assert text.endswith("\n")
    assert capsys.readouterr().out == ""


def test_the_time_left_fits_into_a_terminal_of_80_columns(model_path, small_data, monkeypatch):
    monkeypatch.setattr("noisystore.runtime.progress._REDRAW_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    run(model_path, small_data, "1e-7/1e-6,1e-4/1e-3", progress=None)
    drawn = sys.stderr.getvalue().rstrip("\n").split("\r")[1:]
    assert {len(line) for line in drawn} == {79}
    measured = [line for line in drawn if "accuracy" in line]
    assert len(measured) >= 4
    assert all(re.search(r"\d/4 points  \d+s (left|in all)  ", line) for line in measured)


def test_a_resumed_sweep_counts_from_what_is_stored(model_path, small_data, tmp_path, capsys):
    path = tmp_path / "r.sqlite"
    run(model_path, small_data, trials=3, results=path)
    run(model_path, small_data, trials=4, results=path, progress=True)
    counts = re.findall(r"^(\d+)/(\d+) points", capsys.readouterr().err, re.MULTILINE)
    assert counts[0] == ("6", "8")
    assert counts[-1] == ("8", "8")


def test_the_bar_of_a_resumed_sweep():
    bar = Progress(4.0, 8, stream=(stream := Terminal()), stored=4)
    bar.finish(2.0, "half of the rest")
    bar.close()
    assert f"[{'#' * 15}{'.' * 5}] 5/8 points" in stream.getvalue()


def test_a_line_of_its_own_hides_the_one_before():
    bar = Progress(1.0, 1, stream=(stream := Terminal()))
    bar.say("short")
    bar.say()
    width = shutil.get_terminal_size().columns - 1
    assert stream.getvalue() == f"\r{'short'.ljust(width)}\n"


def test_progress_is_silent_without_a_terminal(model_path, small_data, capsys):
    run(model_path, small_data, progress=None)
    assert capsys.readouterr() == ("", "")
    run(model_path, small_data, progress=True)
    assert "4/4 points" in capsys.readouterr().err


def test_time_left():
    assert [clock(s) for s in (0.4, 59.4, 61, 3599, 7260)] == [
        *("0s", "59s", "1m01s", "59m59s", "2h01m")
    ]
    stream = Terminal()
    bar = Progress(0, 0, stream=stream)
    bar.finish(0, "")
    bar.close()
    assert "0s in all" in stream.getvalue()


def test_a_status_line_stays_in_its_place(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    line = StatusLine(stream=stream)
    for text in ("x" * 60, "short"):
        line.show(text)
    assert line.text == "short"
    line.close()
    assert stream.getvalue() == f"\r{'x' * 39}\r{'short  0s'.ljust(39)}\n"
    line.say("first", "second")
    assert stream.getvalue().endswith(f"\r{'first'.ljust(39)}\n\r{'second'.ljust(39)}\n")
    silent = Terminal()
    StatusLine(False, silent).show("text")
    StatusLine(False, silent).say("text")
    assert silent.getvalue() == ""
