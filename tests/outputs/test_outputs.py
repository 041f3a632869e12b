"""What each kind of output means: how it is compared, what counts as changed, how its loss is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.errors import EdgevitError
from edgevit.metrics.acceptance import Acceptance
from edgevit.outputs import boxes, embeddings, maps
from edgevit.outputs.kinds import KINDS, unit_of
from edgevit.outputs.output import CLASS_SCORES, Output, Outputs, outputs_from

SHAPES = {
    "logits": (10,),
    "embedding": (24,),
    "segmentation": (5, 6, 7),
    "depth": (6, 7),
    "dense": (8, 3, 4),
    "tokens": (9, 16),
    "boxes": (6, 4),
    "scores": (6, 5),
    "tensor": (3, 2, 2),
    "number": (1,),
}
OTHERWISE = {"number": "tensor"}  # what a name here is the kind of, where it is no kind itself


def answers(kind: str, n: int = 40, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, *SHAPES[kind]))
    if kind == "boxes":
        values = np.concatenate([random.uniform(0.3, 0.7, (n, 6, 2)), random.uniform(0.1, 0.4, (n, 6, 2))], 2)
    if kind == "depth":
        values = 5 + values
    return values.reshape(n, -1)


def outputs_of(*kinds: str) -> Outputs:
    return Outputs(
        tuple(
            Output(f"{kind}_{place}", OTHERWISE.get(kind, kind), SHAPES[kind])
            for place, kind in enumerate(kinds)
        )
    )


def moved(rows: Any, by: float) -> Any:
    return rows + by * np.random.default_rng(1).normal(size=rows.shape) * rows.std()


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_the_same_outputs_have_lost_nothing(kind: str) -> None:
    rows, means = answers(kind), outputs_of(kind)
    found = means.compare(rows, rows.copy(), None)
    assert found.agreement == 1.0 and found.cosine == pytest.approx(1.0)
    assert found.kind == OTHERWISE.get(kind, kind) and (found.drop_points or 0.0) == pytest.approx(
        0.0, abs=1e-9
    )
    assert Acceptance(0.01).keeps(means.predict_loss(rows, rows))


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_larger_errors_lose_more_by_every_measure(kind: str) -> None:
    rows, means = answers(kind), outputs_of(kind)
    near, far = (means.difference(moved(rows, by), rows) for by in (0.02, 0.5))
    assert near.kl < far.kl and near.cosine > far.cosine and near.error_score < far.error_score
    small, large = (means.predict_loss(moved(rows, by), rows) for by in (0.02, 0.5))
    assert Acceptance(1.0).shortfall(small) < Acceptance(1.0).shortfall(large)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_half_the_squared_gradients_of_a_sample_are_what_a_small_error_costs(kind: str) -> None:
    """The Fisher information: E[gradient²] δ² / 2 is the divergence that `difference` calls kl."""
    if kind == "boxes":
        pytest.skip("boxes are sampled as vectors, told by their overlap")
    means, n, repeats = outputs_of(kind), 4, 400
    rows = torch.from_numpy(answers(kind, n)).double()
    generator = torch.Generator().manual_seed(0)
    squares = torch.zeros_like(rows)
    for _ in range(repeats):
        given = rows.clone().requires_grad_(True)
        means.sampled(given, generator).backward()  # type: ignore[no-untyped-call]
        squares += given.grad.square() / repeats  # type: ignore[union-attr]
    error = 0.01 * torch.randn(200, *rows.shape, generator=generator).double()
    predicted = float((squares * error.square()).sum(2).mean()) / 2
    measured = np.mean([means.difference((rows + each).numpy(), rows.numpy()).kl for each in error])
    assert predicted == pytest.approx(float(measured), rel=0.2)


def test_an_embedding_keeps_its_neighbour_whatever_its_length() -> None:
    rows, means = answers("embedding"), outputs_of("embedding")
    found = means.compare(3 * rows, rows, None)
    assert found.cosine_worst == pytest.approx(1.0) and found.agreement == 1.0 and found.overlap == 1.0
    swapped = rows.copy()
    nearest = int(embeddings.neighbours(rows, 1)[0, 0])
    swapped[nearest] = -rows[nearest]
    assert means.compare(swapped, rows, None).agreement < 1.0


def test_neighbours_are_never_the_image_itself_and_come_nearest_first() -> None:
    rows = answers("embedding", 30)
    found = embeddings.neighbours(rows, 5)
    own = np.arange(30)[:, None]
    assert not (found == own).any()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.take_along_axis(unit @ unit.T, found, 1)
    assert (np.diff(cosines, axis=1) <= 1e-9).all()


def test_labels_give_leave_one_out_accuracy_and_its_paired_loss() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 24))
    labels = np.repeat(np.arange(4), 10)
    rows = centres[labels] + 0.1 * random.normal(size=(40, 24))
    spoilt = rows.copy()
    spoilt[:10] = random.normal(size=(10, 24))
    found = outputs_of("embedding").compare(spoilt, rows, labels)
    assert found.reference_top1 == 1.0 and found.top1 is not None and found.top1 < 1.0
    assert found.lost == round(40 * (1 - found.top1)) and found.won == 0
    assert unit_of(found) == "points of 1-NN"
    assert unit_of(outputs_of("embedding").compare(spoilt, rows, None)) == "% of the cosine"


def test_an_embeddings_changed_neighbours_are_predicted_from_few_images() -> None:
    means = outputs_of("embedding")
    rows = answers("embedding", 400)
    noisy = moved(rows, 0.05)
    true = 100 * (1 - means.compare(noisy, rows, None).agreement)
    predicted = np.mean(
        [
            means.predict_loss(noisy[start : start + 100], rows[start : start + 100]).changes
            for start in (0, 100, 200, 300)
        ]
    )
    assert 0.3 * true < predicted < 2 * true


def test_a_map_of_classes_is_told_by_pixels_and_overlap() -> None:
    means, rows = outputs_of("segmentation"), answers("segmentation")
    changed = rows.reshape(-1, 5, 6, 7).copy()
    changed[:, :, 0, 0] = -changed[:, :, 0, 0]
    found = means.compare(changed.reshape(len(rows), -1), rows, None)
    assert found.agreement == pytest.approx(1 - 1 / 42, abs=0.01)
    assert found.mean_iou is not None and 0.9 < found.mean_iou < 1.0
    assert maps.mean_iou(np.zeros((1, 2), int), np.zeros((1, 2), int), 3) == 1.0


def test_depth_is_told_by_its_pattern_and_by_ratios() -> None:
    means, rows = outputs_of("depth"), answers("depth")
    found = means.compare(1.3 * rows, rows, None)
    assert found.cosine == pytest.approx(1.0) and found.within == pytest.approx(0.0, abs=0.05)
    assert found.relative_error == pytest.approx(0.3)


def test_boxes_are_matched_query_by_query() -> None:
    one = np.array([[[0.5, 0.5, 0.2, 0.2]]])
    beside = np.array([[[0.6, 0.5, 0.2, 0.2]]])
    assert boxes.overlaps(one, one)[0, 0] == pytest.approx(1.0)
    assert boxes.overlaps(one, beside)[0, 0] == pytest.approx(1 / 3)
    assert boxes.overlaps(one, one + [[[0.5, 0, 0, 0]]])[0, 0] == 0.0


def test_several_outputs_are_one_row_and_the_worst_decides() -> None:
    means = outputs_of("embedding", "depth")
    rows = np.concatenate([answers("embedding"), answers("depth")], 1)
    spoilt = rows.copy()
    spoilt[:, 24:] = moved(rows[:, 24:], 0.5)
    first, second = means.split(spoilt)
    assert first.shape == (40, 24) and second.shape == (40, 6, 7)
    assert "correlation" in means.predict_loss(spoilt, rows).describe()
    found = means.compare(spoilt, rows, None)
    assert found.kind == "embedding" and found.cosine == pytest.approx(1.0)
    assert found.others["depth_1"]["cosine"] < 0.999


def test_outputs_are_written_and_read_again() -> None:
    means = outputs_of("logits", "boxes")
    assert outputs_from(means.to_json()) == means
    assert means.classes == 10 and outputs_of("embedding").classes is None
    assert not CLASS_SCORES.whole and outputs_of("logits", "depth").whole


def test_broken_outputs_are_one_line() -> None:
    means, rows = outputs_of("embedding"), answers("embedding")
    broken = rows.copy()
    broken[3, 2] = np.nan
    with pytest.raises(EdgevitError, match="1 of 40 images gave NaN"):
        means.compare(broken, rows, None)
    with pytest.raises(EdgevitError, match="instead of"):
        means.compare(rows[:, :20], rows, None)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"logits"}))
def test_what_changed_can_be_looked_at(kind: str) -> None:
    from edgevit.outputs.pictures import Pixels

    means, rows = outputs_of(kind), answers(kind)
    image = np.zeros((8, 9, 3), np.uint8)
    show = KINDS[kind].show
    assert show is not None
    found = show(means.split(moved(rows, 0.5))[0], means.split(rows)[0], Pixels(lambda _: image), 3)
    assert 0 < found.total <= found.n == 40 and 0 < len(found.rows) <= 3
    for row in found.rows:
        assert row.words and all(picture.dtype == np.uint8 for _, picture in row.pictures)
    without = show(means.split(moved(rows, 0.5))[0], means.split(rows)[0], Pixels(lambda _: None), 3)
    assert without.total == found.total


Draw = Callable[[Any, Any], Any]


@pytest.mark.parametrize("kind", [kind for kind, means in KINDS.items() if means.draw is not None])
def test_maps_are_drawn(kind: str) -> None:
    draw = KINDS[kind].draw
    assert draw is not None
    picture = draw(answers(kind).reshape(-1, *SHAPES[kind])[0], None)
    assert picture.shape[2] == 3 and picture.dtype == np.uint8
    if kind != "boxes":  # those are drawn on the photograph
        assert picture.shape[:2] == SHAPES[kind][-2:]
