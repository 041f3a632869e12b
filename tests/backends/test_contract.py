"""What every backend keeps to, and a made-up one that nothing else knows of."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import edgevit
from edgevit.backends.protocol import Backend
from edgevit.backends.registry import backend_of, backends, by_suffix, registered
from edgevit.bench import choose, measure
from edgevit.bench.connect import locate, reach
from edgevit.bench.prepare import Settings
from edgevit.bench.template import write_template
from edgevit.errors import InputError
from edgevit.progress import QUIET
from edgevit.quantize.tensor_names import BLOCK_TAPS
from edgevit.targets.facts import Facts
from edgevit.targets.profiles import load_board, shipped
from tests.backends import made_up
from tests.images.pictures import class_folders
from tests.vits import random_vit

EVERY = [*backends(), made_up.MADE_UP]
PACKAGE = Path(edgevit.__file__).parent
BARE = Facts(
    where="ssh://bare",
    model="a board",
    compatible=(),
    machine="aarch64",
    bits=64,
    cpu="",
    cores=4,
    memory_mb=2048,
    kernel="6.1",
    os="Debian",
    android=None,
    npu_driver=None,
    npu_node=None,
    npu_library=None,
    npu_library_version=None,
    python="3.11.2",
)


@pytest.mark.parametrize("backend", EVERY, ids=lambda backend: backend.name)
class TestEveryBackend:
    """Facts of one backend that fit together."""

    def test_its_artefacts_are_known_by_their_suffix(self, backend: Backend) -> None:
        with registered(backend):
            assert by_suffix(f"model{backend.suffix}") is backend

    def test_its_options_have_defaults_and_refuse_what_they_do_not_know(self, backend: Backend) -> None:
        backend.options_of({})
        with pytest.raises(InputError, match=f"^mine: options.{backend.name}: unknown key nonsense"):
            backend.options_of({backend.name: {"nonsense": 1}}, "mine")

    def test_its_runtime_defines_what_the_runner_asks_for(self, backend: Backend) -> None:
        tree = ast.parse(backend.on_board.runtime.read_text(encoding="utf-8"))
        (runtime,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Runtime")
        assert {"open", "infer", "prepare"} <= {each.name for each in runtime.body if hasattr(each, "name")}

    def test_it_says_what_a_bare_board_needs(self, backend: Backend) -> None:
        lack = backend.on_board.install(BARE)
        assert lack in backend.on_board.needs(BARE)
        package = lack.what in backend.on_board.packages and "pip install" in lack.fix
        assert package or "Copy " in lack.fix

    def test_it_runs_here_or_says_what_it_runs_on(self, backend: Backend) -> None:
        assert (backend.run is None) == (backend.on_board.python_here is None)
        assert backend.device

    def test_what_needs_ranges_takes_them(self, backend: Backend) -> None:
        assert backend.takes_ranges or backend.simulations is None
        kinds = {*backend.fusion.into, *backend.fusion.inside}
        assert kinds | {*backend.fusion.into.values(), *backend.fusion.inside.values()} <= set(BLOCK_TAPS)

    def test_a_vendors_float_file_is_made_of_a_program(self, backend: Backend) -> None:
        assert (backend.export_format == "program") == (backend.convert_float is not None)

    def test_a_new_profile_for_it_is_valid(self, backend: Backend, tmp_path: Path) -> None:
        with registered(backend):
            path = write_template("mine", backend.name, tmp_path)
            assert backend_of(load_board(str(path))) is backend


def test_every_shipped_board_has_a_backend() -> None:
    for name in shipped("boards"):
        backend_of(load_board(name))


def test_a_board_of_an_unknown_backend_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('name = "X"\nbackend = "litertt"\nsource = "me"\n')
    with pytest.raises(InputError) as caught:
        edgevit.board(str(tmp_path / "x.toml"))
    assert str(caught.value) == (
        "the board x cannot be used: there is no backend 'litertt'. Rename it to litert."
    )


def test_a_made_up_backend_converts_predicts_and_is_measured(tmp_path: Path) -> None:
    """Nothing but one `Backend` object: no other file knows its name, its suffix or its runtime."""
    class_folders(tmp_path / "val", 16)
    model = edgevit.wrap(random_vit(patch_size=8, num_classes=4), size=32, name="vit")
    with registered(made_up.MADE_UP):
        run = edgevit.convert(
            model,
            made_up.board(),
            precisions="float",
            validation=tmp_path / "val",
            out=tmp_path / "run",
            progress=QUIET,
        )
        (result,) = run.results
        assert (result.artefact, result.how) == ("vit-mine-float.copied", "stand-in")
        assert result.accuracy is not None and result.accuracy.agreement == 1.0
        (guess,) = edgevit.predict(run, tmp_path / "val" / "class0" / "0.png", top=1, progress=QUIET)
        expected = np.load(run.path(run.manifest.stage("float"), "outputs.npy"))[0].argmax()
        assert guess.guesses[0].index == expected
        place = locate("host")
        (artefact,) = choose.choose(run.folder, place)
        transport = reach(place)
        try:
            settings = Settings(threads=(1,), runs=2, seconds=0.0)
            found = measure.measure(artefact, place, transport, settings, QUIET)
        finally:
            transport.close()
        assert found["latency"]["threads"]["1"]["n"] >= 2
        assert found["same_as_local"]["agree"] == 16
        assert "mine" in edgevit.report(run).read_text(encoding="utf-8")


# Where a vendor's name is the point: its own tool on a phone, and its packages' environments.
NAMED = {"toolchains", "backends"}
ALLOWED = {
    "bench/benchmark_model.py": "TensorFlow Lite's own tool",
    "bench/benchmark_output.py": "its output",
    "run/step.py": "packages whose versions decide a step",
}


def test_no_other_module_names_a_backend() -> None:
    """Shared code asks a property of the backend; it compares no name and no suffix."""
    names = {each.name for each in backends()} | {each.suffix for each in backends()}
    names.remove(".onnx")  # every target's graph is such a file
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in NAMED or relative.as_posix() in ALLOWED:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong += [
            f"{relative}:{node.lineno} {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in names
        ]
    assert wrong == []
