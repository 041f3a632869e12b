"""A detector's boxes and scores, told together: what it is sure of, and mean average precision by annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevit.errors import InputError
from edgevit.outputs import average_precision, detections
from edgevit.outputs.kinds import KINDS
from edgevit.outputs.output import Output, Outputs
from edgevit.outputs.pictures import Pixels, boxes_on_image, drawn_boxes

QUERIES, CLASSES = 6, 3
DETECTOR = Outputs(
    (Output("boxes", "boxes", (QUERIES, 4)), Output("scores", "scores", (QUERIES, CLASSES + 1)))
)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(average_precision, "DRAWS", 25)


def answers(n: int = 8, seed: int = 0) -> tuple[Any, Any]:
    """Boxes, and scores that are sure of a class for the first two queries and of nothing for the others."""
    random = np.random.default_rng(seed)
    boxes = np.concatenate(
        [random.uniform(0.3, 0.7, (n, QUERIES, 2)), random.uniform(0.1, 0.3, (n, QUERIES, 2))], -1
    )
    scores = np.zeros((n, QUERIES, CLASSES + 1))
    scores[:, 2:, -1] = 8
    for image in range(n):
        for query in range(2):
            scores[image, query, (image + query) % CLASSES] = 6
    return boxes.astype(np.float32), scores.astype(np.float32)


def rows(boxes: Any, scores: Any) -> Any:
    return np.concatenate([boxes.reshape(len(boxes), -1), scores.reshape(len(boxes), -1)], 1)


def truth_of(boxes: Any, scores: Any, size: int = 100) -> dict[str, Any]:
    """Annotations that the model's sure boxes meet exactly."""
    found = []
    for image in range(len(boxes)):
        for query in range(2):
            x, y, across, down = (float(each) * size for each in boxes[image, query])
            found.append(
                {
                    "id": len(found) + 1,
                    "image_id": image,
                    "category_id": 10 + int(scores[image, query].argmax()),
                    "bbox": [x - across / 2, y - down / 2, across, down],
                    "area": across * down,
                    "iscrowd": 0,
                }
            )
    images = [{"id": image, "width": size, "height": size} for image in range(len(boxes))]
    kinds = [{"id": 10 + each, "name": f"kind {each}"} for each in range(CLASSES)]
    return {"images": images, "categories": kinds, "annotations": found}


def test_only_boxes_that_the_model_is_sure_of_count() -> None:
    boxes, scores = answers()
    moved = boxes.copy()
    moved[:, 2:, :2] += 0.5  # what nobody sees
    told = DETECTOR.compare(rows(moved, scores), rows(boxes, scores), None)
    assert told.agreement == 1.0
    assert told.score_shift == 0.0
    moved[0, 0, 0] += 0.5
    assert DETECTOR.compare(rows(moved, scores), rows(boxes, scores), None).agreement == 1 - 1 / 16


def test_the_order_in_which_a_detector_finds_things_means_nothing() -> None:
    """One that takes its likeliest places for queries has them in the order of their scores."""
    boxes, scores = answers()
    random = np.random.default_rng(1)
    order = np.stack([random.permutation(QUERIES) for _ in range(len(boxes))])
    images = np.arange(len(boxes))[:, None]
    found, reference = rows(boxes[images, order], scores[images, order]), rows(boxes, scores)
    told = DETECTOR.compare(found, reference, None)
    assert (told.agreement, told.mean_iou, told.score_shift, told.drop_points) == (1.0, 1.0, 0.0, 0.0)
    assert told.others["scores"]["cosine"] == pytest.approx(1.0)
    assert DETECTOR.difference(found, reference).kl == pytest.approx(0.0, abs=1e-12)
    assert DETECTOR.predict_loss(found, reference).points == 0.0
    alone = Outputs(DETECTOR.each[:1])  # without scores they are what they are, one by one
    assert alone.compare(found[:, : 4 * QUERIES], reference[:, : 4 * QUERIES], None).agreement < 1.0


def test_masks_of_the_queries_go_with_them() -> None:
    boxes, scores = answers()
    masks = np.random.default_rng(2).normal(size=(len(boxes), QUERIES, 5, 5)).astype(np.float32)
    both = Outputs((*DETECTOR.each, Output("masks", "dense", (QUERIES, 5, 5))))
    turned = [each[:, ::-1].reshape(len(boxes), -1) for each in (boxes, scores, masks)]
    reference = np.concatenate([rows(boxes, scores), masks.reshape(len(boxes), -1)], 1)
    told = both.compare(np.concatenate(turned, 1), reference, None)
    assert told.others["masks"]["cosine"] == pytest.approx(1.0)


