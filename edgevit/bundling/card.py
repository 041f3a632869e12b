"""The bundle's README, in English and Chinese: what this is, how good it is, how to run it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from edgevit.backends.registry import backend_of
from edgevit.run.reading import RunFiles
from edgevit.run.results import Result

FOLDER = Path(__file__).parent
LANGUAGES = {"README.md": "card.md", "README.zh.md": "card.zh.md"}


def cards(
    run: RunFiles, result: Result, described: dict[str, Any], samples: Collection[str]
) -> dict[str, str]:
    """Each language's card by its file's name: the same headings, commands and figures."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=False,  # Markdown: names from outside go through `plain`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    values = values_of(run, result, described, samples)
    return {
        name: environment.from_string((FOLDER / template).read_text(encoding="utf-8")).render(values)
        for name, template in LANGUAGES.items()
    }


def values_of(
    run: RunFiles, result: Result, described: dict[str, Any], samples: Collection[str]
) -> dict[str, Any]:
    """What the cards say; `samples` are the names of the files that show how it is used."""
    model, accuracy = run.manifest.model, result.accuracy
    on_board = backend_of(run.manifest.boards[result.target]).on_board
    shown = None
    classified = accuracy is not None and model.num_classes is not None
    if accuracy is not None and classified and accuracy.top1 is not None and accuracy.drop_points is not None:
        shown = {
            "top1": f"{100 * accuracy.top1:.2f}",
            "float_top1": f"{100 * (accuracy.reference_top1 or 0):.2f}",
            "n": accuracy.n,
            "how": result.how,
            "lost": f"{accuracy.drop_points:.2f}",
            "low": f"{accuracy.drop_low:.1f}",
            "high": f"{accuracy.drop_high:.1f}",
            "agreement": f"{100 * accuracy.agreement:.1f}",
        }
    kept = None
    if accuracy is not None and model.num_classes is None:
        kept = {"cosine": f"{accuracy.cosine:.4f}", "n": accuracy.n, "how": result.how}
    return {
        "gives": ", ".join(f"{plain(each.name)} ({each.kind})" for each in model.gives.each),
        "embeds": model.gives.first.kind == "embedding",
        "kept": kept,
        "name": plain(described["name"]),
        "board": plain(described["board"]),
        "classes": model.num_classes,
        "precision": result.precision,
        "edgevit": described["made_with"]["edgevit"],
        "model": plain(model.name),
        "source": plain(model.source),
        "runtime": on_board.runtime_words.format_map(Tools(result.tools)),
        "self_test": bool(described["self_test"]["pictures"]),
        "how": described["self_test"]["how"],
        "accuracy": shown,
        "images": result.preprocessing.describe(),
        "takes_pixels": on_board.takes_pixels,
        "layout": on_board.layout,
        "takes": described["input"]["type"],
        "oldest": ", ".join(f"{name} {version}" for name, version in result.details.needs_at_least.items()),
        "cpp": "cpp/run.cpp" in samples,
        "android": any(name.startswith("android/") for name in samples),
        "file": described["file"],  # a safe name
    }


class Tools(dict[str, str]):
    """Versions by name; those that a run did not record are left out."""

    def __missing__(self, key: str) -> str:
        return ""


def plain(text: str) -> str:
    """A name from outside in one line that Markdown and HTML leave as it is."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in kept)
