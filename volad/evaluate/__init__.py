"""Judge masks and score maps against expert masks: the only room that reads lesion masks.

`evaluate` does the whole job from files; `Survey`, `Evaluation` and `compare` judge cases in
memory, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volad.evaluate.case import Case
from volad.evaluate.evaluation import Evaluation, Summary, Survey, compare
from volad.evaluate.facts import facts_of
from volad.evaluate.files import ResultSet, parse_results
from volad.evaluate.numbers import MAIN, written
from volad.evaluate.run import Job, judge, parse_bundles
from volad.evaluate.settings import Settings, Thresholds
from volad.evaluate.tables import case_facts, cases_csv, summary_csv, terminal
from volad.io import ensure_writable, write_json, write_text
from volad.report.evaluation import render_evaluation

__all__ = [
    "Case",
    "Evaluation",
    "Job",
    "ResultSet",
    "Settings",
    "Summary",
    "Survey",
    "Thresholds",
    "compare",
    "evaluate",
    "parse_bundles",
    "parse_results",
    "terminal",
]


def evaluate(job: Job, output: Path | str) -> Mapping[str, Any]:
    """Judge folders of results and write `evaluation.json`, `.html`, `summary.csv`, `cases.csv`.

    Args:
        job: what to judge.
        output: folder for the four files; made where it is not there.

    Returns:
        What `evaluation.json` holds.

    Raises:
        InputError: a manifest, mask, map or sidecar that cannot be used, or is missing.
        UsageError: a column, result set or bundle that is not there.
        VoladError: the output cannot be written.
    """
    output = Path(output)
    ensure_writable(output)
    judged = judge(job)
    facts = facts_of(job, judged)
    cases = [case_facts(one.results.name, row) for one in judged for row in one.evaluation.rows]
    page = render_evaluation(facts, cases, written, MAIN)
    write_text(output / "cases.csv", cases_csv(cases))
    write_text(output / "summary.csv", summary_csv(facts))
    write_text(output / "evaluation.html", page)
    write_json(output / "evaluation.json", facts)
    return facts
