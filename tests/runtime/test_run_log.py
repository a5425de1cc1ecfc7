# SPDX-License-Identifier: Apache-2.0
"""Long runs: their log, a terminal that closes, signals."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest

from noisystore.ortops import InputError
from noisystore.runtime import sweep
from noisystore.runtime.cli import main
from noisystore.runtime.results import results_rows
from noisystore.runtime.run_log import LOGGER, check_log, long_run

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) \S.*")
POINTS = 13 * 40


def words(model, data, path, *more, trials=40):
    command = ["sweep", model, "--data", f"npz:{data}", "--rates", "1e-6:1e-2:3/decade"]
    command += ["--trials", trials, "--threads", 1, "--workers", 1, "-o", path, *more]
    return [str(word) for word in command]


def lines(log):
    """Messages of a log without their times, all of which have to be well formed."""
    text = log.read_text()
    assert all(LINE.fullmatch(line) for line in text.splitlines()), text
    return [line.split(" ", 1)[1] for line in text.splitlines()]


def wait_for(log, text):
    for _ in range(3000):
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.01)
    pytest.fail(f"no {text!r} in the log after 30 s")


def test_a_log(model_path, small_npz, tmp_path, capsys):
    log, path = tmp_path / "run.log", tmp_path / "r.sqlite"
    command = words(model_path, small_npz, path, "--log", log, trials=2)
    assert main(command) == 0
    first = lines(log)
    options = re.fullmatch(r"INFO start: noisystore sweep (\{.*\})", first[0])
    assert json.loads(options[1])["output"] == str(path)
    assert re.match(r"INFO noisystore \S+, operator library .*ONNX Runtime .*Python 3", first[1])
    assert first[2] == "INFO 0/26 points  clean network"
    points = [line for line in first if re.match(r"INFO \d+/26 points  1e-06 trial 1  acc", line)]
    assert len(points) == 1
    assert len(first) == 2 + 1 + 26 + 1
    assert re.fullmatch(r"INFO end: done after \d+\.\d s", first[-1])
    # A second run adds its lines.
    assert main(command) == 0
    again = lines(log)
    assert again[: len(first)] == first
    assert len(again) == len(first) + 3
    assert LOGGER.handlers == []
    assert LOGGER.level == logging.NOTSET


def test_an_error_is_the_end(model_path, small_npz, tmp_path, error):
    log = tmp_path / "run.log"
    command = words(model_path, small_npz, tmp_path / "r.sqlite", "--noisy", "bias", "--log", log)
    message = error(*command).removeprefix("noisystore: error: ")
    assert lines(log)[-1] == f"ERROR end: {message}"


def test_without_a_log_any_file_may_be_read(model_path, small_npz, tmp_path, error):
    said = error(*words("/dev/null", small_npz, tmp_path / "r.sqlite"))
    assert said.startswith("noisystore: error: model")


def test_where_a_log_cannot_be(model_path, small_npz, tmp_path, error):
    path, text = tmp_path / "r.sqlite", tmp_path / "notes.txt"
    text.write_text("2026 was a good year\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for log, message in [
        (tmp_path, "got a folder, a device or a pipe"),
        (pipe, "got a folder, a device or a pipe"),
        (text, "expected a log of noisystore, got another kind of file; it was left as it is"),
        (model_path, "expected a file of its own, got that of --model"),
        (tmp_path / "none/run.log", "does not exist: create it first"),
        (path, "expected a file of its own, got that of --output"),
    ]:
        assert message in error(*words(model_path, small_npz, path, "--log", log))
    plot = tmp_path / "plot.png"
    arguments = words(model_path, small_npz, path, "--log", plot, "--plot", plot)
    assert "expected a file of its own, got that of --plot" in error(*arguments)
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "pipe"]
    assert text.read_text() == "2026 was a good year\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_cleanly(model_path, small_npz, tmp_path, number):
    log, path = tmp_path / "run.log", tmp_path / "r.sqlite"
    # As in a shell's foreground: a background job would ignore SIGINT.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from noisystore.runtime.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *words(model_path, small_npz, path, "--log", log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(log, " 7/")
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    kept = len(results_rows(path))
    said = f"interrupted: {kept} of {POINTS} points are in {path}; the same command goes on from"
    assert 7 <= kept < POINTS
    assert process.returncode == 128 + number
    assert out == ""
    assert errors.splitlines()[-1].startswith(f"noisystore: {said}")
    assert lines(log)[-1].startswith(f"ERROR end: {number.name}: {said}")
    assert not os.path.exists(f"{path}-wal")


def test_a_signal_before_the_first_point(tmp_path):
    log = tmp_path / "run.log"

    def run():
        with long_run(log, "sweep", {}):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert lines(log)[-1] == "ERROR end: SIGTERM: interrupted"


@pytest.mark.parametrize("with_log", [True, False])
def test_a_terminal_that_closes(model_path, small_npz, tmp_path, with_log):
    """The sweep's controlling terminal goes: SIGHUP comes, and every write there fails."""
    log, path = tmp_path / "run.log", tmp_path / "r.sqlite"
    more = ("--log", log) if with_log else ()
    command = [sys.executable, "-m", "noisystore.runtime.cli"]
    command += words(model_path, small_npz, path, *more)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, command)
    shown = b""
    while b"/520 points" not in shown or b" trial " not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)
    before = len(results_rows(path))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert before < POINTS
    assert len(results_rows(path)) == POINTS
    if with_log:
        assert re.fullmatch(r"INFO end: done after \d+\.\d s", lines(log)[-1])


