"""Runs this folder's model on pictures, a camera or a video, and tests itself. Python 3.7, numpy, Pillow or OpenCV.

python run.py cat.jpg                   the likeliest classes, or what else the model gives
python run.py pictures/ --json          one line of JSON a picture
python run.py --camera 0                frames from a V4L2 camera, with the frames a second
python run.py --video clip.mp4
python run.py pictures/ --save known    every output as .npy, with the pictures' names
python run.py new.jpg --like known      of an embedding: the saved pictures that are most like it
python run.py --self-test               does this device compute what it should?
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from edgevit.backends.board_runtime import Model as Runtime
    from edgevit.backends.board_runtime import Refused, Values
    from edgevit.bundling.device_pictures import Stop, fitted, listed, read

# Of the largest output: further from the golden outputs than any rounding of another processor.
TOLERANCE = 0.1
CLOSEST_COSINE = 0.99


def main(arguments: list[str] | None = None) -> int:
    """0: done; 1: the self-test failed, a picture could not be read, or the model does not run here."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", help="pictures or folders of them")
    parser.add_argument("--camera", help="number or device of a camera: 0, /dev/video0")
    parser.add_argument("--video", help="a video file")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many frames")
    parser.add_argument(
        "--self-test", action="store_true", help="compare with the outputs this model should give"
    )
    parser.add_argument("--top", type=int, default=3, help="classes, or pictures alike, to show")
    parser.add_argument("--save", metavar="FOLDER", help="write the outputs of the pictures there")
    parser.add_argument("--like", metavar="FOLDER", help="show the pictures saved there that are most alike")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; all by default")
    parser.add_argument("--json", action="store_true", help="one line of JSON a picture")
    asked = parser.parse_args(arguments)
    if not (asked.pictures or asked.camera is not None or asked.video or asked.self_test):
        parser.error("give pictures, --camera, --video or --self-test")
    folder = Path(__file__).resolve().parent
    try:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        session = opened(model, folder, asked.threads)
        if asked.self_test:
            return self_test(model, session, folder)
        if asked.camera is not None or asked.video:
            return frames(model, session, asked)
        return pictures(model, session, asked)
    except BrokenPipeError:  # whoever read the lines has had enough
        sys.stderr.close()
        return 0
    except Refused as error:
        message = str(error)
    except (Stop, OSError, ValueError) as error:
        message = str(error)
    except KeyboardInterrupt:
        return 130
    print("error: " + message, file=sys.stderr)
    return 1


def opened(model: Values, folder: Path, threads: int) -> Any:
    """The model, loaded."""
    request = {
        "mean": [255 * value for value in model["input"]["mean"]],
        "std": [255 * value for value in model["input"]["std"]],
        "threads": [threads] if threads else None,
        "npu_cores": model["npu_cores"],
        "tools": model["made_with"],
        "libraries": model.get("libraries"),
    }
    path = folder / model["file"]
    if not path.is_file():
        raise Stop("no such file " + str(path) + ": copy the whole folder")
    session: Any = Runtime(path, request)
    session.open(session.settings()[-1])
    return session


def answer(session: Any, pixels: Any) -> Any:
    """All outputs side by side, float32, for pixels uint8 [height, width, channels]."""
    return np.asarray(session.real(session.infer(session.prepare(pixels))), dtype=np.float32)


def pictures(model: Values, session: Any, asked: Any) -> int:
    """Say what is on each picture; 1 where one could not be read."""
    failed, known = 0, saved(model, asked.like)
    names: list[str] = []
    kept: list[Any] = []
    if asked.save and Path(asked.save).exists() and any(Path(asked.save).iterdir()):
        raise Stop(asked.save + " is there and not empty: give another --save")
    for path in listed(asked.pictures):
        try:
            pixels = fitted(read(path), model["input"])
        except Exception as error:  # a damaged file makes a decoder raise nearly anything
            failed = 1
            why = " ".join(str(error).split()) or type(error).__name__
            print(json.dumps({"picture": path, "error": why}) if asked.json else path + ": " + why)
            continue
        begun = time.perf_counter()
        outputs = answer(session, pixels)
        took = 1000 * (time.perf_counter() - begun)
        told, words = said(model, outputs, known, asked.top)
        names.append(path)
        kept.append(outputs)
        if asked.json:
            print(json.dumps({"picture": path, "ms": round(took, 2), **told}))
        else:
            print(f"{path}: {words} ({took:.1f} ms)")
    if asked.save and kept:
        save(model, Path(asked.save), names, np.stack(kept))
    return failed


def said(model: Values, outputs: Any, known: Any, count: int) -> tuple[Values, str]:
    """What a picture's outputs say, for programs and in words."""
    if known is not None:
        names, vectors = known
        own = outputs[: vectors.shape[1]].astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(own)
        cosines = vectors @ own / np.maximum(lengths, 1e-12)
        near = [[names[row], float(cosines[row])] for row in np.argsort(-cosines, kind="stable")[:count]]
        return {"like": near}, "like " + ", ".join(f"{name} (cosine {value:.3f})" for name, value in near)
    if classifies(model):
        best = likeliest(model, outputs, count)
        return {"classes": best}, ", ".join(f"{name} {100 * share:.1f} %" for name, share in best)
    shapes = {each["name"]: each["shape"] for each in model["outputs"]}
    return {"outputs": shapes}, ", ".join(
        name + " " + " x ".join(str(length) for length in shape) for name, shape in shapes.items()
    )


