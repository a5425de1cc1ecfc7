# SPDX-License-Identifier: Apache-2.0
"""Texts that files and libraries give, as messages can hold them."""

from __future__ import annotations

#: What a hostile text of numbers makes a parser raise, beside ValueError.
TOO_MUCH = (OverflowError, RecursionError)


def printable(text: str) -> str:
    """Return a text of a file with question marks for what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def one_line(error: BaseException) -> str:
    """Return the message of an exception as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
