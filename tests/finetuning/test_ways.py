"""Other ways to learn: from a teacher, with adapters, a Hugging Face folder, several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.finetuning import adapters
from edgevit.finetuning.finetune import finetune
from edgevit.finetuning.job import make_finetune_job
from edgevit.finetuning.teacher import distance, teacher_of
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import load_model
from edgevit.progress import QUIET
from tests.finetuning.test_finetune import refused, run

pytestmark = pytest.mark.slow  # together: peft and transformers are imported

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_teachers_answers_are_learnt_beside_the_labels(here: Path) -> None:
    run(here)
    teacher = here / "teacher"
    (here / "run").rename(teacher)
    alone = run(here, freeze="none", epochs=1)
    without = load_model(str(here / "run")).module(IMAGES)
    (here / "run").rename(here / "alone")
    taught = run(here, freeze="none", epochs=1, teacher=str(teacher))
    assert taught.validation_right == alone.validation_right == 1.0
    assert not torch.equal(load_model(str(here / "run")).module(IMAGES), without)


def test_a_teacher_sees_the_same_pictures_in_its_own_preprocessing(here: Path) -> None:
    model = f"{here / 'model.py'}:tiny"
    own = load_model(model)
    other = Preprocessing((32, 32), mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3), channels="BGR")
    names = [str(number) for number in range(7)]
    pixels = torch.rand(2, 3, 32, 32)
    given = {
        each: (swapped - torch.tensor(each.mean)[:, None, None]) / torch.tensor(each.std)[:, None, None]
        for each, swapped in ((own.preprocessing, pixels), (other, pixels.flip(1)))
    }
    expected = own.module(given[own.preprocessing])
    for each, views in given.items():
        scores = teacher_of(model, None, names, each, torch.device("cpu"))
        assert torch.allclose(scores(views), expected, atol=1e-5)
    assert torch.allclose(distance(expected, expected), torch.zeros(2), atol=1e-6)


def test_teachers_that_fit_not_are_one_line(here: Path) -> None:
    model = f"{here / 'model.py'}:tiny"
    line = refused(lambda: run(here, freeze="none", teacher=model))
    assert "it gives 7 classes, and the pictures have 3" in line
    run(here)
    (here / "run").rename(here / "teacher")
    for name in ("train", "test"):
        (here / name / "blue").rename(here / name / "azure")
    line = refused(lambda: run(here, freeze="none", teacher=str(here / "teacher")))
    assert "its classes are named otherwise: blue where the pictures have azure" in line
    assert "Add --freeze none" in refused(lambda: run(here, teacher=str(here / "teacher")))
    assert "no --teacher is named" in refused(lambda: run(here, teacher_weights=here / "x.pt"))


def test_adapters_learn_and_leave_the_layers_that_were_there(here: Path) -> None:
    before = load_model(f"{here / 'model.py'}:tiny").module.state_dict()
    result = run(here, lora=2, epochs=2)
    assert result.validation_right == 1.0
    assert len(result.history) == 2
    after = load_model(str(here / "run")).module.state_dict()
    assert list(after) == list(before)
    apart = {name: float((after[name] - before[name]).abs().max()) for name in before if "head" not in name}
    moved = {name for name, value in apart.items() if value > 0}
    assert moved == {
        name
        for name in apart
        if "blocks" in name and name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
    }
    for name in moved:  # a product of two thin matrices
        assert int(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3)) <= 2


def test_adapters_stand_only_in_the_blocks_that_learn(here: Path) -> None:
    before = load_model(f"{here / 'model.py'}:tiny").module.state_dict()
    run(here, lora=2, freeze="2", epochs=1)
    after = load_model(str(here / "run")).module.state_dict()
    moved = {
        name.split(".")[1]
        for name in before
        if "blocks" in name and not torch.equal(after[name], before[name])
    }
    assert moved == {"2"}


def test_adapters_go_on_after_a_kill(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(here, lora=2, epochs=2)
    expected = load_model(str(here / "run")).module(IMAGES)
    (here / "run").rename(here / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(adapters, "merged", stop)
        patched.setattr("edgevit.finetuning.finetune.merged", stop)
        with pytest.raises(KeyboardInterrupt):
            run(here, lora=2, epochs=2)
    again = run(here, lora=2, epochs=2)
    assert again.resumed
    assert again.history[-1]["loss"] == whole.history[-1]["loss"]
    assert torch.allclose(load_model(str(here / "run")).module(IMAGES), expected, atol=1e-5)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_adapted_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("edgevit.finetuning.finetune.start_classifier", stop)  # it is said before any work
    assert refused(lambda: run(here, lora=4)).endswith(
        'it needs the package peft. Run "pip install edgevit[finetune]".'
    )


@pytest.mark.parametrize("kind", ["ViT", "Swin"])
def test_a_hugging_face_folder_learns_and_stays_one(here: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 32, "num_labels": 5}
    if kind == "ViT":
        config = transformers.ViTConfig(
            **sizes,
            patch_size=16,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
        model = transformers.ViTModel(config)  # without a classifier
    else:
        config = transformers.SwinConfig(
            **sizes, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
        )
        model = transformers.SwinForImageClassification(config)
    folder = here / "hub"
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    for freeze, lora in (("backbone", None), ("1", None), ("backbone", 2)):
        out = here / f"run-{freeze}-{lora}"
        job = make_finetune_job(
            str(folder),
            here / "train",
            out=out,
            freeze=freeze,
            lora=lora,
            epochs=2,
            validation=here / "test",
            mean="0.4",
            std="0.2",
        )
        result = finetune(job, QUIET)
        assert result.validation_right == 1.0
        loaded = load_model(str(out))
        assert loaded.labels == ("blue", "green", "red")
        assert loaded.preprocessing.mean == (0.4, 0.4, 0.4)
        theirs = transformers.AutoModelForImageClassification.from_pretrained(out)
        assert torch.allclose(theirs(IMAGES).logits, loaded.module(IMAGES), atol=1e-4)


def test_a_folder_that_transformers_cannot_classify_with_is_one_line(here: Path) -> None:
    pytest.importorskip("transformers")
    (here / "hub").mkdir()
    (here / "hub" / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"]})
    )
    job = make_finetune_job(str(here / "hub"), here / "train", out=here / "run")
    assert "transformers says" in refused(lambda: finetune(job, QUIET))


def test_two_processes_learn_what_one_does(here: Path) -> None:
    # As `accelerate launch` starts them on several GPUs; on processors it is torch's own launcher.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    job = ["finetune", "model.py:tiny", "--train", "train", "--validation", "test", "--freeze", "none"]
    options = ["--epochs", "4", "--out", "two", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, "-m", "edgevit", *job, *options],
        cwd=here, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one of them speaks
    assert (result["learnt"], result["validation"], len(result["history"])) == (42, 18, 4)
    assert result["validation_right"] == 1.0
    assert load_model(str(here / "two")).labels == ("blue", "green", "red")
    assert (here / "two" / "training.png").is_file()
