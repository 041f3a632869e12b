"""Recovery: never worse, resumable, and it takes nothing but pictures."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.compression.heads import prune_heads
from edgevit.compression.resolution import change_resolution
from edgevit.errors import InputError
from edgevit.progress import Quiet
from edgevit.training.augment import at_size, random_views
from edgevit.training.distill import recover
from edgevit.training.loop import learning_rate
from edgevit.training.loss import Grids, relative_error

from timm.models.vision_transformer import VisionTransformer  # isort: skip


def teacher(**options: Any) -> Any:
    torch.manual_seed(0)
    defaults = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
    model = VisionTransformer(**{**defaults, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def pictures(count: int = 32, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


class Ticks:
    """A clock on which every step and every look takes the same time, whatever the machine does."""

    def __init__(self, tick_s: float = 0.5) -> None:
        self.now, self.tick_s = 0.0, tick_s

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


class StopAfter(Quiet):
    """A progress that behaves like a user who presses Ctrl-C at the nth look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def advance(self, done: int, total: int, note: str = "") -> None:
        self.looks -= 1
        if self.looks == 0:
            raise KeyboardInterrupt


def test_a_pruned_model_comes_closer_to_its_teacher() -> None:
    model, inputs = teacher(), pictures(48)
    pruned = prune_heads(model, 3, inputs).module
    before = copy.deepcopy(pruned.state_dict())
    found = recover(pruned, model, inputs, minutes=1, clock=Ticks())
    assert found.improved and found.after.kl < found.before.kl
    assert (found.images, found.after.n) == (36, 12)
    assert [block.attn.num_heads for block in found.module.blocks] == [
        block.attn.num_heads for block in pruned.blocks
    ]
    assert not found.module.training
    assert all(torch.equal(before[name], value) for name, value in pruned.state_dict().items())


def test_a_model_that_cannot_improve_is_returned_as_it_was() -> None:
    model = teacher()
    found = recover(model, model, pictures(), minutes=0.1, clock=Ticks())
    assert found.module is model and not found.improved
    assert found.after == found.before
    assert found.what.endswith("steps found nothing better on 8 held-out images; unchanged")


def test_a_smaller_size_learns_from_the_full_one() -> None:
    model = teacher(img_size=64)
    student = change_resolution(model, (32, 32))
    large = pictures(size=64)
    small = at_size(large, (32, 32))
    found = recover(student, model, small, teacher_inputs=large, minutes=0.2, clock=Ticks())
    assert found.after.kl <= found.before.kl and found.steps > 0
    assert found.module.patch_embed.img_size == (32, 32)


def test_an_interrupted_recovery_goes_on_where_it_was(tmp_path: Path) -> None:
    model, inputs, checkpoint = teacher(), pictures(), tmp_path / "recovery.pt"
    student = prune_heads(model, 2, inputs).module
    with pytest.raises(KeyboardInterrupt):
        recover(
            student, model, inputs, minutes=1, checkpoint=checkpoint, progress=StopAfter(50), clock=Ticks()
        )
    assert checkpoint.exists()
    found = recover(student, model, inputs, minutes=1, checkpoint=checkpoint, clock=Ticks())
    assert found.resumed and 0 < len(found.checks) <= 12
    assert [seconds for seconds, _ in found.checks] == sorted(seconds for seconds, _ in found.checks)
    again = recover(student, model, inputs, minutes=1, checkpoint=checkpoint, clock=Ticks())
    assert again.steps == found.steps and again.after == found.after


