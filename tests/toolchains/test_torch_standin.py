"""The stand-in for torch does what torch does, and what it can't do it says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgevit.toolchains import environment

sys.path.append(str(environment.SHARED))
import torch_standin  # noqa: E402

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(shape=SHAPES, data=st.data())
def test_elements_move_as_torch_moves_them(shape: list[int], data: st.DataObject) -> None:
    """What the toolkit's rule does: number the elements, cut along a dimension, reshape the pieces, join them."""
    dim = data.draw(st.integers(0, len(shape) - 1))
    sizes: Any = data.draw(st.one_of(st.integers(1, 6), st.just([1] * shape[dim])))
    count = 1
    for size in shape:
        count *= size

    def moved(library: Any) -> tuple[Any, Any]:
        pieces = library.split(library.arange(count).reshape(shape), sizes, dim=dim)
        joined = library.cat([piece.reshape(-1) for piece in pieces], dim=0)
        return joined.reshape(-1).tolist(), [tuple(piece.shape) for piece in pieces]

    assert moved(torch_standin) == moved(torch)


def test_sizes_that_do_not_fill_the_dimension_are_refused_as_by_torch() -> None:
    for library in (torch_standin, torch):
        with pytest.raises((ValueError, RuntimeError)):
            library.split(library.arange(4), [1, 2], dim=0)


@pytest.mark.parametrize(
    "use", ["torch.zeros(3)", "torch.arange(3).cuda()", "torch.nn.Linear", "torch.nn.Module()"]
)
def test_what_it_lacks_fails_and_is_named_in_the_log(use: str) -> None:
    script = f"import sys; sys.path.append({str(environment.SHARED)!r}); import job; job.torch_from(None)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}import torch\n{use}"], capture_output=True, text=True
    )
    assert done.returncode == 1
    name = {
        "torch.zeros(3)": "zeros",
        "torch.arange(3).cuda()": "Tensor.cuda",
        "torch.nn.Linear": "nn.Linear",
    }
    assert done.stdout == f"{torch_standin.MISSING} {name.get(use, 'nn.Module')}\n"
