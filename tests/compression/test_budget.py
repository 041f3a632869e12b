"""How far an automatic choice goes, and the drop it goes by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgevit.compression.budget import most_within
from edgevit.conversion.resize import smaller_sizes
from edgevit.metrics.acceptance import Acceptance


@given(st.lists(st.floats(0, 10), max_size=40), st.floats(0, 10))
def test_the_last_option_within_the_limit_is_found_in_few_attempts(drops: list[float], limit: float) -> None:
    drops = sorted(drops)
    options = range(len(drops))
    index, result, tried = most_within(options, lambda option: (option, drops[option]), Acceptance(limit))
    allowed = [option for option in options if drops[option] <= limit]
    assert index == (allowed[-1] if allowed else -1)
    assert result == (index if allowed else None)
    assert len(tried) <= len(drops).bit_length()


def test_sizes_shrink_by_a_patch_and_keep_their_shape() -> None:
    assert smaller_sizes((224, 224), (16, 16)) == [(side, side) for side in range(208, 111, -16)]
    assert smaller_sizes((64, 128), (16, 16)) == [(48, 96), (32, 64)]
    assert smaller_sizes((16, 16), (16, 16)) == []
