# SPDX-License-Identifier: Apache-2.0
"""The live page: it grows with a real sweep, changes nothing, answers this machine alone."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from browser import complaints, open_browser, requests, text
from conftest import PROGRAM
from report_results import RATES, write

from noisystore.ortops import InputError
from noisystore.runtime import live_state
from noisystore.runtime.live import LivePage
from noisystore.runtime.live_state import LiveState
from noisystore.runtime.results import Results
from noisystore.runtime.sweep import sweep


def get(url, host=None, method="GET"):
    request = urllib.request.Request(url, method=method)
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def wait_for(what, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found


def test_page_and_state(tmp_path):
    path = write(tmp_path / "r.sqlite")
    before = path.read_bytes()
    with LivePage([path]) as live:
        assert live.url.startswith("http://127.0.0.1:")
        status, headers, page = get(live.url)
        assert status == 200
        assert "connect-src 'self'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert '<html lang="en" data-live>' in page
        state = json.loads(get(f"{live.url}state?known=")[2])
        assert state["main"] in page
        assert state["data"]["curves"][0]["rate"] == RATES.tolist()
        again = json.loads(get(f"{live.url}state?known={state['known']}")[2])
        assert "main" not in again
        assert again["text"].startswith("33 points, as of ")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.sqlite"]
    with pytest.raises(urllib.error.URLError):
        get(live.url)


def test_only_this_machine_is_answered(tmp_path):
    with LivePage([write(tmp_path / "r.sqlite")]) as live:
        port = live.url.rsplit(":", 1)[1].strip("/")
        for host in (f"127.0.0.1:{port}", "localhost", "[::1]:9000"):
            assert get(live.url, host)[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "a@[::1]"):
            for path in ("", "state"):
                status, _, body = get(live.url + path, host)
                assert status == 403
                assert "curves" not in body
        with socket.create_connection(("127.0.0.1", int(port))) as bare:
            bare.sendall(b"GET /state HTTP/1.0\r\n\r\n")
            assert b" 403 " in bare.recv(100)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert get(live.url, method=method)[0] == 501
        for path in ("r.sqlite", "../r.sqlite", "page.js", "state/x"):
            assert get(live.url + path)[0] == 404
        other = socket.create_server(("127.0.0.2", 0))
        other.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", int(port)), timeout=2)


def test_port_in_use_is_one_line(tmp_path, error):
    path = write(tmp_path / "r.sqlite")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = error("report", path, "--live", "--live-port", port)
        assert f"cannot listen at 127.0.0.1:{port} (Address already in use)" in said
        with pytest.raises(InputError, match="in use"), LivePage([path], port=port):
            pass


def test_port_can_be_had_again_at_once(tmp_path):
    path = write(tmp_path / "r.sqlite")
    with LivePage([path]) as live:
        port = int(live.url.rsplit(":", 1)[1].strip("/"))
        assert get(live.url)[0] == 200
    with LivePage([path], port=port) as live:
        assert get(live.url)[0] == 200


def test_a_browser_that_goes_away_or_is_slow_says_nothing(tmp_path, capfd):
    with LivePage([write(tmp_path / "r.sqlite")]) as live:
        host, port = live.url[7:-1].split(":")
        slow = socket.create_connection((host, int(port)))
        slow.sendall(b"GET / HT")
        for _ in range(3):
            gone = http.client.HTTPConnection(host, int(port))
            gone.request("GET", "/")
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.close()
        assert get(live.url)[0] == 200
        begin = time.monotonic()
    assert time.monotonic() - begin < 3
    slow.close()
    assert capfd.readouterr() == ("", "")


def test_before_the_first_point(tmp_path):
    path = tmp_path / "r.sqlite"
    wanted = [(rate, rate, trial) for rate in RATES for trial in range(3)]
    state = LiveState([path], wanted=wanted)
    assert state.state("")["text"] == "Waiting for the first point."
    assert "No points yet" in state.state("")["main"]
    assert not path.exists()
    path.touch()
    assert "No points yet" in state.page()


def test_damage_is_said_and_the_page_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(live_state, "_SHARE", 0)
    path = write(tmp_path / "r.sqlite")
    state = LiveState([path])
    first = state.state("")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE sweeps SET sites = '{'")
    write(path, model_sha256="other")
    said = state.state(first["known"])
    assert "damaged" in said["text"]
    assert "main" not in said


def test_how_far(tmp_path, monkeypatch):
    monkeypatch.setattr(live_state, "_SHARE", 0)
    path = tmp_path / "r.sqlite"
    write(path, description={"model": "another.onnx"}, model_sha256="another")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE points SET measured = '2020-01-01T00:00:00+00:00'")
    database.close()
    wanted = [(float(rate), float(rate), trial) for rate in RATES for trial in range(4)]
    state = LiveState([path], wanted=wanted)
    assert state.state("")["text"] == "0 of 44 points"
    write(path, trials=1)
    assert state.state("")["text"] == "11 of 44 points"
    write(path, trials=3)
    found = state.state("")
    assert found["text"].startswith("33 of 44 points, about ")
    assert found["share"] == 0.75
    state.end()
    last = {"known": "3", "ended": True, "share": None, "text": "Ended, with 66 points."}
    found = state.state("")
    assert {name: found[name] for name in last} == last
    assert found["about"].startswith("2 curves of 2 networks, 66 measured points")


def test_how_far_two_kinds_of_machines_are(tmp_path):
    path = tmp_path / "r.sqlite"
    wanted = [(float(rate), float(rate), trial) for rate in RATES for trial in range(4)]
    each = LiveState([path], wanted=wanted, each=True)
    write(path, trials=3)
    write(path, trials=1, machine="aarch64")
    assert each.state("")["text"] == "44 of 88 points"


def test_it_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    path = write(tmp_path / "r.sqlite")
    state = LiveState([path])
    reads = []
    real = live_state.read_all
    monkeypatch.setattr(live_state, "read_all", lambda *a, **k: reads.append(1) or real(*a, **k))
    for _ in range(200):
        state.state("")
    assert len(reads) == 1
    monkeypatch.setattr(live_state, "_SHARE", 1e6)
    state.end()
    state.state("")
    write(path, description={"model": "other.onnx"}, model_sha256="other")
    assert len(json.loads(json.dumps(state.state("")))["data"]["curves"]) == 1


def test_page_grows_while_a_real_sweep_runs(tmp_path, model_path, small_data):
    path = tmp_path / "r.sqlite"
    rates = [10.0 ** -(exponent / 2) for exponent in range(2, 10)]
    wanted = [(rate, rate, trial) for trial in range(8) for rate in rates]
    go_on = threading.Event()

    def measure():
        options = {"results": path, "batch_size": 50, "progress": False}
        sweep(model_path, small_data, rates, trials=2, **options)
        go_on.wait(30)
        sweep(model_path, small_data, rates, trials=8, **options)

    with open_browser(tmp_path) as browser:

        def shown():
            script = "return data.curves.reduce((n, c) => n + c.count.reduce((a, b) => a + b), 0)"
            return browser.execute_script(script)

        def progress():
            return text(browser, "#progress-text")

        with LivePage([path], wanted=wanted) as live:
            browser.get(live.url)
            wait_for(lambda: progress() == "Waiting for the first point.")
            assert "No points yet" in text(browser, "main")
            assert text(browser, "#about") == "Nothing is measured yet."
            thread = threading.Thread(target=measure)
            thread.start()
            try:
                wait_for(lambda: shown() == 16)
                assert progress().startswith("16 of 64 points")
                browser.find_element("css selector", "summary").click()
                browser.execute_script("document.querySelector('.plot').focus()")
            finally:
                go_on.set()
                thread.join(60)
            wait_for(lambda: shown() == 64)
            assert progress().startswith("64 of 64 points")
            assert text(browser, "#about").startswith("1 curve of 1 network, 64 measured points")
            assert text(browser, "#links") == "CurvesMidpointsPointsProvenance"
            fill = "return getComputedStyle(document.querySelector('.span')).fill"
            assert browser.execute_script(fill) == "rgb(0, 114, 178)"  # the midpoint's interval
            bar = browser.find_element("id", "progress-bar")
            assert float(bar.get_attribute("value")) == 1
            # What was chosen and opened stays so.
            assert browser.find_element("id", "d-points").get_attribute("open") is not None
            assert browser.execute_script("return document.activeElement.className") == "plot"
        wait_for(lambda: progress() == "Ended, with 64 points.")
        assert complaints(browser) == []
        addresses = {url.partition("?")[0] for url in requests(browser)}
        assert {url for url in addresses if not url.startswith("data:")} == {
            live.url,
            f"{live.url}state",
        }
    with Results(path, readonly=True) as results:
        assert len(results) == 64


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_stopped(tmp_path, number):
    path = write(tmp_path / "r.sqlite")
    words = [*PROGRAM, "report", str(path), "--live", "--title", "Mine"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = process.stderr.readline().split()[-1]
            assert "<title>Mine</title>" in get(url)[2]
            process.stderr.readline()
            process.send_signal(number)
            assert process.wait(20) == 0
            assert process.stderr.read() == "ended\n"
        finally:
            process.kill()


def test_sweep_serves_its_page_and_measures_the_same(tmp_path, model_path, small_npz):
    plain, served = tmp_path / "plain.sqlite", tmp_path / "served.sqlite"
    words = ["sweep", str(model_path), "--data", f"npz:{small_npz}", "--rates", "1e-4,1e-3,1e-2"]
    words += ["--trials", "60", "--workers", "1", "-o"]
    assert subprocess.run([*PROGRAM, *words, plain], capture_output=True).returncode == 0
    command = [*PROGRAM, *words, str(served), "--live"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("live page: http://127.0.0.1:")
            url = line.split()[-1]
            assert "data-live" in get(url)[2]
            texts = set()
            while process.poll() is None:
                state = json.loads(get(f"{url}state?known=")[2])
                texts.add(state["text"])
                if state["ended"]:
                    break
                time.sleep(0.1)
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
        finally:
            process.kill()
    assert state["text"] == "Ended, with 180 points."
    assert any(" of 180 points" in text for text in texts)
    assert "Traceback" not in out + err
    rows = []
    for path in (plain, served):
        with Results(path, readonly=True) as results:
            names = ("p01", "trial", "correct", "agree_bits", "correct_bits")
            rows.append(results.rows(columns=names))
    assert rows[0] == rows[1]


def test_sweep_says_that_a_port_is_in_use_before_it_measures(
    tmp_path, model_path, small_npz, error
):
    path = tmp_path / "r.sqlite"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = error(
            *("sweep", model_path, "--data", f"npz:{small_npz}", "-o", path),
            *("--live", "--live-port", port),
        )
    assert "Address already in use" in said
    assert not path.exists()
