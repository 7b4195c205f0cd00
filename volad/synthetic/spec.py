"""What a suite of synthetic lesions is made of: recipes for volumes, and the default suite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from volad.errors import InputError
from volad.io.guard import one_line, reading

__all__ = ["DEFAULT", "KINDS", "TEXTURES", "TISSUES", "Lesion", "Recipe", "Suite", "read_suite"]

#: `stroke`: the outline of a real stroke lesion; `ovoid`: longish, pointing away from the
#: ventricles, as in multiple sclerosis; `lacune`: a small round cavity.
KINDS = ("stroke", "ovoid", "lacune")
#: Where a lesion may lie. `white`: mostly white matter; `periventricular`: white matter beside the
#: lateral ventricles; `deep`: tissue far from the surface; `home`: about where the real lesion lay,
#: on either side.
TISSUES = ("white", "periventricular", "deep", "cortex", "anywhere", "home")
#: `own`: the tissue shows through; `smooth`: the tissue gives way to a texture of the lesion's own;
#: `core`: the change grows from the rim to the core.
TEXTURES = ("own", "smooth", "core")
#: Sizes that a kind's shapes can be scaled to without losing their look.
LIMITS_MM3 = {"stroke": (40.0, 150_000.0), "ovoid": (10.0, 5_000.0), "lacune": (5.0, 2_000.0)}


@dataclass(frozen=True)
class Lesion:
    """One lesion to make.

    Args:
        kind: one of `KINDS`.
        mm3: its size in the scan, before it is cut at the brain's and the ventricles' borders.
        tissue: one of `TISSUES`.
    """

    kind: str
    mm3: float
    tissue: str

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("tissue", self.tissue, TISSUES)
        _within("mm3", self.mm3, *LIMITS_MM3[self.kind])
        if self.tissue == "home" and self.kind != "stroke":
            raise ValueError(f"tissue 'home' is for strokes, got {self.kind!r}")


@dataclass(frozen=True)
class Recipe:
    """One volume to make: lesions of one look.

    Args:
        contrast: how much brighter (negative: darker) a lesion is than the tissue it is in, as a
            share of the scan's own difference between white and grey matter.
        texture: one of `TEXTURES`.
        mass_effect: share of a lesion's volume that pushed tissue away to make room; 0: none.
        edge_mm: standard deviation of the blur of the outline; the scan's own partial volume comes
            on top.
        lesions: what to make.
    """

    contrast: float
    texture: str
    mass_effect: float
    edge_mm: float
    lesions: tuple[Lesion, ...]

    def __post_init__(self) -> None:
        _within("contrast", abs(self.contrast), 0.01, 5.0)
        _one_of("texture", self.texture, TEXTURES)
        _within("mass_effect", self.mass_effect, 0.0, 0.8)
        _within("edge_mm", self.edge_mm, 0.0, 5.0)
        if not 1 <= len(self.lesions) <= 255:
            raise ValueError(f"a volume has 1 to 255 lesions, got {len(self.lesions)}")


@dataclass(frozen=True)
class Suite:
    """What is made of every scan.

    Every scan gives one untouched copy, one with atrophy and `volumes` lesioned ones. From one
    lesioned volume to the next the contrast moves on in its list, and with it, but not in step,
    texture, mass effect and edge: few scans show every contrast, many all combinations.

    Args:
        contrasts: see `Recipe.contrast`.
        textures: see `Recipe.texture`.
        mass_effects: see `Recipe.mass_effect`.
        edges_mm: see `Recipe.edge_mm`.
        lesions: what is in every lesioned volume; what finds no place is left out and listed.
        volumes: lesioned volumes a scan.
        atrophy: by how much the ventricles grow in the scan with atrophy, as a share; sulci grow by
            a quarter of it.
        size_bins_mm3: borders of the size bins, ascending.
    """

    contrasts: tuple[float, ...]
    textures: tuple[str, ...]
    mass_effects: tuple[float, ...]
    edges_mm: tuple[float, ...]
    lesions: tuple[Lesion, ...]
    volumes: int
    atrophy: float
    size_bins_mm3: tuple[float, ...]

    def __post_init__(self) -> None:
        if isinstance(self.volumes, bool) or not isinstance(self.volumes, int) or self.volumes < 1:
            raise ValueError(f"volumes must be a whole number from 1, got {self.volumes!r}")
        _within("atrophy", self.atrophy, 0.05, 2.0)
        for name in ("contrasts", "textures", "mass_effects", "edges_mm"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        bins = self.size_bins_mm3
        if len(bins) == 0 or any(not low < high for low, high in pairwise(bins)):
            raise ValueError(f"size_bins_mm3 must ascend, got {list(bins)}")
        # Whatever the lists hold must make a recipe.
        for number in range(math.prod(map(len, self._lists()))):
            self.recipe(number)

    def recipe(self, number: int) -> Recipe:
        """The recipe of the suite's n-th lesioned volume, from 0."""
        chosen, digits, rest = [], [], number
        for values in self._lists():
            digits.append(rest % len(values))
            rest //= len(values)
            # A Latin square: each list moves from volume to volume, none in step with another.
            turn = digits[-1] + sum(j * digit for j, digit in enumerate(digits[:-1], start=1))
            chosen.append(values[turn % len(values)])
        contrast, texture, mass_effect, edge_mm = chosen
        return Recipe(contrast, texture, mass_effect, edge_mm, self.lesions)

    def size_bin(self, mm3: float) -> str:
        """The name of the size bin that a lesion is in."""
        return size_bin(mm3, self.size_bins_mm3)

    def to_json(self) -> dict[str, Any]:
        """All settings, as `read_suite` takes them."""
        return asdict(self)

    def _lists(self) -> tuple[tuple[Any, ...], ...]:
        return self.contrasts, self.textures, self.mass_effects, self.edges_mm


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value!r}")