def classifies(model: Values) -> bool:
    """Whether the model gives class scores of the picture."""
    return bool(model["outputs"][0]["classes"])


def save(model: Values, folder: Path, names: list[str], rows: Any) -> None:
    """Write each output [n, ...] as .npy, and the pictures' names in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for each in model["outputs"]:
        size = int(np.prod(each["shape"]))
        np.save(str(folder / array_of(each)), rows[:, start : start + size].reshape(-1, *each["shape"]))
        start += size
    (folder / "pictures.json").write_text(json.dumps(names, indent=1), encoding="utf-8")


def array_of(output: Values) -> str:
    """The name of an output's file, as edgevit predict --save gives it."""
    return (re.sub(r"[^A-Za-z0-9_-]+", "_", output["name"])[:60] or "output") + ".npy"


def saved(model: Values, folder: Any) -> Any:
    """Names and vectors [n, width] of pictures that --save wrote; None where none are asked for."""
    if folder is None:
        return None
    first = model["outputs"][0]
    if first["kind"] != "embedding":
        raise Stop("--like compares embeddings, and this model gives " + first["kind"])
    try:
        names = list(json.loads((Path(folder) / "pictures.json").read_text(encoding="utf-8")))
        vectors = np.load(str(Path(folder) / array_of(first)), allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError):
        raise Stop(f"{folder} holds nothing that --save of this program wrote") from None
    if vectors.ndim != 2 or vectors.shape != (len(names), first["shape"][0]):
        raise Stop(f"{folder} was saved by another model")
    return names, vectors.astype(np.float64)


def likeliest(model: Values, outputs: Any, count: int) -> list[Any]:
    """[name, probability] of the likeliest classes."""
    shares = np.exp(outputs.astype(np.float64) - outputs.max())
    shares /= shares.sum()
    names = model["labels"]
    rows = np.argsort(-outputs, kind="stable")[:count]
    return [[names[row] if names else str(row), float(shares[row])] for row in rows]


def frames(model: Values, session: Any, asked: Any) -> int:
    """Say what is on each frame, and how many there are a second."""
    try:
        import cv2
    except ImportError:
        raise Stop("cameras and videos need OpenCV: pip install opencv-python-headless") from None
    source = asked.video
    if source is None:
        source = int(asked.camera) if str(asked.camera).isdigit() else asked.camera
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise Stop("cannot open " + str(source))
    known = saved(model, asked.like)
    count, begun = 0, time.perf_counter()
    try:
        while not asked.frames or count < asked.frames:
            good, frame = capture.read()
            if not good:
                break
            outputs = answer(session, fitted(np.ascontiguousarray(frame[..., ::-1]), model["input"]))
            count += 1
            told, words = said(model, outputs, known, 1)
            rate = count / (time.perf_counter() - begun)
            if asked.json:
                print(json.dumps({"frame": count, "fps": round(rate, 1), **told}))
            else:
                print(f"{rate:5.1f} frames a second  {words}")
    finally:
        capture.release()
    if not count:
        raise Stop("no frames in " + str(source))
    return 0


def self_test(model: Values, session: Any, folder: Path) -> int:
    """Compare with the outputs that the model should give; say each picture that it fails on."""
    tests = model["self_test"]
    if not tests["pictures"]:
        raise Stop("this bundle has no self-test: it was made from a run without pictures")
    expected = np.load(str(folder / "golden" / "outputs.npy"))
    failed = 0
    for number, name in enumerate(tests["pictures"]):
        wanted = expected[number]
        pixels = read(str(folder / "golden" / name))
        if model["input"]["channels"] == "L":
            pixels = pixels[..., :1]
        elif model["input"]["channels"] == "BGR":
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        found = answer(session, pixels)
        problem = compared(found, wanted, classifies(model))
        failed += bool(problem)
        print(f"FAIL  {name}: {problem}" if problem else f"ok    {name}")
    count = len(tests["pictures"])
    if failed:
        print(f"{failed} of {count} pictures are computed otherwise than by the {tests['how']}")
    else:
        print(f"this device computes what it should: {count} pictures, as by the {tests['how']}")
    return 1 if failed else 0


def compared(found: Any, wanted: Any, classes: bool) -> str:
    """What is wrong with outputs, or nothing."""
    if found.shape != wanted.shape:
        return f"{found.shape} outputs where there should be {wanted.shape}"
    if not np.isfinite(found).all():
        return "outputs that are no numbers"
    length = float(np.linalg.norm(found) * np.linalg.norm(wanted))
    cosine = float(found.astype(np.float64) @ wanted) / max(length, 1e-12)
    apart = float(np.abs(found - wanted).max()) / max(float(np.abs(wanted).max()), 1e-12)
    if apart > TOLERANCE and cosine < CLOSEST_COSINE:
        return f"outputs differ by {100 * apart:.0f} % of the largest (cosine {cosine:.4f})"
    lead = wanted.max() - wanted[found.argmax()]
    if classes and lead > 2 * TOLERANCE * np.abs(wanted).max():
        return f"class {found.argmax()} where it should be {wanted.argmax()}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
