"""`path/file.py:function` that returns any classifier."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import differences, timm_models
from edgevit.models.checkpoint import one_line, read_checkpoint
from edgevit.models.classifier import with_classes
from edgevit.models.model import LoadedModel, finish, where

DEFAULT_SIZE = (224, 224)
# Of files loaded before: their folders on sys.path, and the modules that they imported from there.
_FOLDERS: list[str] = []
_NEIGHBOURS: set[str] = set()


def is_reference(name: str) -> bool:
    """Whether a model's name is a Python file, with or without the function."""
    return ".py:" in name or name.endswith(".py")


def load(
    name: str,
    weights: Path | None,
    *,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    classifier: tuple[str, int] | None = None,
) -> LoadedModel:
    """What the function returns, called without arguments; a weights file then replaces its weights.

    `classifier` is the path of a layer that fine-tuning replaced, and its number of classes.
    """
    file, function = split(name)
    module = call(name, file, function)
    if classifier is not None:
        module = with_classes(module, *classifier)
    notes: list[str] = []
    if weights is not None:
        checkpoint = read_checkpoint(weights)
        differences.refuse(name, weights, module.state_dict(), checkpoint.weights)
        module.load_state_dict(checkpoint.weights, strict=True, assign=True)
        notes += checkpoint.notes
    preprocessing = preprocessing_of(name, module, size, notes)
    return finish(
        name, module, preprocessing, source=f"Python file {name}", num_classes=num_classes, notes=notes
    )


def function_of(name: str) -> tuple[str, Callable[[Any, Any], Any]]:
    """The name and the object of a user's `file.py:function` that scores outputs. Raises InputError."""
    what = "measure by"
    file, function = split(name, what, "a function of outputs and labels")
    try:
        found = getattr(run(file), function, None)
    except (Exception, SystemExit) as error:
        why = f"it raised {one_line(error)}{place(error, file)}"
        raise InputError(f"cannot {what} {name}", why, "Fix the file") from error
    if not callable(found):
        raise InputError(f"cannot {what} {name}", f"{file.name} has no {function!r}", nearest(file, function))
    return function, found


def split(name: str, what: str = "load", wanted: str = "a function without arguments") -> tuple[Path, str]:
    """File and function of `path/file.py:function`; `what` can't be done without, `wanted` is the function."""
    stem, _, function = name.rpartition(".py")
    file = Path(stem + ".py").resolve()
    if not file.is_file():
        raise InputError(f"cannot {what} {name}", f"no such file {stem}.py", "Check the path")
    if not function.startswith(":") or not function[1:].isidentifier():
        raise InputError(
            f"cannot {what} {name}", "it names no function", f"Write {stem}.py:function, {wanted}"
        )
    return file, function[1:]


def call(name: str, file: Path, function: str) -> nn.Module:
    """The module a user's function returns. Their exceptions become one line with file and line."""
    forget_neighbours()
    known = set(sys.modules)
    try:
        found = getattr(run(file), function, None)
        if found is not None:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                module = found()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"cannot load {name}",
            f"it raised {one_line(error)}{place(error, file)}",
            "Fix the file; the function is called without arguments",
        ) from error
    finally:
        _NEIGHBOURS.update(neighbours(file, known))
    if found is None:
        raise InputError(f"cannot load {name}", f"{file.name} has no {function!r}", nearest(file, function))
    if not isinstance(module, nn.Module):
        raise InputError(
            f"cannot load {name}",
            f"{function}() returned {type(module).__name__}, not a torch.nn.Module",
            "Return the model itself",
        )
    return module


def run(file: Path) -> ModuleType:
    """Import a file under a name of its own; its folder is importable, as when the user runs it."""
    spec = importlib.util.spec_from_file_location(f"edgevit_user_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and torch.export look classes up by module name
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
        _FOLDERS.append(str(file.parent))
    with contextlib.redirect_stdout(sys.stderr):
        spec.loader.exec_module(module)
    return module


def forget_neighbours() -> None:
    """Let go of what earlier files imported from their own folders: another file's `layers` is another module, and
    an edited one must be read again."""
    for folder in _FOLDERS:
        if folder in sys.path:
            sys.path.remove(folder)
    for name in _NEIGHBOURS:
        sys.modules.pop(name, None)
    _FOLDERS.clear()
    _NEIGHBOURS.clear()


def neighbours(file: Path, known: set[str]) -> set[str]:
    """Modules that came in since `known` and lie in a file's own folder."""
    found = set()
    for name in sys.modules.keys() - known:
        origin = getattr(sys.modules[name], "__file__", None)
        top = name.partition(".")[0]
        if origin and any(Path(origin).is_relative_to(file.parent / each) for each in (top, f"{top}.py")):
            found.add(name)
    return found


def place(error: BaseException, file: Path) -> str:
    """Where in the user's file an exception came from."""
    if isinstance(error, SyntaxError):
        return f" ({Path(error.filename or file).name}:{error.lineno})"
    return where(error, file)


def nearest(file: Path, function: str) -> str:
    """What to write instead of a function that isn't there."""
    names = [
        name for name, value in vars(sys.modules[f"edgevit_user_{file.stem}"]).items() if callable(value)
    ]
    near = difflib.get_close_matches(function, names, n=1)
    return f"Did you mean {near[0]}" if near else "Check the function's name"


def preprocessing_of(
    name: str, module: nn.Module, size: tuple[int, int] | None, notes: list[str]
) -> Preprocessing:
    """A `preprocessing` attribute (Preprocessing, or a dict of its fields), timm's configuration, or ImageNet's."""
    own: Any = getattr(module, "preprocessing", None)
    if own is not None:
        try:
            chosen = (
                own if isinstance(own, Preprocessing) else Preprocessing.from_json(defaults() | dict(own))
            )
        except (TypeError, ValueError) as error:
            raise InputError(
                f"cannot load {name}",
                f"its preprocessing attribute is not valid ({one_line(error)})",
                f"Give a dict of {', '.join(defaults())}",
            ) from error
        return chosen if size is None else Preprocessing.from_json(chosen.to_json() | {"size": size})
    if getattr(module, "pretrained_cfg", None):
        return timm_models.preprocessing_of(module, size)
    given = size or getattr(getattr(module, "patch_embed", None), "img_size", None)
    chosen = Preprocessing(size=given if isinstance(given, tuple) else DEFAULT_SIZE)
    notes.append(
        f"preprocessing assumed: {chosen.size[0]}x{chosen.size[1]}, ImageNet mean and deviation "
        "(set a `preprocessing` attribute on the module to change it)"
    )
    return chosen


def defaults() -> dict[str, Any]:
    """Fields of Preprocessing with their defaults."""
    return Preprocessing(DEFAULT_SIZE).to_json()
