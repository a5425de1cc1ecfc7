# SPDX-License-Identifier: Apache-2.0
"""Signals that come once, twice, and where somebody else handles them."""

from __future__ import annotations

import os
import signal

import pytest

from noisystore.runtime import interrupt
from noisystore.runtime.interrupt import Interrupted, terminable, uninterrupted


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def as_in_a_foreground():
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_once(number, again):
    """What is done after a signal is not disturbed by the next, and a later run hears its own."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for _ in range(2):
        with terminable():
            with pytest.raises(Interrupted) as caught, terminable():
                send(number)
            assert caught.value.signal == number
            send(again)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_not_for_ever(monkeypatch):
    monkeypatch.setattr(interrupt, "GRACE_SECONDS", 0.0)
    with terminable():
        for _ in range(2):
            with pytest.raises(Interrupted):
                send(signal.SIGINT)


def test_put_off():
    done = []
    with terminable():
        with pytest.raises(Interrupted) as caught:  # noqa: PT012
            with uninterrupted():
                send(signal.SIGTERM)
                send(signal.SIGINT)
                done.append(1)
            done.append(2)
        with uninterrupted():
            done.append(3)
    assert done == [1, 3]
    assert caught.value.signal == signal.SIGTERM


def test_background_jobs_and_other_handlers():
    got = []
    for handler in (signal.SIG_IGN, lambda number, frame: got.append(number)):
        signal.signal(signal.SIGINT, handler)
        with terminable():
            send(signal.SIGINT)
    assert got == [signal.SIGINT]
    with pytest.raises(Interrupted), terminable():
        send(signal.SIGTERM)
