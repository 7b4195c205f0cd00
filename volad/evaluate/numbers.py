"""The numbers of an evaluation: what each is called, and how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from volad.evaluate.settings import HEALTHY_RATES

__all__ = ["MAIN", "MASK_ML", "NUMBERS", "SCAN_AUROC", "Number", "number", "ordered", "written"]

#: What keys of scan-level AUROCs begin with, and the scan score that every result has.
SCAN_AUROC, MASK_ML = "scan_auroc:", "mask_ml"


@dataclass(frozen=True)
class Number:
    """What an estimate is.

    Attributes:
        key: in JSON and CSV.
        label: in tables.
        unit: empty for shares and counts.
        oracle: it looks at the labels.
        digits: after the point, in tables.
    """

    key: str
    label: str
    unit: str = ""
    oracle: bool = False
    digits: int = 3


def _at(rate: float) -> Number:
    return Number(f"dice_at_fpr_{100 * rate:g}", f"Dice at {100 * rate:g} % healthy FPR, mean")


NUMBERS = (
    Number("auprc_pooled", "voxel AUPRC, pooled"),
    Number("auprc_mean", "voxel AUPRC, mean of subjects"),
    Number("auroc_pooled", "voxel AUROC, pooled"),
    Number("dice_oracle_pooled", "Dice, pooled, oracle threshold (looks at labels)", oracle=True),
    Number("dice_oracle_mean", "Dice, mean, oracle threshold (looks at labels)", oracle=True),
    Number("dice_mean", "Dice, mean, mask as given (deployable)"),
    Number("dice_gap", "Dice, oracle minus deployable (looks at labels)", oracle=True),
    *(_at(rate) for rate in HEALTHY_RATES),
    Number("lesion_sensitivity", "lesion sensitivity"),
    Number("lesion_precision", "lesion precision"),
    Number("lesion_f1", "lesion F1"),
    Number("false_lesions_per_scan", "false lesions a scan", digits=2),
    Number("hd95_mm", "HD95, mean", "mm", digits=1),
    Number("assd_mm", "average surface distance, mean", "mm", digits=2),
    Number("nsd", "NSD, mean"),
    Number("volume_pearson", "lesion volume, Pearson r"),
    Number("volume_spearman", "lesion volume, Spearman rho"),
    Number("volume_bias_ml", "lesion volume, mask minus expert", "ml", digits=2),
    Number("healthy_fpr", "lesion-free scans: voxel FPR of the mask", digits=5),
    Number("healthy_false_ml", "lesion-free scans: false lesions, volume a scan", "ml", digits=2),
    Number("healthy_false_lesions", "lesion-free scans: false lesions a scan", digits=2),
)

#: What a subgroup's table shows; the JSON and the CSV have all.
MAIN = (
    "auprc_pooled",
    "dice_oracle_pooled",
    "dice_oracle_mean",
    "dice_mean",
    "lesion_sensitivity",
    "lesion_precision",
    "false_lesions_per_scan",
)

_BY_KEY = {one.key: one for one in NUMBERS}


def number(key: str) -> Number:
    """What a key stands for; scan-level AUROCs are named after their score."""
    if key.startswith(SCAN_AUROC):
        name = key.removeprefix(SCAN_AUROC)
        what = "mask's volume" if name == MASK_ML else name
        return Number(key, f"scan AUROC of {what}")
    return _BY_KEY[key]


def ordered(keys: Iterable[str]) -> list[str]:
    """Keys in the order of the tables, each once."""
    given = dict.fromkeys(keys)
    return [key for key in _BY_KEY if key in given] + [key for key in given if key not in _BY_KEY]


def written(key: str, interval: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """A number with its limits as text; a dash where there is none.

    Args:
        key: what it is.
        interval: `value`, `low` and `high`, each a float or `None`.
        signed: write the sign of positive numbers too, as for differences.
    """
    if interval is None or interval["value"] is None:
        return "–"
    digits, sign = number(key).digits, "+" if signed else ""
    value, low, high = (
        "–" if interval[part] is None else f"{interval[part]:{sign}.{digits}f}"
        for part in ("value", "low", "high")
    )
    return f"{value} (no limits)" if "–" in (low, high) else f"{value} ({low} to {high})"