def test_handlers_and_streams_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    streams, show = (sys.stdout, sys.stderr), warnings.showwarning
    with long_run(tmp_path / "run.log", "sweep", {}):
        os.kill(os.getpid(), signal.SIGHUP)
        LOGGER.info("two\nlines")
    assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)) == before
    assert (sys.stdout, sys.stderr) == streams
    assert warnings.showwarning is show
    assert "INFO two lines" in lines(tmp_path / "run.log")


def test_warnings_and_unexpected_failures(tmp_path):
    log = tmp_path / "run.log"

    def run():
        with long_run(log, "sweep", {}):
            warnings.warn("odd", stacklevel=1)
            return 1 / 0

    with pytest.warns(UserWarning, match="odd"), pytest.raises(ZeroDivisionError):
        run()
    text = log.read_text()
    assert "ERROR end: a failure that nobody expected\nTraceback" in text
    assert "WARNING odd" in text
    assert "ZeroDivisionError" in text
    check_log(log)


def test_a_full_disk_ends_no_run(model_path, small_npz, tmp_path):
    log = tmp_path / "run.log"
    code = (
        "import resource, sys\nfrom noisystore.runtime import sweep\n"
        "from noisystore.runtime.run_log import long_run\n"
        "model, data, log = sys.argv[1:]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "with long_run(log, 'sweep', {}):\n"
        "    print(sweep(model, data, 1e-4, trials=40, threads=1, progress=False).measured)"
    )
    command = [sys.executable, "-c", code, model_path, f"npz:{small_npz}", log]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "40\n")
    assert done.stderr.count("\n") == 1
    assert f"noisystore: warning: log {log}: " in done.stderr
    assert log.stat().st_size == 600


def test_what_takes_the_progress_may_end(model_path, small_npz, tmp_path):
    """A pipe's reader, such as tee, ends with the terminal."""
    path = tmp_path / "r.sqlite"
    command = [sys.executable, "-m", "noisystore.runtime.cli"]
    reader, writer = os.pipe()
    with subprocess.Popen(
        [*command, *words(model_path, small_npz, path, trials=2)],
        stdout=subprocess.PIPE,
        stderr=writer,
    ) as process:
        os.close(writer)
        os.close(reader)
        assert b"26 measured now" in process.stdout.read()
    assert process.returncode == 0


def test_python_programs_may_log_too(model_path, small_data, caplog):
    with caplog.at_level(logging.INFO, logger="noisystore"):
        sweep(model_path, small_data, 1e-3, trials=1, threads=1, progress=False)
    assert [record.message.split("  ")[0] for record in caplog.records][-1] == "1/1 points"


def test_a_log_that_may_not_be_read(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    log = tmp_path / "run.log"
    log.touch(mode=0o000)
    with pytest.raises(InputError, match="cannot be read"):
        check_log(log)


@pytest.mark.parametrize(
    "command", ["midpoint", "sensitivity", "protect", "reproduce", "train", "retrain", "sweep"]
)
def test_long_commands_have_a_log(command, tmp_path, capsys):
    assert main([command, "--help"]) == 0
    assert "--log FILE.log" in capsys.readouterr().out


def test_the_log_of_another_long_command(model_path, small_npz, tmp_path, ok, error):
    log = tmp_path / "run.log"
    words = ["midpoint", model_path, "--data", f"npz:{small_npz}", "--precision", "50%"]
    found = ok(*words, "--log", log)
    assert found["midpoint"] > 0
    assert lines(log)[0].startswith("INFO start: noisystore midpoint {")
    assert any(line.startswith("INFO midpoint ") for line in lines(log))
    assert lines(log)[-1].startswith("INFO end: done after")
    message = error(*words, "--log", model_path)
    assert f"log {model_path}: expected a file of its own, got that of --model" in message
    assert "expected a log of noisystore" in error(*words, "--log", small_npz)