@pytest.mark.slow
def test_a_killed_recovery_goes_on_where_it_was(tmp_path: Path) -> None:
    checkpoint = tmp_path / "recovery.pt"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import edgevit.training.distill as distill; import edgevit.training.loop as training\n"
        "from test_distill import pictures, teacher\n"
        "from edgevit.compression.heads import prune_heads\n"
        "training.SAVE_EVERY_S = 0.2\n"
        "model = teacher()\n"
        "student = prune_heads(model, 2, pictures()).module\n"
        "found = distill.recover(student, model, pictures(), minutes=0.1, checkpoint=Path(sys.argv[1]))\n"
        "print(found.resumed, found.steps, found.after.kl <= found.before.kl)\n"
    )
    command = [sys.executable, str(script), str(checkpoint)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
    for _ in range(1200):
        if checkpoint.exists() or first.poll() is not None:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    resumed, steps, no_worse = second.stdout.split()
    assert (resumed, no_worse) == ("True", "True") and int(steps) > 0


def test_another_recoverys_checkpoint_is_refused(tmp_path: Path) -> None:
    model, checkpoint = teacher(), tmp_path / "recovery.pt"
    recover(model, model, pictures(), minutes=0.003, checkpoint=checkpoint)
    with pytest.raises(InputError) as error:
        recover(model, model, pictures(16), minutes=0.003, checkpoint=checkpoint)
    assert str(error.value) == (
        f"cannot resume from {checkpoint}: it was saved for another model, other images or other settings. "
        "Delete the file to start again."
    )


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint = tmp_path / "recovery.pt"
    checkpoint.write_bytes(b"half a file")
    with pytest.raises(InputError) as error:
        recover(teacher(), teacher(), pictures(), minutes=0.003, checkpoint=checkpoint)
    assert str(error.value).startswith(f"cannot resume from {checkpoint}: ")
    assert str(error.value).endswith(". Delete the file to start again.")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"minutes": 0}, "cannot recover in 0 minutes: there is no time to train. Use 10."),
        ({"inputs": pictures(7)}, "cannot recover: 7 images are too few. Give 64 or more."),
        (
            {"teacher": teacher(depth=1)},
            "cannot recover: the student has 2 blocks of width 24, its teacher 1 of 24. "
            "Give the model it was made from.",
        ),
        (
            {"teacher_inputs": pictures(31)},
            "cannot recover: 32 images for the student and 31 for its teacher. Give both the same pictures.",
        ),
    ],
)
def test_what_cannot_be_recovered_is_refused(options: dict[str, Any], line: str) -> None:
    arguments = {"student": teacher(), "teacher": teacher(), "inputs": pictures(), "minutes": 0.01, **options}
    with pytest.raises(InputError) as error:
        recover(**arguments)
    assert str(error.value) == line


def test_views_repeat_with_the_seed_and_differ_from_each_other() -> None:
    images = pictures(4)
    first, second = (random_views(images, 8, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first.shape == (8, 3, 32, 32)
    assert not torch.equal(first[0], first[1])
    flat = torch.ones(4, 3, 32, 32)
    torch.testing.assert_close(
        random_views(flat, 8, torch.Generator().manual_seed(3)), flat.repeat(2, 1, 1, 1)
    )


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step / 100) for step in range(101)]
    assert rates.index(max(rates)) == 10
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[100] < 0.02 * max(rates)


def test_tokens_of_different_grids_are_compared_cell_by_cell() -> None:
    small, large = teacher(img_size=(64, 96)), teacher(img_size=(96, 96))
    grids = Grids.of(small, large)
    pooled = [
        grids.comparable(torch.full((2, 1 + grid[0] * grid[1], 24), 3.0), grid)
        for grid in (grids.ours, grids.theirs)
    ]
    assert pooled[0].shape == pooled[1].shape == (2, 1 + 2 * 3, 24)
    assert float(relative_error(pooled[0], pooled[1])) == 0
    rising = torch.arange(36.0).reshape(1, 36, 1).expand(2, 36, 24)
    cells = grids.comparable(torch.cat([torch.zeros(2, 1, 24), rising], dim=1), (6, 6))
    assert cells[0, 1:, 0].tolist() == sorted(cells[0, 1:, 0].tolist())


def test_equal_grids_are_compared_token_by_token() -> None:
    model = teacher()
    tokens = torch.randn(2, 5, 24)
    assert Grids.of(model, model).comparable(tokens, (2, 2)) is tokens
