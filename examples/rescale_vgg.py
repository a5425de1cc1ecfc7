# SPDX-License-Identifier: Apache-2.0
"""Scale the outputs of a VGG's convolutions without changing what it computes.

Batch normalisation undoes any factor on the convolution before it, so training leaves the size of
a convolution's outputs to chance (initialisation, weight decay). A memory stores them all the same,
and a float of 2 or more has exponent bits 2, 3, ... that are 0, where a flip multiplies it by up to
2^64; of a smaller one these bits are 1, and a flip only shrinks it.

    python examples/rescale_vgg.py vgg-a.safetensors 8 rescaled/vgg-a.safetensors
    noisystore reproduce table5 --weights rescaled --data cifar10:DIR --networks a
"""

import sys
from pathlib import Path

from safetensors.torch import save

from noisystore.export.networks import read_state
from noisystore.ortops.files import write_whole


def rescale(state, factor):
    """Return the state dict with convolutions and the statistics of their outputs scaled."""
    powers = {"running_mean": 1, "running_var": 2}
    scaled = {}
    for name, tensor in state.items():
        convolution = name.startswith("features") and tensor.dim() == 4
        power = 1 if convolution else powers.get(name.rpartition(".")[2], 0)
        scaled[name] = (tensor.float() * factor**power).contiguous() if power else tensor
    return scaled


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python rescale_vgg.py WEIGHTS FACTOR OUT.safetensors")
    weights, factor, out = sys.argv[1:]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, save(rescale(read_state(weights), float(factor))))
