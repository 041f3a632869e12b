"""Rotations of the residual stream that LayerNorm doesn't notice.

For an orthogonal Q with Qᵀ1 = 1, mean and norm of x Q are those of x, so LN(x Q) = LN(x) Q for a LayerNorm
without weights. A layer that writes to the stream takes Q on its output, one that reads it takes Qᵀ on its input:
the model computes the same, and large values of few channels are spread over all of them. QuaRot
(arXiv 2404.00456) does this for RMSNorm, where any orthogonal Q will do.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import expm
from torch import nn

from edgevit.rewrites.modules import ExponentialNorm

Matrix = npt.NDArray[np.float64]

LONGEST = 256
NEGLIGIBLE = 0.1
RATE = 0.01


def cosine_basis(dim: int) -> Matrix:
    """Orthonormal columns of the DCT-II; the first is constant."""
    steps = np.arange(dim)
    basis: Matrix = np.cos(np.pi * (steps[:, None] + 0.5) * steps / dim) * np.sqrt(2 / dim)
    basis[:, 0] = 1 / np.sqrt(dim)
    return basis


def flat_basis(dim: int) -> Matrix:
    """Orthonormal columns of nearly equal entries, the first constant: Hadamard (x) DCT for any width."""
    power = dim & -dim
    hadamard: Matrix = np.ones((1, 1))
    while len(hadamard) < power:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    basis: Matrix = np.kron(cosine_basis(dim // power), hadamard / np.sqrt(power))
    return basis


def random_rotation(dim: int, seed: int) -> Matrix:
    """Uniformly random among the orthogonal matrices [dim, dim] that keep the vector of ones."""
    rows, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim - 1, dim - 1)))
    return keeping_ones(rows * np.sign(np.diag(upper)))


def structured_rotation(dim: int, seed: int) -> Matrix:
    """Signs and a permutation between two flat bases: Q = B_p diag(±1) P Bᵀ, keeping the vector of ones."""
    random, basis = np.random.default_rng(seed), flat_basis(dim)
    signs = random.choice([-1.0, 1.0], dim)
    signs[0] = 1.0
    order = np.concatenate([[0], 1 + random.permutation(dim - 1)])
    result: Matrix = basis[random.permutation(dim)] @ np.diag(signs)[:, order] @ basis.T
    return result


def keeping_ones(inner: Matrix) -> Matrix:
    """The rotation of R^dim that is `inner` on the complement of the vector of ones."""
    basis, dim = cosine_basis(len(inner) + 1), len(inner) + 1
    middle = np.eye(dim)
    middle[1:, 1:] = inner
    result: Matrix = basis @ middle @ basis.T
    return result


def learned_rotation(
    start: Matrix, streams: list[tuple[torch.Tensor, float]], *, steps: int = 50, power: int = 16
) -> Matrix:
    """From `start`, make the stream's tensors narrow: fewer int8 levels spent on rare values.

    `streams` holds (rows [n, dim], importance) per tensor; minimises Σ importance · ‖rows Q‖ₚ², a smooth
    stand-in for the squared range, over Q = start · exp(skew on the complement of ones).
    """
    dim = len(start)
    basis = torch.from_numpy(cosine_basis(dim)).float()
    rows = torch.stack([longest(part.float(), LONGEST) for part, _ in streams])
    rows = rows @ torch.from_numpy(start).float()
    importance = torch.tensor([weight for _, weight in streams])
    inner = torch.zeros(dim - 1, dim - 1, requires_grad=True)
    optimiser = torch.optim.Adam([inner], lr=RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        turn = (
            basis[:, :1] @ basis[:, :1].T + basis[:, 1:] @ torch.matrix_exp(inner - inner.T) @ basis[:, 1:].T
        )
        loss = (importance * squared_widths(rows @ turn, power)).sum().log()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    skew = (inner - inner.T).detach().double().numpy()
    rotation: Matrix = start @ keeping_ones(expm(skew))
    return rotation


def longest(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` rows with the largest norms, repeated where there are fewer: the others decide no range."""
    order = rows.norm(dim=1).argsort(descending=True)
    return rows[order[torch.arange(count) % len(order)]]


