"""Models that give other things than classes, from the command line to the report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conversion.conftest import MODEL, Project

pytestmark = pytest.mark.slow

TWO = '''

class Features(torch.nn.Module):
    """A vector of length one, and a map."""

    def __init__(self):
        super().__init__()
        self.body = tiny()
        self.preprocessing = {"size": (32, 32)}

    def forward(self, images):
        tokens = self.body.forward_features(images)
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
        return {"vector": torch.nn.functional.normalize(tokens[:, 0], dim=-1), "grid": grid}


def features():
    return Features()


class Detector(torch.nn.Module):
    """Four boxes with scores for three classes, or for nothing being there."""

    def __init__(self):
        super().__init__()
        self.body = tiny()
        self.box, self.score = torch.nn.Linear(32, 4), torch.nn.Linear(32, 4)
        self.preprocessing = {"size": (32, 32), "crop_mode": "squash"}

    def forward(self, images):
        tokens = self.body.forward_features(images)[:, 1:]
        surer = torch.tensor([4.0, 0.0, 0.0, 2.0])
        return {"boxes": self.box(tokens).sigmoid(), "found": self.score(tokens) + surer}


def detector():
    torch.manual_seed(1)
    return Detector()


def maps():
    torch.manual_seed(2)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.GELU(), torch.nn.Conv2d(8, 5, 1))
    module.preprocessing = {"size": (32, 32)}
    return module
'''


@pytest.fixture
def two(project: Project) -> Project:
    (project.folder / "model.py").write_text(MODEL + TWO)
    return project


def test_an_embedding_is_measured_by_neighbours_and_shown_with_them(project: Project) -> None:
    done = project.convert("--output", "embedding", "--max-drop", "50", "--out", "run")
    manifest = project.manifest("run")
    assert manifest["format"] == 3 and manifest["model"]["num_classes"] is None
    assert manifest["model"]["outputs"] == [{"name": "embedding", "kind": "embedding", "shape": [32]}]
    (result,) = manifest["results"]
    accuracy = result["accuracy"]
    assert accuracy["kind"] == "embedding" and accuracy["cosine"] > 0.9 and accuracy["overlap"] > 0.5
    assert accuracy["top1"] is not None and result["gate"] == "met"
    for word in ("1-NN", "nearest", "ten nearest", "worst", "nearest neighbours"):
        assert word in done.stdout
    assert "top-1" not in done.stdout
    project.run("report", "run", "--format", "html", "--format", "md", "--format", "json")
    page = (project.folder / "run/report.html").read_text()
    assert "Images whose nearest neighbour changed" in page and "op-1" not in page
    assert "Images whose nearest neighbour changed" in (project.folder / "run/report.md").read_text()
    told = json.loads((project.folder / "run/report.json").read_text())
    assert told["runs"][0]["artefacts"][0]["loss"]["kind"] == "embedding"


def test_pictures_become_vectors_on_disk(project: Project) -> None:
    project.convert("--output", "embedding", "--normalize", "--precision", "float", "--out", "run")
    pictures = sorted(map(str, (project.folder / "images/validation").rglob("*.png")))[:3]
    done = project.run("predict", *pictures, "--model", "run", "--save", "vectors")
    assert "embedding: embedding, 32; most like picture" in " ".join(done.stdout.split())
    vectors = np.load(project.folder / "vectors/embedding.npy")
    assert vectors.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert json.loads((project.folder / "vectors/pictures.json").read_text()) == pictures
    again = project.run("predict", *pictures, "--model", "run", "--save", "vectors", check=1)
    assert "cannot write to vectors: it is there and not empty" in again.stderr
    by_torch = project.run("predict", *pictures, "--model", "run", "--target", "torch", "--save", "torch")
    assert by_torch.returncode == 0
    np.testing.assert_allclose(np.load(project.folder / "torch/embedding.npy"), vectors, atol=1e-4)


def test_every_output_of_several_is_told(two: Project) -> None:
    images = ("--calibration", "images/calibration", "--validation", "images/validation")
    done = two.run("convert", "model.py:features", *images, "--target", "onnx", "--out", "run")
    accuracy = two.manifest("run")["results"][0]["accuracy"]
    assert accuracy["kind"] == "embedding" and accuracy["others"]["grid"]["cosine"] > 0.9
    assert "onnx int8, grid (dense): cosine" in " ".join(done.stdout.split())
    picture = sorted(map(str, (two.folder / "images/validation").rglob("*.png")))[0]
    two.run("predict", picture, "--model", "run", "--save", "out")
    assert np.load(two.folder / "out/grid.npy").shape == (1, 32, 2, 2)
    assert [path.suffix for path in sorted((two.folder / "out").glob("0001-*"))] == [".png"]
    two.run("report", "run")


def test_a_map_is_shown_beside_the_float_models(two: Project) -> None:
    images = ("--calibration", "images/calibration", "--validation", "images/validation")
    arguments = ("--output", "grid:segmentation", "--target", "onnx", "--out", "run")
    done = two.run("convert", "model.py:features", *images, *arguments)
    accuracy = two.manifest("run")["results"][0]["accuracy"]
    assert accuracy["kind"] == "segmentation" and accuracy["mean_iou"] is not None
    assert "mean IoU" in done.stdout and accuracy["drop_points"] is not None
    two.run("report", "run")
    assert "Images with pixels whose class changed" in (two.folder / "run/report.html").read_text()


def test_a_limit_needs_no_labels_where_outputs_are_no_classes(project: Project) -> None:
    flat = project.folder / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((project.folder / "images/validation").rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    arguments = ("--output", "embedding", "--validation", "flat", "--max-drop", "0.000001", "--out", "run")
    done = project.convert(*arguments, check=4)
    (result,) = project.manifest("run")["results"]
    assert result["gate"] == "missed" and result["accuracy"]["top1"] is None
    assert "% of the cosine" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--output", "heat:depth"),
            "cannot use --output heat:depth: the model has no output heat. It has logits",
        ),
        (("--output", "logits:dense"), "cannot take logits of model.py:tiny for dense: it is [n, 3]"),
        (("--normalize",), "cannot use --normalize: model.py:tiny gives logits, not one embedding"),
    ],
)
def test_what_can_not_be_asked_is_one_line(
    project: Project, arguments: tuple[str, ...], message: str
) -> None:
    assert project.error(*arguments).startswith(message)


METRIC = """
def brightest(outputs, labels):
    return outputs.max(axis=1)


