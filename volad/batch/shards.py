"""Share scans out among several runs, each as much work as the others, without their talking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from volad.errors import UsageError
from volad.io import Scan
from volad.io.size import voxel_count

__all__ = ["pick", "shard_of", "share_out"]


def pick(scans: Sequence[Scan], num_shards: int, shard_index: int) -> list[Scan]:
    """The scans of one shard, in their order.

    Raises:
        UsageError: there is no such shard.
    """
    if num_shards < 1 or not 0 <= shard_index < num_shards:
        raise UsageError(
            f"no shard {shard_index} of {num_shards}: shards are counted from 0 to N - 1"
        )
    if num_shards == 1:
        return list(scans)
    chosen = set(share_out([voxel_count(scan) for scan in scans], num_shards)[shard_index])
    return [scan for number, scan in enumerate(scans) if number in chosen]


def share_out(sizes: Sequence[int], shards: int) -> list[list[int]]:
    """Numbers of the items of each shard: the largest first, each to the shard with least so far.

    That is at most a third above the best there is (Graham 1969), and every run that has the same
    sizes finds the same.

    Args:
        sizes: of the items; one of unknown size counts as 1.
        shards: how many.
    """
    found: list[list[int]] = [[] for _ in range(shards)]
    loads = [0] * shards
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        lightest = loads.index(min(loads))
        found[lightest].append(number)
        loads[lightest] += max(sizes[number], 1)
    return found


def shard_of(
    num_shards: str | None, shard_index: int | None, environ: Mapping[str, str]
) -> tuple[int, int]:
    """How many shards there are and which one this run is, by its arguments and its scheduler.

    Args:
        num_shards: a number, or `auto` for the size of the SLURM array; None: no shards.
        shard_index: from 0; None: `JOB_COMPLETION_INDEX` (Kubernetes), else the place of
            `SLURM_ARRAY_TASK_ID` in its array.
        environ: the environment.

    Raises:
        UsageError: the arguments and the scheduler do not say it, or contradict each other.
    """
    if num_shards is None:
        if shard_index is not None:
            raise UsageError("--shard-index needs --num-shards: how many shards there are")
        return 1, 0
    count = _number(environ, "SLURM_ARRAY_TASK_COUNT")
    if num_shards == "auto":
        if count is None:
            raise UsageError("--num-shards auto needs SLURM_ARRAY_TASK_COUNT; give the number")
        shards = count
    else:
        shards = int(num_shards)
    if shard_index is None:
        shard_index = _from_scheduler(shards, count, environ)
    return shards, shard_index


def _from_scheduler(shards: int, count: int | None, environ: Mapping[str, str]) -> int:
    index = _number(environ, "JOB_COMPLETION_INDEX")
    if index is not None:
        return index
    task = _number(environ, "SLURM_ARRAY_TASK_ID")
    if task is None:
        raise UsageError(
            "--num-shards needs --shard-index, or a scheduler that sets JOB_COMPLETION_INDEX or "
            "SLURM_ARRAY_TASK_ID"
        )
    if count not in (None, shards):
        # As when some tasks of an array are submitted again: which shards they are is not said.
        raise UsageError(
            f"the SLURM array has {count} tasks and there are {shards} shards; give --shard-index"
        )
    first = _number(environ, "SLURM_ARRAY_TASK_MIN") or 0
    return (task - first) // (_number(environ, "SLURM_ARRAY_TASK_STEP") or 1)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{name} is no whole number: {text!r}") from error
