# SPDX-License-Identifier: Apache-2.0
"""The one exception type that stands for bad input."""


class InputError(ValueError):
    """Bad input: one line that says what was wrong, what was expected and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
