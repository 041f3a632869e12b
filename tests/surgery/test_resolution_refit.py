"""A refit at another size comes closer to the full-size model, or is left out."""

from __future__ import annotations

import torch
from vits import images, random_vit

from edgevit.surgery.resolution import change_resolution
from edgevit.surgery.resolution_refit import refit_resolution


def test_an_equal_model_is_left_alone() -> None:
    model = random_vit()
    inputs = images(model, 8)
    found = refit_resolution(model, model, inputs, inputs)
    assert found.module is model and not found.improved
    assert found.what == "a refit was no better on 2 held-out calibration images; left out"


def test_a_shifted_layer_is_put_right() -> None:
    full = random_vit(img_size=64)
    model = change_resolution(full, (32, 48))
    with torch.no_grad():
        model.blocks[0].mlp.fc2.bias += 1.0
    large = images(full, 32)
    small = torch.nn.functional.interpolate(large, size=(32, 48), mode="bicubic", antialias=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = refit_resolution(model, full, small, large, copies=1)
    assert found.improved and found.after.kl < 0.7 * found.before.kl
    assert found.module(small).shape == (32, 7)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
