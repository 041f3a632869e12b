"""What the page asks: a picture's classes or other outputs by some artefacts, where the float model looks."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.conversion.reference import outputs_of
from edgevit.errors import EdgevitError, InputError
from edgevit.models import LoadedModel
from edgevit.outputs.output import Outputs
from edgevit.prediction.predict import TORCH, Source, choose, float_model, guesses, read_images, runner_of
from edgevit.progress import QUIET
from edgevit.reporting.changes import as_rgb
from edgevit.run.reading import RunFiles, read_run

TOP = 5
Picture = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """An artefact that runs here: what it is called, and how it is asked for."""

    key: str
    title: str


class Answers:
    """A run, and its artefacts that this machine can run; each is loaded when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self.run: RunFiles = read_run(folder, "cannot try")
        self.sources: dict[str, Source] = {}
        for result in self.run.results:
            try:
                self.sources[result.title] = choose(folder, target=result.target, precision=result.precision)
            except InputError:  # it runs on its board only
                continue
        self.sources["float"] = choose(folder, target=TORCH)

    @property
    def choices(self) -> list[Choice]:
        """The artefacts, the float model last."""
        return [Choice(key, "float model (torch)" if key == "float" else key) for key in self.sources]

    @property
    def left_out(self) -> list[str]:
        """Artefacts that only their board can run."""
        return [each.title for each in self.run.results if each.title not in self.sources]

    def answer(self, picture: Path, key: str) -> dict[str, Any]:
        """What one artefact says of a picture, and the milliseconds that it took with loading.

        The likeliest classes, or each output of another kind in words and, where it can be drawn, as a data URL.
        Raises EdgevitError where the picture can't be read or the artefact can't be run.
        """
        begun = time.perf_counter()
        source = self.sources[key]
        (pixels,) = read_images([picture], source.preprocessing)
        if isinstance(pixels, str):
            raise InputError("cannot read the picture", pixels, "Give a JPEG, PNG or WebP file")
        if source.artefact is None:
            outputs = outputs_of(self.loaded.module, pixels[None], self.loaded.preprocessing, QUIET)
        else:
            run = runner_of(source.artefact)
            assert run is not None  # choose() took only those
            outputs = run(source.artefact, pixels[None], source.preprocessing, QUIET)
        took = round(1000 * (time.perf_counter() - begun), 1)
        gives = self.run.manifest.model.gives
        if gives.classes is None:
            seen = as_rgb(pixels, source.preprocessing.channels)
            reference = None if key == "float" else self.float_outputs(picture)
            return {"key": key, "outputs": told(gives, outputs, reference, seen), "ms": took}
        found = guesses(gives.split(outputs)[0][0], source.names, TOP)
        return {"key": key, "classes": [[each.name, each.probability] for each in found], "ms": took}

    def float_outputs(self, picture: Path) -> Rows | None:
        """The float model's outputs [1, values]; None where it is gone."""
        try:
            (pixels,) = read_images([picture], self.loaded.preprocessing)
            assert not isinstance(pixels, str)  # it was read before
            return outputs_of(self.loaded.module, pixels[None], self.loaded.preprocessing, QUIET)
        except EdgevitError:
            return None

    @cached_property
    def loaded(self) -> LoadedModel:
        """The float model. Raises InputError where it is gone or has changed."""
        return float_model(self.run, QUIET)

    def attention(self, picture: Path) -> str | None:
        """The picture as the model sees it, brighter where it looks, as a data URL.

        None where the model is gone, or has no attention that can be drawn.
        """
        try:
            if not self.loaded.canonical:
                return None
        except EdgevitError:
            return None
        from edgevit.prediction.rollout import rollout

        (pixels,) = read_images([picture], self.loaded.preprocessing)
        if isinstance(pixels, str):
            return None
        (shares,) = rollout(self.loaded, pixels[None])
        height, width = pixels.shape[:2]
        scaled = (shares - shares.min()) / max(float(shares.max() - shares.min()), 1e-9)
        weight = np.asarray(
            Image.fromarray(np.uint8(255 * scaled)).resize((width, height), Image.Resampling.BICUBIC)
        )
        shown = as_rgb(pixels, self.loaded.preprocessing.channels).astype(np.float32)
        lit = shown * (0.25 + 0.75 * weight[..., None].astype(np.float32) / 255)
        return data_url(lit.astype(np.uint8))


def told(gives: Outputs, outputs: Rows, reference: Rows | None, seen: Picture) -> list[dict[str, Any]]:
    """Each output [1, ...] in words, and as a picture where its kind can be drawn; how close it is to float."""
    known = [None] * len(gives.each) if reference is None else gives.split(reference)
    found = []
    for output, ours, theirs in zip(gives.each, gives.split(outputs), known, strict=True):
        words = f"{output.kind}, " + " x ".join(map(str, ours.shape[1:]))
        if theirs is not None:
            words += f"; cosine to the float model {output.means.difference(ours, theirs).cosine:.4f}"
        draw = output.means.draw
        picture = None if draw is None else data_url(draw(ours[0], seen))
        found.append({"name": output.name, "words": words, "picture": picture})
    return found


def data_url(picture: Picture) -> str:
    """A picture inside a page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
