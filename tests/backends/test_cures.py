"""The search for what mends a build: the cheapest cure that is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.backends.proof import Verdict
from edgevit.backends.rknn import cures
from edgevit.backends.rknn.cures import Cure, find
from edgevit.export import export_onnx
from edgevit.files import user_cache
from edgevit.placement.estimate import Cost
from tests.vits import random_vit

NAMES = [f"rule_{letter}" for letter in "abcdefgh"]
LOG = "".join(f"D     {name}: remove node = ['x']\n" for name in NAMES)
CYCLES = 1000
AS_BUILT = (float(CYCLES),)


class Compiler:
    """Right without any of some rules, each at a price in cycles; dies without others."""

    def __init__(
        self, mending: dict[str, int], deadly: tuple[str, ...] = (), level: int | None = None
    ) -> None:
        self.mending, self.deadly, self.level, self.tried = mending, deadly, level, list[Cure]()

    def __call__(self, cure: Cure, what: str) -> tuple[Verdict, Cost]:
        self.tried.append(cure)
        if set(cure.rules) & set(self.deadly):
            return "died", ()
        right = set(cure.rules) & set(self.mending)
        cycles = CYCLES + sum(self.mending.get(rule, 0) for rule in cure.rules)
        return ("right" if right or (cure.level is not None and cure.level == self.level) else "wrong"), (
            cycles,
        )


@pytest.mark.parametrize("culprit", NAMES)
def test_one_rule_is_found_in_few_builds(culprit: str) -> None:
    compiler = Compiler({culprit: 0})
    assert find(LOG, AS_BUILT, compiler) == Cure((culprit,))
    assert len(compiler.tried) <= 7


def test_of_several_the_cheapest_is_taken() -> None:
    assert find(LOG, AS_BUILT, Compiler({"rule_b": 400, "rule_f": 30, "rule_g": 90})) == Cure(("rule_f",))


def test_no_other_is_looked_for_where_the_first_costs_nothing() -> None:
    compiler = Compiler({"rule_a": 0, "rule_h": 0})
    assert find(LOG, AS_BUILT, compiler) == Cure(("rule_a",))
    assert Cure(("rule_h",)) not in compiler.tried


def test_rules_that_the_build_dies_without_are_gone_around() -> None:
    assert find(LOG, AS_BUILT, Compiler({"rule_d": 0}, deadly=("rule_c", "rule_e"))) == Cure(("rule_d",))


def test_levels_come_last() -> None:
    compiler = Compiler({}, level=1)
    assert find(LOG, AS_BUILT, compiler) == Cure(level=1)
    assert find(LOG, AS_BUILT, Compiler({})) is None


def test_a_good_guess_is_one_build_and_a_bad_one_costs_no_more() -> None:
    compiler, good, bad = Compiler({"rule_d": 0}), Cure(("rule_d",)), Cure(("rule_a",))
    assert find(LOG, AS_BUILT, compiler, [(good, "before"), (bad, "never asked")]) == good
    assert compiler.tried == [good]
    assert find(LOG, AS_BUILT, compiler, [(bad, "before")]) == good


def test_time_ends_the_search_with_the_best_so_far() -> None:
    times = iter([0.0, 0.0, 0.0, 0.0, 119.0] + [121.0] * 99)
    found = find(LOG, AS_BUILT, Compiler({"rule_b": 400, "rule_f": 30}), clock=lambda: next(times))
    assert found is not None and "rule_b" in found.rules


def test_the_fingerprint_is_of_the_graph_and_not_of_its_weights(tmp_path: Path) -> None:
    def of(name: str, seed: int, **options: int) -> str:
        return cures.fingerprint(
            export_onnx(random_vit(seed, **options), (32, 32), 3, tmp_path / name), "rk3588", "2.5.0"
        )

    one = of("a.onnx", 0)
    assert one == of("b.onnx", 1) != of("c.onnx", 0, depth=3)
    assert one != cures.fingerprint(tmp_path / "a.onnx", "rk3566", "2.5.0")


@pytest.mark.parametrize("content", ["", "[]", '{"rules": 3, "level": null}', "\x00", '{"rules": []}'])
def test_a_memory_that_cannot_be_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cures.recall("key") is None
    cures.remember("key", Cure(("rule_a",)))
    assert cures.recall("key") == Cure(("rule_a",))
    (user_cache(cures.MEMORY) / "key.json").write_text(content)
    assert cures.recall("key") is None
