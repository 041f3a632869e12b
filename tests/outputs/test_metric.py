"""The user's own score, and classes by text embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgevit.errors import InputError
from edgevit.outputs.kinds import unit_of
from edgevit.outputs.metric import by_label_maps, by_texts, fit_texts, read_text_embeddings, with_scores
from edgevit.outputs.output import Output, Outputs

EMBEDDING = Outputs((Output("embedding", "embedding", (8,)),))
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(30, 8)).astype(np.float32)
LABELS = np.arange(30) % 3


def measured(function: Any, outputs: Outputs = EMBEDDING, found: Any = None) -> Any:
    rows = ROWS if found is None else found
    plain = outputs.compare(rows, ROWS, None)
    return with_scores(plain, "mine", function, outputs, rows, ROWS, LABELS)


def test_a_users_score_is_told_with_its_paired_interval() -> None:
    found = measured(lambda outputs, labels: outputs[:, 0], found=ROWS - 0.5)
    assert found.score == pytest.approx(float(ROWS[:, 0].mean()) - 0.5, abs=1e-6)
    assert found.drop_points == pytest.approx(0.5, abs=1e-6)
    assert found.drop_low == pytest.approx(0.5, abs=1e-6) and found.drop_high == pytest.approx(0.5, abs=1e-6)
    assert unit_of(found) == "of mine" and found.top1 is None
    noisy = measured(lambda outputs, labels: outputs[:, 0], found=ROWS + RANDOM.normal(size=ROWS.shape))
    assert noisy.drop_low < noisy.drop_points < noisy.drop_high


def test_several_outputs_come_by_name() -> None:
    two = Outputs((Output("a", "tensor", (2, 2)), Output("b", "embedding", (4,))))
    found = measured(lambda outputs, labels: outputs["a"].sum((1, 2)) + labels, two)
    assert found.score == pytest.approx(float(ROWS[:, :4].sum(1).mean() + LABELS.mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda outputs, labels: 1 / 0, "it fails with ZeroDivisionError: division by zero"),
        (lambda outputs, labels: outputs, r"for 30 images it gives scores of shape \[30, 8\]"),
        (lambda outputs, labels: 0.5, r"gives scores of shape \[\]. Return one score an image"),
        (lambda outputs, labels: outputs[:, 0] * np.nan, "30 of its 30 scores are no numbers"),
        (lambda outputs, labels: "good", "it fails with ValueError"),
    ],
)
def test_a_metric_that_can_not_be_used_is_one_line(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"cannot measure by mine: .*{message}") as caught:
        measured(function)
    assert "\n" not in str(caught.value)


def test_the_nearest_text_is_the_class() -> None:
    texts = RANDOM.normal(size=(3, 8)).astype(np.float32)
    rows = 5 * texts[LABELS] + 0.1 * RANDOM.normal(size=(30, 8)).astype(np.float32)
    spoilt = rows.copy()
    spoilt[:6] = -rows[:6]
    found = by_texts(EMBEDDING.compare(spoilt, rows, LABELS), EMBEDDING, texts, spoilt, rows, LABELS)
    assert (found.reference_top1, found.lost, found.won, found.metric) == (1.0, 6, 0, "zero-shot")
    assert found.drop_points == pytest.approx(20) and unit_of(found) == "points of zero-shot"


def test_text_embeddings_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", ROWS.astype(np.float64))
    save_file({"texts": ROWS}, tmp_path / "texts.safetensors")
    for name in ("texts.npy", "texts.safetensors"):
        np.testing.assert_allclose(read_text_embeddings(tmp_path / name), ROWS, rtol=1e-6)
    fit_texts(ROWS, EMBEDDING)


def write(path: Path, content: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, path)
    else:
        np.save(path, content, allow_pickle=True)
        path.with_suffix(".npy").replace(path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"text", "it is damaged or of another format"),
        ("a.npy", np.array([{"a": 1}], dtype=object), "it is damaged or of another format"),
        ("a.npy", np.zeros((3, 4), int), r"it holds int64 of shape \[3, 4\]"),
        ("a.npy", np.zeros(4), r"it holds float64 of shape \[4\]"),
        ("a.npy", np.full((2, 2), np.inf), "some of its numbers are not finite"),
        ("a.safetensors", {"a": ROWS, "b": ROWS}, "it holds 2 tensors"),
        ("a.safetensors", b"nothing", "it is damaged or of another format"),
    ],
)
def test_a_wrong_file_of_texts_is_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_text_embeddings(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_texts_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="they are 5 wide and the model's are 8. Make both with one model"):
        fit_texts(np.zeros((3, 5), np.float32), EMBEDDING)
    with pytest.raises(InputError, match="the model gives class scores"):
        fit_texts(ROWS, Outputs((Output("logits", "logits", (8,)),)))
    with pytest.raises(InputError, match="no such file"):
        read_text_embeddings(tmp_path / "absent.npy")


def test_label_maps_give_mean_iou_and_what_of_it_is_lost() -> None:
    outputs = Outputs((Output("map", "segmentation", (3, 4, 4)),))
    truth = RANDOM.integers(0, 3, size=(10, 4, 4)).astype(np.uint8)
    right = np.moveaxis(np.eye(3)[truth], -1, 1).reshape(10, -1)
    truth[0, 0, 0] = 255  # a place that nobody labelled
    wrong = right.reshape(10, 3, 4, 4).copy()
    wrong[:5, :, 0] = wrong[:5, ::-1, 0]
    found = by_label_maps(
        outputs.compare(wrong.reshape(10, -1), right, None), outputs, truth, wrong.reshape(10, -1), right
    )
    assert found.reference_score == pytest.approx(100) and found.score is not None and 70 < found.score < 99
    assert found.drop_points == pytest.approx(100 - found.score)
    assert found.drop_low is not None and found.drop_high is not None
    assert found.drop_low < found.drop_points < found.drop_high
    assert unit_of(found) == "of mean IoU by labels, %"