DEFAULT = Suite(
    contrasts=(-1.0, 0.5, -0.25, 2.0, -2.0, 1.0, -0.5, 0.25),
    textures=("own", "smooth", "core"),
    mass_effects=(0.0, 0.4, 0.0),
    edges_mm=(0.8,),
    lesions=(
        Lesion("stroke", 20_000.0, "home"),
        Lesion("stroke", 6_000.0, "anywhere"),
        Lesion("stroke", 2_000.0, "cortex"),
        Lesion("stroke", 700.0, "white"),
        Lesion("ovoid", 250.0, "periventricular"),
        Lesion("ovoid", 120.0, "white"),
        Lesion("lacune", 60.0, "deep"),
    ),
    volumes=4,
    atrophy=1.0,
    size_bins_mm3=(0.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0),
)


def size_bin(mm3: float, borders: Sequence[float]) -> str:
    """Name the size bin of a volume: `100-500` holds what is at least 100 and below 500 mm³."""
    bins = [-math.inf, *borders, math.inf]
    for low, high in pairwise(bins):
        if low <= mm3 < high:
            if high == math.inf:
                return f"{low:g}+"
            return f"{max(low, 0):g}-{high:g}"
    raise ValueError(f"no size bin for {mm3}")


def read_suite(path: Path | str) -> Suite:
    """Read a suite from JSON: keys of `Suite`; those left out are the default's.

    Raises:
        InputError: unreadable, an unknown key, or a value that cannot be.
    """
    path = Path(path)
    with reading(path):
        content = path.read_bytes()
    try:
        given = json.loads(content)
        return _suite(given)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: no suite of lesions ({one_line(error)})") from error


def _suite(given: Any) -> Suite:
    if not isinstance(given, Mapping):
        raise ValueError("an object with the settings is needed")
    known = [field.name for field in fields(Suite)]
    for key in given:
        if key not in known:
            raise ValueError(f"unknown setting {key!r}; there are {', '.join(known)}")
    values: dict[str, Any] = {f.name: getattr(DEFAULT, f.name) for f in fields(Suite)}
    for key, value in given.items():
        values[key] = tuple(value) if isinstance(value, list) else value
    values["lesions"] = tuple(
        lesion if isinstance(lesion, Lesion) else Lesion(**lesion) for lesion in values["lesions"]
    )
    return Suite(**values)