def broken(outputs, labels):
    return outputs[:3, 0]
"""


def test_a_metric_of_the_users_own_decides(project: Project) -> None:
    (project.folder / "score.py").write_text(METRIC)
    done = project.convert("--metric", "score.py:brightest", "--max-drop", "1000", "--out", "run")
    (result,) = project.manifest("run")["results"]
    assert result["accuracy"]["metric"] == "brightest" and result["accuracy"]["score"] is not None
    assert result["gate"] == "met" and "brightest" in done.stdout
    assert "of brightest" in project.run("report", "run").stdout


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("absent.py:f", "cannot measure by absent.py:f: no such file absent.py"),
        (
            "score.py",
            "cannot measure by score.py: it names no function. Write score.py:function, a function of outputs",
        ),
        (
            "score.py:brigtest",
            "cannot measure by score.py:brigtest: score.py has no 'brigtest'. Did you mean brightest",
        ),
        ("score.py:broken", "cannot measure by broken: for 12 images it gives scores of shape [3]"),
    ],
)
def test_a_metric_that_is_wrong_is_one_line(project: Project, metric: str, message: str) -> None:
    (project.folder / "score.py").write_text(METRIC)
    assert project.error("--metric", metric, "--precision", "float").startswith(message)


def test_text_embeddings_make_classes_of_an_embedding(project: Project) -> None:
    np.save(project.folder / "texts.npy", np.random.default_rng(0).normal(size=(3, 32)))
    done = project.convert("--output", "embedding", "--text-embeddings", "texts.npy", "--out", "run")
    accuracy = project.manifest("run")["results"][0]["accuracy"]
    assert accuracy["metric"] == "zero-shot" and accuracy["top1"] is not None
    assert "zero-shot" in done.stdout
    np.save(project.folder / "texts.npy", np.random.default_rng(0).normal(size=(3, 31)))
    assert "they are 31 wide and the model's are 32" in project.error(
        "--output", "embedding", "--text-embeddings", "texts.npy"
    )


def test_label_maps_measure_a_segmentation(two: Project) -> None:
    from PIL import Image

    maps = two.folder / "maps"
    maps.mkdir()
    for number, path in enumerate(sorted((two.folder / "images/validation").rglob("*.png"))):
        with Image.open(path) as opened:
            size = opened.size
        path.rename(path.with_name(f"photo{number}.png"))
        Image.new("L", size, number % 32).save(maps / f"photo{number}.png")
    images = ("--calibration", "images/calibration", "--validation", "images/validation")
    arguments = ("--output", "grid:segmentation", "--label-maps", "maps", "--target", "onnx", "--out", "run")
    done = two.run("convert", "model.py:features", *images, *arguments)
    accuracy = two.manifest("run")["results"][0]["accuracy"]
    assert accuracy["metric"] == "mean IoU by labels, %" and accuracy["score"] is not None
    assert "mean IoU" in done.stdout
    (maps / "photo0.png").unlink()
    failed = two.run("convert", "model.py:features", *images, *arguments, check=1)
    assert "have no map there, the first would be photo0.png" in failed.stderr
    other = ("--output", "vector", "--label-maps", "maps", "--target", "onnx")
    assert (
        "cannot use --label-maps: the model gives a vector"
        in two.run("convert", "model.py:features", *images, *other, check=1).stderr
    )


def test_a_detector_is_measured_by_boxes_it_is_sure_of_and_by_annotations(two: Project) -> None:
    pytest.importorskip("pycocotools")
    from PIL import Image

    images, boxes = [], []
    for number, path in enumerate(sorted((two.folder / "images/validation").rglob("*.png"))):
        with Image.open(path) as opened:
            width, height = opened.size
        path = path.rename(path.with_name(f"photo{number}.png"))
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        boxes.append({"id": number + 1, "image_id": number, "category_id": 0, "bbox": [2, 2, 20, 20]})
    kinds = [{"id": 0, "name": "thing"}, {"id": 1, "name": "other"}]
    content = {"images": images, "categories": kinds, "annotations": boxes}
    (two.folder / "boxes.json").write_text(json.dumps(content))
    sets = ("--calibration", "images/calibration", "--validation", "images/validation", "--target", "onnx")
    done = two.run(
        "convert",
        "model.py:detector",
        *sets,
        "--annotations",
        "boxes.json",
        "--precision",
        "float",
        "--out",
        "run",
    )
    manifest = two.manifest("run")
    assert [each["kind"] for each in manifest["model"]["outputs"]] == ["boxes", "scores"]
    accuracy = manifest["results"][0]["accuracy"]
    assert accuracy["metric"] == "mAP by annotations, %" and accuracy["drop_points"] == 0.0
    assert accuracy["agreement"] == 1.0 and accuracy["score_shift"] < 0.001
    assert "score shift" in done.stdout and "mAP" in done.stdout
    picture = next((two.folder / "images/validation").rglob("*.png"))
    two.run("predict", str(picture), "--model", "run", "--save", "shown")
    with Image.open(next((two.folder / "shown").glob("*boxes.png"))) as drawn:
        assert drawn.size == (32, 32)
    (two.folder / "boxes.json").write_text(json.dumps(content | {"images": images[1:]}))
    failed = two.run("convert", "model.py:detector", *sets, "--annotations", "boxes.json", check=1)
    assert "validation images are not in it, the first is photo0.png" in failed.stderr
    other = two.run("convert", "model.py:features", *sets, "--annotations", "boxes.json", check=1)
    assert "cannot use --annotations: the model gives a vector" in other.stderr


@pytest.mark.parametrize(
    ("smaller", "stage"),
    [
        (("--resolution", "16"), "16x16 px"),
        (("--prune-heads", "1"), "heads gone"),
        (("--prune-mlp", "0.25"), "neurons gone"),
    ],
)
def test_an_embedding_is_made_smaller_by_its_own_measure(
    project: Project, smaller: tuple[str, str], stage: str
) -> None:
    project.convert("--output", "embedding", "--precision", "float", *smaller, "--out", "run")
    manifest = project.manifest("run")
    (step,) = manifest["reductions"]
    assert stage in step["stage"] and step["accuracy"]["kind"] == "embedding"
    assert 0.2 < step["accuracy"]["cosine"] < 1.0


def test_what_distils_class_scores_refuses_an_embedding(project: Project) -> None:
    line = project.error("--output", "embedding", "--prune-heads", "1", "--recover")
    assert line.startswith("cannot use --recover: the model gives a vector")


def test_a_dense_model_at_another_size_gives_maps_of_the_same_size(two: Project) -> None:
    images = ("--calibration", "images/calibration", "--validation", "images/validation")
    asked = ("--output", "dense:segmentation", "--resolution", "24")
    done = two.run("convert", "model.py:maps", *images, "--target", "onnx", *asked, "--out", "run")
    manifest = two.manifest("run")
    (smaller,) = manifest["reductions"]
    assert smaller["stage"] == "24x24 px" and 0.3 < smaller["accuracy"]["agreement"] < 1
    assert "24x24 px: crop ratio 0.875, the model's own" in " ".join(done.stdout.split())
    assert manifest["model"]["outputs"][0]["shape"] == [5, 8, 8]
    (tried,) = next(each for each in manifest["stages"] if each["stage"] == "resolution")["metrics"][
        "details"
    ]["tried"]
    assert tried["agreement"] > 0.3  # no other crop: what a map shows must stay where it is
    (result,) = manifest["results"]
    assert result["accuracy"]["kind"] == "segmentation"
    assert abs(result["accuracy"]["agreement"] - smaller["accuracy"]["agreement"]) < 0.1
    picture = sorted(map(str, (two.folder / "images/validation").rglob("*.png")))[0]
    two.run("predict", picture, "--model", "run", "--save", "out")
    assert np.load(two.folder / "out/dense.npy").shape == (1, 5, 8, 8)
    two.run("report", "run")


def test_a_size_that_a_model_does_not_take_is_refused_in_one_line(two: Project) -> None:
    images = ("--calibration", "images/calibration")
    arguments = ("convert", "model.py:detector", *images, "--target", "onnx", "--resolution", "64")
    done = two.run(*arguments, check=1)
    assert done.stderr.splitlines()[-1].startswith("error: cannot change the resolution of ")
    assert done.stderr.rstrip().endswith("Use another size, or leave --resolution out for this model.")
