"""A frozen module stays in evaluation mode and keeps its weights to the last bit."""

from __future__ import annotations

import copy

import torch
from torch import nn

from stgraph.nn.frozen import freeze, is_frozen


class Encoder(nn.Module):
    """With everything that behaves differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.outside = nn.Linear(8, 4)

    def forward(self, x):
        return self.outside(self.inside(x))


class Model(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head, self.prompt = encoder, nn.Linear(4, 1), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.head(self.encoder(x + self.prompt))


def test_training_around_it_leaves_it_as_it_was() -> None:
    torch.manual_seed(0)
    encoder = freeze(Encoder())
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = Model(encoder).train()
    x = torch.randn(32, 4)
    before = encoder(x)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(10):
        model.train()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(kept[name], value) for name, value in encoder.state_dict().items())
    assert torch.equal(encoder(x), before)  # no dropout, and running statistics stand
    assert model.prompt.detach().abs().max() > 0.01  # gradients pass through
    assert model.head.training


def test_no_way_back_by_accident() -> None:
    model = Model(freeze(Encoder()))
    for call in (model.train, model.encoder.train, model.encoder.inside.train, model.encoder.inside[2].train,
                 lambda: model.apply(nn.Module.train), lambda: [part.train() for part in model.modules()],
                 lambda: model.encoder.requires_grad_(True), lambda: model.encoder.outside.requires_grad_()):
        call()
        assert not any(part.training for part in model.encoder.modules())
        assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert is_frozen(model.encoder.inside[0])
    assert not is_frozen(model)


def test_without_freezing_the_same_training_does_change_it() -> None:
    """What the law protects from: evaluation mode alone is undone by the next ``train()``."""
    model = Model(Encoder().eval())
    model.train()
    assert model.encoder.training
    before = model.encoder.inside[1].running_mean.clone()
    model(torch.randn(32, 4))
    assert not torch.equal(model.encoder.inside[1].running_mean, before)


def test_copies_weights_and_types_are_as_before() -> None:
    torch.manual_seed(0)
    plain = Encoder()
    frozen = freeze(copy.deepcopy(plain))
    assert isinstance(frozen, Encoder)
    assert isinstance(frozen.outside, nn.Linear)
    assert type(frozen).__name__ == "Encoder"
    assert list(frozen.state_dict()) == list(plain.state_dict())
    again = copy.deepcopy(frozen).train()
    assert not any(part.training for part in again.modules())
    assert again.outside.weight is not frozen.outside.weight
    assert plain.train().training  # the class itself is untouched
    assert freeze(frozen) is frozen
    frozen.load_state_dict(Encoder().state_dict())  # weights may be put in on purpose
    assert not frozen.training
