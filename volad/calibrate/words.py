"""A promise and how sure it is, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volad.calibrate.promise import CONFIDENCE, Promise

if TYPE_CHECKING:
    from volad.calibrate.calibration import Calibration

__all__ = ["amount", "guarantee", "meaning", "report"]

_NAMES = {
    "voxel_fpr": "of a scan's brain voxels above the threshold",
    "false_mm3": "of false-positive lesions in a scan's mask",
    "false_lesions": "in a healthy scan's mask",
}


def amount(value: float, of: str) -> str:
    """A value of a promise's quantity with its unit."""
    if of == "voxel_fpr":
        return f"{100 * value:.3g} %"
    if of == "false_mm3":
        return f"{_plain(value)} mm³"
    return f"{_plain(value)} false lesion" + ("" if value == 1 else "s")


def meaning(promise: Promise) -> str:
    """What is promised."""
    most = f"at most {amount(promise.rate, promise.of)} {_NAMES[promise.of]}"
    if promise.kind == "each":
        return f"a new healthy scan has, with probability {promise.level:.3g}, {most}"
    return (
        f"on average over new healthy scans, {most}; "
        f"one scan counts at most {amount(promise.bound, promise.of)}"
    )


def guarantee(promise: Promise, scans: int, subjects: int) -> str:
    """Why it holds, and when."""
    who = f"{scans} scans{_counted(scans, subjects)}"
    alike = (
        f"holds exactly for {who} calibrated on and new ones that are alike (same kind of "
        "people, scanner and sequence), whatever the detector; over draws of both"
    )
    if promise.kind == "mean":
        return f"conformal risk control (Angelopoulos et al. 2022): {alike}"
    return f"split conformal prediction (Vovk et al. 2005): {alike}"


def report(found: Calibration) -> str:
    """What `volad calibrate` prints."""
    promise, count, subjects = found.promise, len(found.scans), found.subjects
    scans = f"{count}{_counted(count, subjects)}"
    lines = [
        ("promise", meaning(promise)),
        ("threshold", f"{found.threshold:.6g}"),
        ("healthy scans", f"{scans} ({promise.scans_needed()} are the fewest for this promise)"),
        ("on these scans", _realised(found)),
        ("guarantee", guarantee(promise, count, subjects)),
        ("how sure", _sureness(found)),
        ("more scans", _tighter(promise)),
        *([("by contrast", _by_contrast(found))] if found.contrasts else []),
    ]
    return "\n".join(f"{name + ':':16}{text}" for name, text in lines)


def _counted(scans: int, subjects: int) -> str:
    """What is to be said of scans where some are of one subject."""
    return "" if scans == subjects else f" of {subjects} subjects, each of whom counts as one,"


def _by_contrast(found: Calibration) -> str:
    own = (
        f"{name} {one.threshold:.6g} ({len(one.scans)} scans)"
        for name, one in found.contrasts.items()
    )
    return f"{', '.join(own)}: scans like these get these thresholds, and each keeps the promise"


def _realised(found: Calibration) -> str:
    of, losses = found.promise.of, found.losses
    within = sum(loss <= found.promise.rate for loss in losses)
    parts = {"mean": sum(losses) / len(losses), "lowest": min(losses), "highest": max(losses)}
    said = ", ".join(f"{name} {amount(value, of)}" for name, value in parts.items())
    room = ""
    if found.promise.kind == "mean":  # so that a high threshold from few scans is understood
        room = f"; capped as said, the mean is {amount(found.mean_capped, of)}, and so many scans "
        room += f"leave room for {amount(found.promise.room(found.subjects), of)}"
    return f"{said}{room}; {within} of {len(losses)} stay within {amount(found.promise.rate, of)}"


def _sureness(found: Calibration) -> str:
    of_ten = f"in {round(10 * CONFIDENCE)} of 10 such calibrations"
    sure = found.sureness()
    if found.promise.kind == "mean":
        most = amount(sure["mean_at_most"], found.promise.of)
        return f"{of_ten} the true mean, capped as said, is at most {most}"
    low, high = sure["coverage_between"]
    return f"{of_ten} between {low:.0%} and {high:.0%} of new healthy scans stay within"


def _tighter(promise: Promise) -> str:
    """How many scans closer promises take."""
    if promise.kind == "each":
        levels = [x for x in (0.8, 0.9, 0.95, 0.99) if x > promise.level]
        takes = [f"{Promise(kind='each', level=x).scans_needed()} for {x:.0%}" for x in levels]
        return ", ".join(takes) or "the level is as high as is usual"
    share = promise.bound / promise.rate
    takes = [
        f"{Promise(promise.of, promise.rate, cap=2 * share).scans_needed()} if one scan may count "
        f"{amount(2 * promise.bound, promise.of)}"
        if promise.of != "voxel_fpr" or 2 * promise.bound < 1
        else "",
        f"{round(2 * share) - 1} for half the rate, {amount(promise.rate / 2, promise.of)}, "
        "if one counts as now",
    ]
    return "at least " + "; ".join(text for text in takes if text)


def _plain(value: float) -> str:
    """Three digits, and no exponent below a million."""
    return f"{value:.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"
