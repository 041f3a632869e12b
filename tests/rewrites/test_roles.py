from edgevit.rewrites.equivalence import EXACT
from edgevit.rewrites.roles import NEED_CONDITIONING, NEEDED_TO_CONDITION, missing_to_condition


def test_roles_name_rewrites_that_there_are() -> None:
    assert set(EXACT) >= NEEDED_TO_CONDITION | NEED_CONDITIONING


def test_what_is_missing_is_named() -> None:
    assert missing_to_condition(["fold-norms"]) == ["fold-attention-scale"]
    assert missing_to_condition(list(EXACT)) == []
