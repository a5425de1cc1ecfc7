# SPDX-License-Identifier: Apache-2.0
"""One TOML file a board; docs/boards.md has the keys, `runtime.board` reads them."""
