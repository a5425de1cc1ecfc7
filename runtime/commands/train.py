# SPDX-License-Identifier: Apache-2.0
"""`noisystore train`: train a VGG on the digits or on CIFAR-10."""

from __future__ import annotations
