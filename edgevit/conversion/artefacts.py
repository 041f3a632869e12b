"""The steps from a model to one target's artefact, each made when first asked for and kept."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.protocol import CompileRequest, FloatRequest
from edgevit.backends.registry import backend_of
from edgevit.conversion import int8_check, proof, rewrite_repair, sources
from edgevit.conversion.description import description_of
from edgevit.conversion.inputs import Inputs
from edgevit.conversion.plans import board_key, existing, plan_of
from edgevit.conversion.pricing import price_of
from edgevit.conversion.shards import compile_in_shards, worth_sharing
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.rewrites.roles import FOR_INT8, NEED_CONDITIONING, ON_GRAPHS, SPELLINGS, missing_to_condition
from edgevit.run.step import Step
from edgevit.targets.precisions import DEFAULT, FLOAT, quantized
from edgevit.targets.profiles import Board

# Of an [npu] section: what the exported graph doesn't depend on.
NOT_IN_GRAPH = {"cpu_ops", "target", "proved_as", "sixteen_bit", "never_sixteen_bit"}


class Conversion(Inputs):
    """The steps of one job in one run directory, each made when first asked for and kept."""

    @cached_property
    def breaking(self) -> dict[tuple[str, str], tuple[tuple[str, ...], float]]:
        """By board and precision: rewrites or a spelling that its compiler breaks the graph with; by how much."""
        return {}

    def rewrites(self, board: Board, precision: str) -> list[str]:
        """The exact rewrites that pay on a board: of any graph, or of a plain ViT.

        Less those that the user left out, and those that its compiler breaks the graph with.
        """
        known = self.model.metrics["canonical"]
        fitting = [each for each in board.rewrites if known or each in ON_GRAPHS]
        breaking = self.broken_by(board, precision)
        return [each for each in fitting if each not in self.job.without and each not in breaking]

    def broken_by(self, board: Board, precision: str) -> tuple[str, ...]:
        """The rewrites and spellings that a board's compiler breaks the graph with, as far as that was searched."""
        return self.breaking.get((board.id, precision), ((), 0.0))[0]

    def exported(self, board: Board, precision: str) -> Step:
        """The float graph a backend starts from, proved against torch on real images.

        For int8, where recipe, model and backend allow, it is conditioned and comes with a plan of ranges.
        """
        backend, recipe = backend_of(board), self.job.recipe
        rewrites = self.rewrites(board, precision)
        conditioned = self.could_condition(board, precision) and not missing_to_condition(rewrites)
        if quantized(precision) and not conditioned and self.calibration is not None:
            rewrites = [each for each in rewrites if each not in NEED_CONDITIONING]
        on_graph = not conditioned and self.conditions_graph(board, precision)
        conditioning = (
            [recipe.observer, recipe.seed] if conditioned else ["graph", recipe.seed] if on_graph else None
        )
        without = [each for each in SPELLINGS if each in self.broken_by(board, precision)]
        costed = DEFAULT if quantized(precision) else FLOAT
        limits = board.npu.model_dump(mode="json", exclude=NOT_IN_GRAPH) if board.npu else None
        inputs = {
            "model": self.exporting_key,
            "images": self.probe.key,
            "export_format": backend.export_format,
            "rewrites": rewrites,
            "limits": limits if rewrites else None,
            "npu": board.npu is not None,
            "conditioning": conditioning,
            "priced": [board_key(board), backend.tools(board), costed]
            if backend.place and rewrites
            else None,
            **({"without": without} if without else {}),
        }

        def make(folder: Path) -> dict[str, Any]:
            from edgevit.conversion import reference

            pixels = np.load(self.probe.path("pixels.npy"), mmap_mode="r")
            few = np.asarray(pixels[: reference.PROBE_IMAGES])
            price = price_of(board, costed, self.preprocessing, few[:2], folder)
            if conditioned:
                self.progress.stage("condition for int8 and check against torch")
                return reference.export_conditioned(
                    self.exporting,
                    np.asarray(pixels),
                    folder,
                    rewrites,
                    board.npu,
                    backend.fusion,
                    recipe,
                    price,
                    self.progress,
                    without,
                )
            self.progress.stage("export and check against torch")
            return reference.export(
                self.exporting,
                few,
                folder,
                backend.export_format,
                rewrites,
                board.npu,
                price,
                self.progress,
                np.asarray(pixels) if on_graph else None,
                recipe.seed,
                without,
            )

        return self.run.step("export", inputs, make)

    def vendor_float(self, board: Board, precision: str) -> Step | None:
        """The vendor's own float file of an exported program, proved; None: its backend starts from the graph."""
        backend = backend_of(board)
        convert_float = backend.convert_float
        if convert_float is None:
            return None
        exported = self.exported(board, precision)
        inputs = {"export": exported.key, "images": self.probe.key, "tools": backend.tools(board)}

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{board.id}: convert in float and prove that it keeps the function")
            with proof.probe_of(self, exported, folder) as probe:
                request = FloatRequest(exported.path("model.pt2"), probe, self.preprocessing, folder)
                file, found = convert_float(request, self.progress)
            return {**found.to_json(), "file": file.name}

        return self.run.step(f"{backend.name}-float", inputs, make)

    def could_condition(self, board: Board, precision: str) -> bool:
        """Whether recipe, model and backend agree to condition for int8."""
        able = self.model.metrics["conditionable"] and backend_of(board).takes_ranges
        return bool(self.job.recipe.conditioning and quantized(precision) and able)

    def conditions_graph(self, board: Board, precision: str) -> bool:
        """Whether a graph is made ready for int8 as it is, where the module was not."""
        wanted = quantized(precision) and self.job.recipe.conditioning and self.calibration is not None
        left_out = set(FOR_INT8) & set(self.job.without)
        return wanted and backend_of(board).export_format == "onnx" and not left_out

    def notes(self, board: Board, precision: str) -> list[str]:
        """Where a target does not follow the recipe and why, and what was left out of its build."""
        told = rewrite_repair.notes(self, board, precision) + proof.notes(self, board, precision)
        told += proof.probe_notes(self.compiled(board, precision))
        told += int8_check.notes(self, board, precision)
        return [*told, *self.recipe_notes(board, precision)]

    def recipe_notes(self, board: Board, precision: str) -> list[str]:
        """Where a target does not follow the recipe, and why."""
        if not self.could_condition(board, precision):
            return []
        for needed in missing_to_condition(self.rewrites(board, precision)):
            left_out = needed in self.job.without
            why = "--without leaves it out" if left_out else f"{board.id}'s compiler does not take it"
            return [
                f"int8 for NPUs is prepared on the graph, not on the module: that needs {needed}, and {why}"
            ]
        if self.job.recipe.observer == "vendor":
            return ["the recipe leaves ranges to the vendor; a conditioned model takes measured ones instead"]
        return []

    def description(self, board: Board) -> str:
        """What is written into a board's artefacts."""
        images = self.image_sets["validation"]
        labels = self.model.metrics["labels"] or (images.class_names if images else None)
        room = backend_of(board).on_board.description_room
        return description_of(self.preprocessing, self.outputs, labels, room)

    def name_of(self, board: Board, precision: str) -> str:
        """The name of the step that makes an artefact."""
        return f"{board.id}-{precision}"

    def measure_reductions(self) -> list[Step | None]:
        """Accuracy after each lossy step; None where there are no validation images."""
        return [self.evaluated(self.reduction_outputs(step)) for step in self.reductions]

    def searches(self, board: Board, precision: str) -> bool:
        """Whether anything is searched for an artefact, as far as can be told before its export."""
        if not quantized(precision) or sources.folder_of(self.job, "calibration") is None:
            return False
        from edgevit.conversion import mixed_precision

        wanted = self.job.plan is None and self.job.search_minutes > 0 and self.job.recipe.conditioning
        return backend_of(board).quantizers is not None or (wanted and mixed_precision.searchable(board))

    def planned(self, board: Board, precision: str) -> Step | None:
        """The search for the plan an artefact is made with, which may take minutes; None where there is none."""
        exported = self.exported(board, precision)
        if quantized(precision) and self.calibration is not None and backend_of(board).quantizers is not None:
            return self.chosen(board, precision, exported)
        minutes = self.job.search_minutes
        own = existing(exported.path("plan.toml"))
        if self.job.plan is not None or self.calibration is None or not self.searches(board, precision):
            return None
        from edgevit.conversion import mixed_precision

        acceptance = self.job.acceptance
        asked = read_plan(own) if own else plan_of(self.job, precision, backend_of(board))
        plan = mixed_precision.with_whole_outputs(
            proof.repaired(self, asked, board, precision), self.outputs, board
        )
        inputs = {
            "export": exported.key,
            "calibration": self.calibration.key,
            "max_drop": acceptance.max_drop,
            "labels": self.calibration_labels,
            "minutes": minutes,
            "board": board_key(board),
            "tools": backend_of(board).tools(board),
            "plan": None if own else plan.to_json(),
            "seed": self.job.recipe.seed,
        }

        def make(folder: Path) -> dict[str, Any]:
            assert self.calibration is not None
            self.progress.stage(f"{board.id} {precision}: search what must stay in 16 bits")
            search = mixed_precision.Search(
                model=self.exporting,
                onnx=exported.path("model.onnx"),
                plan=plan,
                calibration=self.calibration.path("pixels.npy"),
                board=board,
                acceptance=acceptance,
                minutes=minutes,
                state=self.run.unfinished / f"search-{board.id}-{exported.key[:12]}.json",
                seed=self.job.recipe.seed,
                labels=self.calibration_labels,
                workers=self.workers,
            )
            conditioned = own and mixed_precision.Conditioned(
                rewrites=self.rewrites(board, precision),
                weights=exported.path("int8.safetensors"),
                effects=dict(exported.metrics["int8"]["effects"]),
            )
            return mixed_precision.search_plan(search, conditioned or None, folder, self.progress)

        return self.run.step(f"search-{board.id}", inputs, make)

    def chosen(self, board: Board, precision: str, exported: Step) -> Step:
        """Which of a backend's ways to quantize is taken, by accuracy and latency on calibration images."""
        from edgevit.conversion import recipe_choice

        assert self.calibration is not None
        backend, vendor_float = backend_of(board), self.vendor_float(board, precision)
        choice = recipe_choice.Choosing(
            source_model=vendor_float.path(vendor_float.metrics["file"])
            if vendor_float
            else exported.path("model.onnx"),
            board=board,
            delegate=recipe_choice.delegate_of(board, self.job.delegate),
            preprocessing=self.preprocessing,
            calibration=self.calibration.path("pixels.npy"),
            plan=plan_of(self.job, precision, backend),
            fixed=recipe_choice.fixed_recipe(backend, self.job.plan, self.job.recipe),
            acceptance=self.job.acceptance,
            outputs=self.outputs,
            labels=self.calibration_labels,
        )
        inputs = {
            "export": exported.key,
            "calibration": self.calibration.key,
            "delegate": choice.delegate,
            "fixed": choice.fixed,
            "max_drop": choice.acceptance.max_drop,
            "labels": choice.labels,
            "plan": choice.plan.to_json(),
            "tools": backend.tools(board),
        }

        def make(folder: Path) -> dict[str, Any]:
            self.progress.stage(f"{backend.name} {precision}: try ways to quantize")
            return recipe_choice.choose_plan(choice, folder, self.progress)

        return self.run.step(f"choice-{backend.name}-{choice.delegate}", inputs, make)

    def plan(self, board: Board, precision: str) -> PrecisionPlan:
        """The precision plan of an artefact: the user's, the search's, or the recipe's; repaired."""
        return proof.repaired(self, self.wanted_plan(board, precision), board, precision)

    def wanted_plan(self, board: Board, precision: str) -> PrecisionPlan:
        """The plan as it was asked for or found."""
        if not quantized(precision):
            return plan_of(self.job, precision, backend_of(board))
        searched = self.planned(board, precision)
        found = existing((searched or self.exported(board, precision)).path("plan.toml"))
        plan = read_plan(found) if found else plan_of(self.job, precision, backend_of(board))
        from edgevit.conversion.mixed_precision import merged, with_whole_outputs

        if self.job.plan is None:
            return with_whole_outputs(plan, self.outputs, board)

        return merged(plan, self.job.plan, board)

    @property
    def in_shards(self) -> bool:
        """Whether workers share the evaluation."""
        return self.workers is not None and self.validation is not None and worth_sharing(self.validation)

    def compiled(self, board: Board, precision: str) -> Step:
        """The artefact, and its outputs on the validation images; without any, how close it is on a probe."""
        backend = backend_of(board)
        exported, validation = self.exported(board, precision), self.validation
        plan, vendor_float = self.plan(board, precision), self.vendor_float(board, precision)
        inputs = {
            "export": exported.key,
            "calibration": self.probe.key if plan.quantized else None,
            "validation": validation.key if validation else None,
            "plan": plan.to_json(),
            "board": board_key(board),
            "tools": backend.tools(board),
            "description": self.description(board),
        }

        def make(folder: Path) -> dict[str, Any]:
            ready = (
                None
                if quantized(precision) or self.in_shards
                else proof.take_proved(proof.proved(self, board, precision), folder)
            )
            if ready is not None:
                return ready
            self.progress.stage(f"{board.id} {precision}: compile")
            with proof.probe_of(self, exported, folder) as probe:
                on_probe = probe.pixels if self.job.images else None
                request = CompileRequest(
                    onnx=existing(exported.path("model.onnx")),
                    vendor_float=vendor_float.path(vendor_float.metrics["file"]) if vendor_float else None,
                    plan=plan,
                    board=board,
                    preprocessing=self.preprocessing,
                    calibration=self.probe.path("pixels.npy"),
                    evaluate=validation.path("pixels.npy") if validation else on_probe,
                    out=folder,
                    description=self.description(board),
                )
                result = (
                    compile_in_shards(request, self.workers, self.progress)
                    if self.workers is not None and self.in_shards
                    else backend.compile(request, self.progress)
                )
                told = None if validation else proof.closeness(result, probe, self.outputs)
            return result.to_json() | ({"probe": told} if told else {})

        return self.run.step(self.name_of(board, precision), inputs, make)
