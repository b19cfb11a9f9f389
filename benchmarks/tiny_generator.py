"""The smallest generator: one linear map from the mean of a layer's input to the directions of an adapter.

Also any generator beside a tiny model.
"""

import torch
from torch import nn

from seal_lightning.generator.base import Generator, GeneratorNetwork
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.models.random_models import build_tiny

TEXTS = ["the old mill", "a river runs by the gate, and by the mill", "who leads the town"]


class Tiny(Generator):
    """`spoilt` makes the adapters of texts with that many tokens nan."""

    def __init__(self, *, rank: int = 2, alpha: float = 2.0, target_modules="all-linear", bound=None, spoilt: int = 0):
        super().__init__(rank=rank, alpha=alpha, target_modules=target_modules, bound=bound)
        self.spoilt = spoilt

    def network(self, model, *, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyNetwork(self, model)


class TinyNetwork(GeneratorNetwork):
    def __init__(self, settings, model):
        super().__init__(settings, model)
        self.first = next(iter(self.sizes))
        inputs, _ = self.sizes[self.first]
        self.reader = nn.Linear(inputs, settings.rank)
        nn.init.zeros_(self.reader.weight)
        nn.init.zeros_(self.reader.bias)
        self.A = nn.ParameterList(torch.randn(settings.rank, i) * i**-0.5 for i, _ in self.sizes.values())
        self.B = nn.ParameterList(torch.randn(settings.rank, o) * o**-0.5 for _, o in self.sizes.values())

    def code(self, reading):
        states = reading.inputs[self.first].float() * reading.mask[..., None]
        sums = states.new_zeros(reading.texts, states.shape[-1]).index_add_(0, reading.owners, states.sum(1))
        counts = reading.mask.sum(1).float()
        lengths = counts.new_zeros(reading.texts).index_add_(0, reading.owners, counts)
        code = self.reader(sums / lengths[:, None])
        return torch.where(lengths[:, None] == self.settings.spoilt, torch.nan, code)

    def decode(self, code):
        return {
            name: (A.expand(len(code), *A.shape), torch.tanh(code)[:, :, None] * B)
            for name, A, B in zip(self.sizes, self.A, self.B, strict=True)
        }


def policy_of(settings, family="llama", *, awake=True):
    """A tiny model beside a network; `awake` draws the weights that start at zero."""
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False).eval()
    network = settings.network(model, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if awake and not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return GeneratingPolicy(model, tokenizer, False, network=network)