def test_a_box_that_changes_its_class_or_is_no_longer_sure_is_lost() -> None:
    boxes, scores = answers()
    other = scores.copy()
    other[0, 0, :3] = np.roll(other[0, 0, :3], 1)
    other[1, 0, -1] = 12
    told = DETECTOR.compare(rows(boxes, other), rows(boxes, scores), None)
    assert told.agreement == pytest.approx(1 - 2 / 16)
    assert told.score_shift is not None and told.score_shift > 0.05


def test_where_the_model_is_sure_of_nothing_all_boxes_count() -> None:
    boxes, scores = answers()
    scores[:] = [0, 0, 0, 8]
    moved = boxes + 0.5
    assert DETECTOR.compare(rows(moved, scores), rows(boxes, scores), None).agreement < 1.0


def test_without_a_class_for_nothing_each_class_has_a_probability() -> None:
    boxes, scores = answers()
    own = np.where(scores[..., :-1] > 0, 6.0, -6.0)
    assert detections.has_nothing(scores)
    assert not detections.has_nothing(own)
    found = detections.detections(own, boxes, nothing=False)
    assert (found.scores[:, :2] > 0.9).all() and (found.scores[:, 2:] < 0.1).all()


def test_annotations_that_are_met_exactly_give_100_percent() -> None:
    pytest.importorskip("pycocotools")
    boxes, scores = answers()
    reference = rows(boxes, scores)
    told = DETECTOR.compare(reference, reference, None)
    truth, names = truth_of(boxes, scores), [f"kind {each}" for each in range(CLASSES)]
    parts = DETECTOR.split(reference)
    found = average_precision.by_annotations(told, DETECTOR.each, truth, names, parts, parts)
    assert found.score == pytest.approx(100.0)
    assert found.drop_points == 0.0
    numbers = truth | {"categories": [{"id": 10 + each, "name": "x"} for each in range(CLASSES)]}
    assert average_precision.categories(numbers, None) == {12: 12}


def test_lost_boxes_lower_the_mean_average_precision() -> None:
    pytest.importorskip("pycocotools")
    boxes, scores = answers()
    moved = boxes.copy()
    moved[:4, 0, 0] += 0.5
    reference, found = rows(boxes, scores), rows(moved, scores)
    told = DETECTOR.compare(found, reference, None)
    names = [f"kind {each}" for each in range(CLASSES)]
    lost = average_precision.by_annotations(
        told, DETECTOR.each, truth_of(boxes, scores), names, DETECTOR.split(found), DETECTOR.split(reference)
    )
    assert lost.reference_score == pytest.approx(100.0)
    assert lost.drop_points is not None and lost.drop_low is not None and lost.drop_high is not None
    assert 10 < lost.drop_points < 60
    assert lost.drop_low < lost.drop_points < lost.drop_high


def test_annotations_of_other_classes_are_one_line() -> None:
    with pytest.raises(InputError, match="no class of the model is called 'kind 0' or 'kind 1'"):
        average_precision.categories(truth_of(*answers()), ["cat", "dog"])


def test_what_is_drawn_are_the_boxes_that_it_is_sure_of() -> None:
    boxes, scores = answers()
    sure = detections.worth_drawing(DETECTOR.each, [boxes, scores], 0)[3]
    np.testing.assert_allclose(sure, boxes[3, :2])
    picture = boxes_on_image(sure, np.zeros((50, 60, 3), np.uint8))
    assert picture.shape == (50, 60, 3) and picture.any()
    assert detections.worth_drawing(DETECTOR.each, [boxes, scores], 1)[3] is not None


def test_a_report_counts_and_draws_only_boxes_that_the_float_model_is_sure_of() -> None:
    boxes, scores = answers()
    moved = boxes + np.float32(0.5)
    found, reference = detections.without_unsure(DETECTOR.each, [moved, scores], [boxes, scores])
    images = Pixels(lambda _: np.zeros((50, 60, 3), np.uint8))
    shown = drawn_boxes(found[0], reference[0], images, 3)
    assert (shown.total, shown.n) == (8, 8)
    assert {row.words for row in shown.rows} == {"2 of 2 boxes changed"}
    unsure = np.broadcast_to(np.float32([0, 0, 0, 8]), scores.shape)
    same, _ = detections.without_unsure(DETECTOR.each, [moved, unsure], [boxes, unsure])
    assert same[0] is moved


def test_a_single_number_is_shown_as_it_is() -> None:
    reference = np.array([[30.0], [41.0], [8.0]], np.float32)
    found = reference + np.array([[0.5], [-7.0], [0.0]], np.float32)
    shown = KINDS["tensor"].show
    assert shown is not None
    told = shown(found, reference, Pixels(lambda _: None), 2)
    assert [row.words for row in told.rows] == ["float 41, artefact 34", "float 30, artefact 30.5"]
    assert told.total == 1
