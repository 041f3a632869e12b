"""Can it be shipped? The interval of the loss held against a limit; what can't be told isn't claimed."""

from __future__ import annotations

import math

from edgevit.metrics.acceptance import Acceptance
from edgevit.metrics.classification import paired_interval
from edgevit.outputs.kinds import unit_of
from edgevit.reporting.sections import Loss, Verdict

MAX_IMAGES = 1_000_000
USER_LIMIT = "yours, from --max-drop"
OWN_LIMIT = "edgevit's default; set yours with --max-drop"


def verdict(loss: Loss | None, max_drop: float | None, gate: str | None) -> Verdict:
    """Yes if the whole 95 % interval is within the limit, no if none of it is, otherwise can't tell.

    The limit is the user's --max-drop or 0.5 points. A missed gate is a no whatever the interval says: the user
    made the rule. Without labels the share of changed predictions bounds the loss from above.
    """
    acceptance, origin = (Acceptance(), OWN_LIMIT) if max_drop is None else (Acceptance(max_drop), USER_LIMIT)
    limit = acceptance.max_drop
    if loss is None:
        why = "accuracy was not measured: there were no validation images"
        return Verdict("can't tell", why, limit, origin)
    if loss.drop_points is None or loss.drop_low is None or loss.drop_high is None:
        return unlabelled(loss, limit, origin)
    seen = f"between {tenths(loss.drop_low)} and {tenths(loss.drop_high)} {unit_of(loss)}"
    if gate == "missed":
        return Verdict("no", missed(loss, limit), limit, origin)
    proved = acceptance.proves(loss.drop_low, loss.drop_high)
    if proved is True:
        why = f"the loss is {seen} (95 %, n = {loss.n}, {loss.how}), within the limit of {limit:g}"
        return Verdict("yes", why, limit, origin)
    if proved is False:
        why = f"the loss is {seen} (95 %, n = {loss.n}, {loss.how}), above the limit of {limit:g}"
        return Verdict("no", why, limit, origin)
    return undecided(loss, limit, origin, seen, gate)


def missed(loss: Loss, limit: float) -> str:
    """Why a gate was missed: by the loss, or by the search for a precision plan on the calibration images."""
    lost = f"it lost {tenths(loss.drop_points or 0.0)} {unit_of(loss)} on {loss.n} images ({loss.how})"
    if not Acceptance(limit).allows(loss.drop_points or 0.0):
        return f"{lost}; --max-drop allows {limit:g}"
    return f"{lost}, but on the calibration images no precision plan was proved within --max-drop {limit:g}"


def undecided(loss: Loss, limit: float, origin: str, seen: str, gate: str | None) -> Verdict:
    """The interval holds the limit: say how many images would settle it."""
    needed = images_needed(loss, limit)
    measured = "The measured loss meets --max-drop, but " if gate == "met" else ""
    why = f"{measured}{loss.n} images ({loss.how}) leave the loss anywhere {seen}; the limit is {limit:g}"
    if needed is None:
        more = "More images would not soon tell: the measured loss is at the limit"
    else:
        answer = "a yes" if Acceptance(limit).allows(loss.drop_points or 0.0) else "a no"
        more = f"About {rounded(needed)} images would tell ({answer}, if the loss stays as measured)"
    return Verdict("can't tell", f"{why}. {more}", limit, origin, needed)


def unlabelled(loss: Loss, limit: float, origin: str) -> Verdict:
    """Without labels: no more can be lost than has changed."""
    most = 100 * (1 - loss.agreement_low)
    changed = f"at most {tenths(most)} % of predictions change (95 %, n = {loss.n}, {loss.how})"
    if Acceptance(limit).allows(most):
        return Verdict(
            "yes", f"{changed}, so no more than the limit of {limit:g} points can be lost", limit, origin
        )
    why = f"the images have no labels; {changed}, and some of the changes may be for the better"
    return Verdict("can't tell", f"{why}. Labelled images would tell", limit, origin)


def images_needed(loss: Loss, limit: float) -> int | None:
    """The fewest images whose interval would leave the limit out, at the rates seen; None beyond a million."""
    if loss.lost is None:
        return by_spread(loss, limit)
    lost, won = loss.lost / loss.n, (loss.won or 0) / loss.n

    def tells(n: int) -> bool:
        low, high = paired_interval(round(lost * n), round(won * n), n)
        return Acceptance(limit).proves(100 * low, 100 * high) is not None

    low, high = loss.n, loss.n
    while not tells(high):
        low, high = high, 2 * high
        if high > MAX_IMAGES:
            return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high


def by_spread(loss: Loss, limit: float) -> int | None:
    """The same for a loss that is no count of images: its interval narrows with the root of their number."""
    half = ((loss.drop_high or 0.0) - (loss.drop_low or 0.0)) / 2
    apart = abs((loss.drop_points or 0.0) - limit)
    needed = math.ceil(loss.n * (half / apart) ** 2) if apart else MAX_IMAGES + 1
    return needed if needed <= MAX_IMAGES else None


def tenths(value: float) -> str:
    """Percentage points with their sign where they are a gain, no more digits than the images carry."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "\u2212")


def rounded(n: int) -> str:
    """A count to two digits: it is an estimate."""
    digits = max(0, len(str(n)) - 2)
    return f"{round(n, -digits):,}".replace(",", "\u00a0")
