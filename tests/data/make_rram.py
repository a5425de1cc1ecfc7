# SPDX-License-Identifier: Apache-2.0
"""Write rram.csv: SIMULATED resistances of a cell at five forming voltages, 250 cycles each.

No measured data: log-normal distributions with the parameters below, chosen so that, as in fig. 1
of the paper, only the two lowest voltages part all samples of the states.

    python tests/data/make_rram.py
"""

import csv
import pathlib

import numpy as np

CYCLES, SEED = 250, 4
#: Forming voltage: median (ohm) and sigma of ln R of the LRS, then of the HRS.
CELLS = {
    "1.5 V": (1.2e4, 0.26, 1.1e6, 0.56),
    "2.0 V": (9.0e3, 0.28, 4.0e5, 0.66),
    "2.5 V": (7.0e3, 0.32, 1.5e5, 0.82),
    "3.0 V": (5.5e3, 0.36, 9.0e4, 0.86),
    "3.5 V": (4.5e3, 0.42, 5.5e4, 0.90),
}


def main():
    random = np.random.default_rng(SEED)
    columns = {}
    for name, values in CELLS.items():
        for state, median, sigma in (("LRS", *values[:2]), ("HRS", *values[2:])):
            columns[f"{state} {name}"] = median * np.exp(sigma * random.standard_normal(CYCLES))
    with (pathlib.Path(__file__).parent / "rram.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows([f"{r:.4g}" for r in row] for row in zip(*columns.values(), strict=True))


if __name__ == "__main__":
    main()