def squared_widths(values: torch.Tensor, power: int) -> torch.Tensor:
    """‖values‖ₚ² of each tensor of [tensors, n, dim]; what is far below its top would only underflow."""
    top = values.detach().abs().amax((1, 2), keepdim=True)
    near = (values.abs() / top).clamp(min=NEGLIGIBLE).pow(power)
    return near.sum((1, 2)).pow(2 / power) * top[:, 0, 0].square()


def why_not_rotated(vit: Any) -> str | None:
    """None where the stream can be rotated; else why its function would change."""
    norms = [norm for block in vit.blocks for norm in (block.norm1, block.norm2)] + [vit.norm, vit.fc_norm]
    if any(not isinstance(norm, nn.Identity) and not bare(norm) for norm in norms):
        return "a LayerNorm has weights that could not be folded"
    if not isinstance(vit.norm_pre, nn.Identity) or not isinstance(vit.patch_embed.norm, nn.Identity):
        return "a LayerNorm writes to the residual stream"
    if any(not isinstance(scale, nn.Identity) for block in vit.blocks for scale in (block.ls1, block.ls2)):
        return "a LayerScale is not folded"
    if vit.attn_pool is not None or vit.global_pool not in ("token", "avg"):
        return f"its head pools tokens by {vit.global_pool}"
    if any(not isinstance(head, nn.Linear) for head in heads(vit)):
        return "its head is not a linear layer"
    return None


def bare(norm: Any) -> bool:
    """A LayerNorm that only subtracts the mean, where there is one, and divides by the deviation."""
    if not isinstance(norm, nn.LayerNorm | ExponentialNorm):
        return False
    return (norm.weight is None or bool((norm.weight == 1).all())) and (
        norm.bias is None or bool((norm.bias == 0).all())
    )


def heads(vit: Any) -> list[Any]:
    """The classifier, and the distillation head where there is one."""
    return [head for head in (vit.head, getattr(vit, "head_dist", None)) if head is not None]


@torch.no_grad()
def rotate(vit: Any, rotation: Matrix) -> Any:
    """A copy of a `prepared` ViT with its residual stream turned by `rotation` [dim, dim]; same outputs."""
    turned = write_stream(vit, torch.from_numpy(rotation))
    for reader in readers(turned):
        reader.weight.copy_(product(reader.weight, rotation))
    return turned


def centre_stream(vit: Any) -> Any:
    """A copy that writes no mean over channels to the stream: every LayerNorm would subtract it anyway."""
    dim = vit.embed_dim
    return write_stream(vit, torch.eye(dim, dtype=torch.float64) - 1 / dim)


@torch.no_grad()
def write_stream(vit: Any, matrix: torch.Tensor) -> Any:
    """A copy in which all that is added to the residual stream is multiplied by `matrix` [dim, dim]."""
    changed = copy.deepcopy(vit)
    for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        parameter = getattr(changed, name, None)
        if parameter is not None:
            parameter.copy_(parameter.double() @ matrix)
    for writer in writers(changed):
        rows = matrix.T @ writer.weight.double().flatten(1)
        writer.weight.copy_(rows.view_as(writer.weight))
        if writer.bias is not None:
            writer.bias.copy_(writer.bias.double() @ matrix)
    return changed


def product(weight: torch.Tensor, rotation: Matrix) -> torch.Tensor:
    """weight [outputs, dim] · rotation, in double."""
    return weight.double() @ torch.from_numpy(rotation)


def writers(vit: Any) -> list[Any]:
    """Layers whose output is added to the residual stream."""
    return [
        vit.patch_embed.proj,
        *(layer for block in vit.blocks for layer in (block.attn.proj, block.mlp.fc2)),
    ]


def readers(vit: Any) -> list[Any]:
    """Linear layers that read the stream through a LayerNorm."""
    return [*(layer for block in vit.blocks for layer in (block.attn.qkv, block.mlp.fc1)), *heads(vit)]
