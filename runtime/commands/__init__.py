# SPDX-License-Identifier: Apache-2.0
"""The commands of `noisystore`, one module each.

A module has HELP, DESCRIPTION and EXAMPLE, ``add_arguments(parser)`` and ``run(args)``, which
returns the exit status. Modules import nothing heavy before `run`.
"""
