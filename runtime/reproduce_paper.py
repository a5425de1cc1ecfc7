# SPDX-License-Identifier: Apache-2.0
"""What the paper reports: its midpoints, rates and settings, as numbers with their source.

Y. Emonds, K. Xi, H. Fröning: Implications of Noise in Resistive Memory on Deep Neural Networks for
Image Classification (2024).
"""

from __future__ import annotations

from collections.abc import Mapping

#: VGG configurations, from the shallowest.
NETWORKS = ("A", "B", "D", "E")

#: Table 2, float16, float32 and float64: midpoint noise level by format and network. bfloat16 is
#: not in the table: "the inference accuracy coincides" with float32's (section 6.1, fig. 5).
MIDPOINTS: Mapping[str, Mapping[str, float]] = {
    "float16": {"A": 2.66e-6, "B": 1.66e-6, "D": 1.57e-6, "E": 1.48e-6},
    "float32": {"A": 2.20e-6, "B": 1.35e-6, "D": 1.25e-6, "E": 1.20e-6},
    "bfloat16": {"A": 2.20e-6, "B": 1.35e-6, "D": 1.25e-6, "E": 1.20e-6},
    "float64": {"A": 1.92e-6, "B": 1.17e-6, "D": 1.08e-6, "E": 0.99e-6},
    # Table 4: static post-training quantization to 8 bits.
    "int8": {"A": 1.23e-3, "B": 1.58e-3, "D": 1.45e-3, "E": 1.27e-3},
}

#: Table 4: midpoint of the quantized network over that of float32.
IMPROVEMENTS: Mapping[str, float] = {"A": 557, "B": 1167, "D": 1159, "E": 1054}

#: Table 5: midpoint by the first noisy bit of the exponent, 1 to 8 (float32).
EXPONENT_MIDPOINTS: Mapping[str, tuple[float, ...]] = {
    "A": (2.21e-6, 1.21e-5, 1.64e-5, 2.57e-5, 5.93e-5, 1.33e-3, 2.00e-2, 1.56e-1),
    "B": (1.37e-6, 6.50e-6, 9.00e-6, 1.46e-5, 3.76e-5, 1.24e-3, 1.74e-2, 1.13e-1),
    "D": (1.26e-6, 6.09e-6, 8.48e-6, 1.39e-5, 4.05e-5, 1.40e-3, 2.11e-2, 1.48e-1),
    "E": (1.20e-6, 5.70e-6, 7.98e-6, 1.34e-5, 4.18e-5, 1.30e-3, 1.95e-2, 1.29e-1),
}

#: Figure 4, first noisy bit counted from the sign, 0: from here on the midpoint is off the chart
#: (above `HIGHEST_MASKED`, appendix A.1), and from the second on nothing is lost.
FIRST_MANTISSA_BIT, FIRST_HARMLESS_BIT = 9, 12

#: Section 7: "99% noise" of VGG-A by format.
RATES_99: Mapping[str, float] = {"float32": 1.15e-7, "int8": 1.02e-4}

#: Appendix A.2: clean accuracy and midpoint of VGG-A before re-training; the least clean accuracy
#: that is asked after it, and the best midpoint then; the mask and rate of that re-training.
CLEAN_BEFORE, CLEAN_ASKED = 0.8507, 0.80
MIDPOINT_RETRAINED = 2.35e-6
RETRAINED_MASK, RETRAINED_RATE = "exponent:6-", 1e-3
#: The whole grid of A.2.
RETRAIN_EPOCHS = 10
RETRAIN_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
RETRAIN_MASKS = (*(f"exponent:{i}-" for i in range(3, 9)), "mantissa")

#: Section 5: rates swept (fig. 4 and table 5 go up to 0.5, A.1) and runs a rate.
LOWEST, HIGHEST, HIGHEST_MASKED, TRIALS = 1e-8, 1e-1, 0.5, 5
