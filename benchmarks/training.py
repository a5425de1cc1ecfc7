# SPDX-License-Identifier: Apache-2.0
"""A training step in PyTorch, noisy against clean.

VGG-A, float32, random images of CIFAR-10's shape, SGD with momentum. Clean is a plain PyTorch step
(forward, backward, optimizer). A noisy step is what `train` does: noise of its own seed in the
forward pass, guards against NaN and Inf, clipping. Measurements in turn, medians.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peer_operators import rounded, versions
from torch import nn

from noisystore.export import Instrumented, instrument, load_model, noise
from noisystore.export.training_noise import step_seed
from noisystore.export.training_steps import GuardedSteps
from noisystore.runtime import bench_report
from noisystore.runtime.commands.common import table

RATES = (0.0, 1e-6, 1e-4, 1e-3)
SITES = ("layer", "weight", "activation", "weight,layer")
#: Most bits that leave a step finite at every rate: a skipped step would take less time.
MASK = "exponent:6-"
GOAL = 1.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow network, few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--width", type=float, help="of the network (default: 1)")
    parser.add_argument("--batch", type=int, help="default: 128")
    parser.add_argument("--rounds", type=int, help="default: 7")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    width = args.width or (0.0625 if args.quick else 1.0)
    batch = args.batch or (16 if args.quick else 128)
    rounds = args.rounds or (2 if args.quick else 7)
    result: dict[str, Any] = {
        "benchmark": "training",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": bench_report.machine(),
        "versions": versions(),
        "model": f"VGG-A, width {width:g}, random weights",
        "batch": batch,
        "threads": args.threads,
        "mask": MASK,
        **measure(width, batch, SITES[: 2 if args.quick else 4], rounds),
    }
    print(json.dumps(rounded(result), indent=1) if args.json else text(result))


class Trainee:
    """A network in training, its data, and its steps."""

    def __init__(self, width: float, batch: int) -> None:
        self.model, _ = load_model("vgg-a", width=width)
        self.model.train()
        self.images = torch.randn(batch, 3, 32, 32)
        self.labels = torch.randint(0, 10, (batch,))
        self.index = torch.randperm(batch)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ConstantLR(self.optimizer, 1.0)
        self.guarded = GuardedSteps(self.model, self.optimizer, schedule, max_gradient_norm=5.0)
        self.steps = itertools.count()

    def loss(self, model: nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(self.images), self.labels)

    def clean(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def guards(self) -> None:
        self.guarded.take(lambda: self.loss(self.model), len(self.labels))

    def noisy(self, model: Instrumented, rate: float) -> None:
        def loss() -> torch.Tensor:
            with noise(model, rate, MASK, step_seed(1, next(self.steps)), self.index):
                return self.loss(model)

        self.guarded.take(loss, len(self.labels))


def measure(width: float, batch: int, kinds: Sequence[str], rounds: int) -> dict[str, Any]:
    """Time every kind of step in turn; CPU time of the process, so that its neighbours matter less.

    Returns
    -------
    dict
        ``clean_ms``, ``guards_ratio``, and ``rows`` with sites, rate and ratio.
    """
    trainee = Trainee(width, batch)
    calls: dict[Any, Callable[[], None]] = {"clean": trainee.clean, "guards": trainee.guards}
    for sites in kinds:
        print(f"{sites} ...", file=sys.stderr)
        model = instrument(trainee.model, sites=sites, args=(trainee.images,))
        for rate in RATES:
            calls[sites, rate] = functools.partial(trainee.noisy, model, rate)
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    if trainee.guarded.skipped:
        sys.exit(f"{trainee.guarded.skipped} steps were skipped: their times say nothing")
    clean = statistics.median(seconds.pop("clean"))
    ratios = {name: statistics.median(times) / clean for name, times in seconds.items()}
    return {
        "rounds": rounds,
        "clean_ms": clean * 1e3,
        "guards_ratio": ratios.pop("guards"),
        "rows": [
            {"sites": sites, "rate": rate, "ratio": ratio}
            for (sites, rate), ratio in ratios.items()
        ],
    }


def text(result: dict[str, Any]) -> str:
    """The figures as a table."""
    machine, rows = result["machine"], result["rows"]
    by_sites = [
        [sites, *(f"{row['ratio']:.2f}" for row in rows if row["sites"] == sites)]
        for sites in dict.fromkeys(row["sites"] for row in rows)
    ]
    worst = max(row["ratio"] for row in rows)
    return "\n".join(
        [
            f"{machine['cpu']}, {machine['instruction_set']}, load {machine['load']:.1f}; "
            + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
            f"{result['model']}, batch {result['batch']}, threads {result['threads']}, noisy bits "
            f"{result['mask']}; {result['rounds']} rounds, CPU time",
            "",
            table(["noisy / clean step", *(f"{rate:g}" for rate in RATES)], by_sites),
            "",
            f"clean step: {result['clean_ms']:.1f} ms; clean with guards and clipping: "
            f"{result['guards_ratio']:.2f} of it",
            f"largest ratio {worst:.2f}: {'within' if worst <= GOAL else 'beyond'} the goal of "
            f"{GOAL:g}",
        ]
    )


if __name__ == "__main__":
    main()
