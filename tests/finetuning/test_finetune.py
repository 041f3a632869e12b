"""From a pretrained model and folders of pictures to a folder that converts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.finetuning import finetune as finetuning
from edgevit.finetuning import loop
from edgevit.finetuning.finetune import Finetuned, finetune
from edgevit.finetuning.job import make_finetune_job
from edgevit.finetuning.picture import draw
from edgevit.models import load_model
from edgevit.progress import Quiet
from tests.finetuning.conftest import MODEL, write
from tests.images.pictures import truncated


def run(here: Path, progress: Quiet | None = None, **options: Any) -> Finetuned:
    options = {"validation": here / "test", "epochs": 2, **options}
    train = options.pop("train", here / "train")
    job = make_finetune_job(f"{here / 'model.py'}:tiny", train, out=here / "run", **options)
    return finetune(job, progress or Quiet())


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_frozen_backbone_learns_a_classifier_and_leaves_a_model(here: Path) -> None:
    result = run(here)
    assert result.names == ("blue", "green", "red")
    assert (result.learnt, result.held_out, result.validation) == (42, 6, 18)
    assert result.validation_right == 1.0
    again = load_model(str(here / "run"))
    assert (again.num_classes, again.labels) == (3, result.names)
    assert again.preprocessing.mean == (0.5,) * 3
    assert again.preprocessing_from == "run/config.json"
    trunk = load_model(f"{here / 'model.py'}:tiny").module.state_dict()
    for name, tensor in again.module.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, trunk[name])
    assert (here / "run" / "labels.txt").read_text() == "blue\ngreen\nred\n"


def test_the_picture_shows_curves_and_confusion(here: Path) -> None:
    result = run(here, freeze=2)
    draw(result, here / "run")
    with Image.open(here / "run" / "training.png") as picture:
        assert picture.width > picture.height > 300
    assert result.confusion.sum() == 18
    assert json.loads((here / "run" / "training.json").read_text())["stopped"] == "all epochs done"


@pytest.mark.parametrize("freeze", ["none", 2])
def test_blocks_that_are_kept_stay_as_they_are_and_the_others_learn(here: Path, freeze: str | int) -> None:
    result = run(here, freeze=freeze)
    assert len(result.history) == 2
    before = load_model(f"{here / 'model.py'}:tiny").module.state_dict()
    after = load_model(str(here / "run")).module.state_dict()
    changed = {
        name for name in after if not name.startswith("head.") and not torch.equal(before[name], after[name])
    }
    first = any(name.startswith(("blocks.0.", "patch_embed.", "pos_embed")) for name in changed)
    assert first == (freeze == "none")
    assert any(name.startswith("blocks.2.") for name in changed)


def test_a_killed_training_goes_on_where_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "BATCH", 8)
    whole = run(here, freeze="none")
    (here / "run" / "config.json").unlink()
    learn, steps = loop.Training.learn, 0

    def killed(self: loop.Training, *batch: torch.Tensor) -> float:
        nonlocal steps
        steps += 1
        if steps == 9:  # in the second epoch
            raise KeyboardInterrupt
        return learn(self, *batch)

    monkeypatch.setattr(loop.Training, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run(here, freeze="none")
    assert not (here / "run" / "config.json").exists()
    monkeypatch.setattr(loop.Training, "learn", learn)
    monkeypatch.setattr(finetuning, "start_classifier", lambda *_: pytest.fail("begun again"))
    result = run(here, freeze="none")
    assert result.resumed
    assert len(result.history) == len(whole.history) == 2
    assert sorted(path.name for path in (here / "run").iterdir() if not path.name.startswith(".")) == [
        "config.json", "labels.txt", "model.safetensors", "training.json"
    ]  # fmt: skip
    assert not (here / "run" / ".training.pt").exists()


def test_the_same_again_gives_the_same_weights(here: Path) -> None:
    first = run(here, freeze="none").history
    weights = load_model(str(here / "run")).module.state_dict()
    assert [{**each, "seconds": 0} for each in run(here, freeze="none").history] == [
        {**each, "seconds": 0} for each in first
    ]
    for name, tensor in load_model(str(here / "run")).module.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_a_fine_tuned_model_can_be_fine_tuned_again(here: Path) -> None:
    run(here)
    two = write(here / "two", 8, classes=("green", "red"))
    job = make_finetune_job(str(here / "run"), two, out=here / "second")
    assert finetune(job, Quiet()).names == ("green", "red")


def test_rare_classes_count_as_much_as_others(here: Path) -> None:
    for path in sorted((here / "train" / "red").iterdir())[3:]:
        path.unlink()
    result = run(here)
    assert result.confusion[2, 2] == 6


def test_a_class_of_one_picture_is_learnt_but_not_held_out(here: Path) -> None:
    for path in sorted((here / "train" / "red").iterdir())[1:]:
        path.unlink()
    progress = Quiet()
    result = run(here, progress)
    assert result.learnt == 2 * 14 + 1
    assert progress.warnings == ["red has one picture only"]


def test_pictures_that_cannot_be_read_are_named_and_left_out(here: Path) -> None:
    truncated(here / "train" / "red" / "broken.jpg")
    progress = Quiet()
    result = run(here, progress)
    assert result.learnt + result.held_out == 48
    assert [warning.partition(":")[0] for warning in progress.warnings] == ["skipped broken.jpg"]


def test_classes_may_come_from_a_csv(here: Path) -> None:
    rows = [
        f"{path.relative_to(here)},{path.parent.name}" for path in sorted((here / "train").rglob("*.png"))
    ]
    (here / "train.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    result = run(here, train=here / "train.csv")
    assert result.names == ("blue", "green", "red")
    assert result.validation_right == 1.0


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (lambda here: here / "nowhere", "cannot read "),
        (
            lambda here: write(here / "one", 4, classes=("red",)),
            "cannot learn from HERE/one: it has one class only, red",
        ),
        (
            lambda here: (here / "none").mkdir() or here / "none",
            "cannot learn from HERE/none: it has no class folders.",
        ),
        (
            lambda here: write(here / "many", 1, classes=tuple(f"c{number}" for number in range(200))),
            "cannot learn from HERE/many: none of its 200 classes has more than one picture",
        ),
        (
            lambda here: (here / "train" / "yellow").mkdir() or here / "train",
            "cannot learn from HERE/train: yellow has no pictures. Add some, or remove the folder.",
        ),
    ],
)
def test_pictures_that_nothing_can_be_learnt_from_are_one_line(
    here: Path, prepare: Callable[[Path], Path], line: str
) -> None:
    said = refused(lambda: run(here, train=prepare(here)))
    assert said.startswith(line.replace("HERE", str(here)))
    assert not (here / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"freeze": "4"},
            "--freeze 4 can't be used: the model has 3 blocks. Use backbone, none, ",
        ),
        (
            {"freeze": "head"},
            "--freeze head can't be used: it is neither backbone, nor none, ",
        ),
        ({"freeze": "-1"}, "--freeze -1 can't be used: it is neither backbone, "),
        ({"mean": "0.1,0.2"}, "--mean 0.1,0.2 can't be used: it has 2 numbers. "),
        ({"input_size": "64"}, "cannot "),
    ],
)
def test_wrong_options_are_one_line(here: Path, options: dict[str, Any], line: str) -> None:
    assert refused(lambda: run(here, **options)).startswith(line)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            b"path,class\na.png,red\n",
            "cannot read the labels of HERE/train.csv: its header has no column label",
        ),
        (b"\xff\xfe\x00", "cannot read HERE/train.csv: it is not a CSV"),
        (b"a.png\nb.png\n", "cannot learn from HERE/train.csv: it has no class folders."),
    ],
)
def test_a_csv_that_names_no_classes_is_one_line(here: Path, content: bytes, line: str) -> None:
    (here / "train.csv").write_bytes(content)
    said = refused(lambda: run(here, train=here / "train.csv"))
    assert said.startswith(line.replace("HERE", str(here)))


def test_validation_with_a_class_that_was_not_learnt_is_one_line(here: Path) -> None:
    write(here / "more", 2, seed=2, classes=("blue", "green", "red", "yellow"))
    assert refused(lambda: run(here, validation=here / "more")) == (
        f"cannot label {here / 'more'}: yellow is none of the model's 3 classes. "
        "Remove the folder, or give it the name of one of them."
    )


def test_validation_pictures_that_were_learnt_from_are_refused(here: Path) -> None:
    said = refused(lambda: run(here, validation=here / "train"))
    assert said.startswith("training and validation images overlap: 48 images are in both, for example ")


def test_validation_of_fewer_classes_goes_by_their_names(here: Path) -> None:
    write(here / "fewer", 4, seed=3, classes=("red",))
    assert run(here, validation=here / "fewer").validation_right == 1.0


def test_a_model_without_one_last_layer_is_refused(here: Path) -> None:
    last = "model.head_drop, model.head = model.head, torch.nn.Softmax(-1)"
    (here / "model.py").write_text(MODEL.replace("return model", f"{last}; return model"))
    assert refused(lambda: run(here)).startswith(
        f"cannot fine-tune {here / 'model.py'}:tiny: its output is not that of one linear layer"
    )


def test_a_full_disk_leaves_no_half_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.finetuning import folder

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        run(here)
    assert [path.name for path in (here / "run").iterdir()] == [".lock"]
