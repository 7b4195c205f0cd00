"""What can be said of the container and the schedulers' files without building or queueing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import volad
from volad.errors import InputError

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SCRIPTS = [
    *(ROOT / "tools" / name for name in ("container", "slurm_cluster")),
    *sorted((DEPLOY / "slurm").iterdir()),
    DEPLOY / "container" / "constraints",
]
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, **options
    )


def pins() -> dict[str, str]:
    """Name and version of every line of the constraints file."""
    lines = (DEPLOY / "container" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def resources() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]


def job(name: str) -> dict[str, Any]:
    """The `spec` of a Kubernetes Job."""
    (found,) = (r for r in resources() if r["kind"] == "Job" and r["metadata"]["name"] == name)
    return dict(found["spec"])


# The image.


def test_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert int(user) > 0 < int(group)


def test_every_version_in_the_image_is_pinned() -> None:
    assert ":latest" not in DOCKERFILE
    assert re.search(r"^ARG BASE=python:\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    for install in re.findall(r"pip install [^\n&]*(?:\\\n[^\n&]*)*", DOCKERFILE):
        assert "-c constraints.txt" in install or "--no-index --no-deps" in install, install
    assert set(re.findall(r"torch={2,3}([\d.]+)", DOCKERFILE)) == {pins()["torch"]}


def test_constraints_hold_all_that_volad_needs() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    for requirement in map(packaging.Requirement, wanted):
        name = requirement.name.lower()
        assert name in pins()
        assert requirement.specifier.contains(pins()[name]), requirement


def test_build_context_holds_what_is_copied() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert any(f"!{parent}" in ignored for parent in (source, *Path(source).parents)), (
                source
            )


def test_pip_settings_name_only_what_is_mounted(tmp_path: Path) -> None:
    tool = load(ROOT / "tools" / "pip_settings.py")
    wheels, index, certificate = tmp_path / "wheels", tmp_path / "pypi" / "simple", tmp_path / "ca"
    wheels.mkdir()
    index.mkdir(parents=True)
    certificate.touch()
    listed = (
        f":env:.cert='{certificate}'\n"
        f"global.cert='/not/this/one'\n"
        f"global.extra-index-url='file://{index} https://index.example/simple'\n"
        f"global.find-links='{wheels}'\n"
        "global.progress-bar='off'\n"
    )
    text, mounts = tool.translate(listed)
    assert str(tmp_path) not in text
    assert text.splitlines() == [
        "[global]",
        "cert = /run/pip/0",
        "extra-index-url = file:///run/pip/1/simple https://index.example/simple",
        "find-links = /run/pip/2",
    ]
    assert {str(there): here for here, there in mounts.items()} == {
        "/run/pip/0": certificate,
        "/run/pip/1": index.parent,  # an index links to files beside it
        "/run/pip/2": wheels,
    }


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Scripts.


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_sound(script: Path) -> None:
    checked = run("bash", "-n", script)
    assert checked.returncode == 0, checked.stderr
    if shutil.which("shellcheck"):
        found = run("shellcheck", script, cwd=ROOT)
        assert found.returncode == 0, found.stdout


def queue_task(folder: Path, code: int, restarts: int) -> tuple[int, str]:
    """Run the SLURM task with stand-ins for SLURM; its exit code and what it asked SLURM for."""
    asked = folder / "asked"
    asked.write_text("")
    stand_ins = {"srun": f"exit {code}", "scontrol": f'echo "$@" >> {asked}', "sleep": ""}
    for name, body in stand_ins.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\n{body}\n[ {name} != srun ] || echo "$@"\n')
        path.chmod(0o755)
    environ = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "70",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    script = DEPLOY / "slurm" / "segment.sbatch"
    ended = run("bash", script, "8", "in", "out", env=environ)
    return ended.returncode, asked.read_text().strip()


@pytest.mark.parametrize("code", [0, 2, 4, InputError.exit_code])
def test_slurm_task_does_not_try_again_in_vain(tmp_path: Path, code: int) -> None:
    assert queue_task(tmp_path, code, restarts=0) == (code, "")


@pytest.mark.parametrize(("code", "limit"), [(1, 3), (3, 3), (137, 3), (143, 20)])
def test_slurm_task_is_queued_again_a_bounded_number_of_times(
    tmp_path: Path, code: int, limit: int
) -> None:
    assert queue_task(tmp_path, code, restarts=limit - 1) == (code, "requeue 70_3")
    assert queue_task(tmp_path, code, restarts=limit) == (code, "")


# Kubernetes.


@pytest.mark.parametrize("version", ["1.29", "1.31", None])
def test_kubernetes_schema_is_met(version: str | None) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for resource in resources():
        validator.validate(resource, version or validator.latest_version(), strict=True)


def test_kubernetes_gives_up_on_what_cannot_work() -> None:
    spec = job("volad")
    assert spec["completionMode"] == "Indexed"
    assert spec["backoffLimitPerIndex"] > 0
    rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"]}
    values = rules["FailIndex"]["onExitCodes"]["values"]
    assert InputError.exit_code in values
    assert not {0, 1, 3, 137, 143} & set(values)  # a retry may help
    assert values == sorted(values)  # the API server wants them in order
    assert rules["Ignore"]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # else there is no such policy


def test_kubernetes_shards_are_as_many_as_volad_is_told() -> None:
    spec = job("volad")
    (container,) = spec["template"]["spec"]["containers"]
    assert f"--num-shards={spec['completions']}" in container["args"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("name", ["volad", "volad-merge"])
def test_kubernetes_pod_is_confined(name: str) -> None:
    pod = job(name)["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"volad:{volad.__version__}"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("name", ["volad", "volad-merge"])
def test_kubernetes_arguments_are_volads(name: str) -> None:
    from volad.cli import _parser

    (container,) = job(name)["template"]["spec"]["containers"]
    assert _parser().parse_args(container["args"]).output is not None


# Snakemake.


def test_snakemake_plans_every_shard_and_the_merge(tmp_path: Path) -> None:
    snakemake = shutil.which(
        "snakemake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if snakemake is None:
        pytest.skip("no snakemake here")
    (tmp_path / "scans").mkdir()
    config = ["input=scans", "output=results", "shards=3"]
    workflow = DEPLOY / "snakemake" / "Snakefile"
    planned = run(
        *(snakemake, "-s", workflow, "--dry-run", "--printshellcmds", "--cores", 1),
        *("--config", *config),
        cwd=tmp_path,
    )
    assert planned.returncode == 0, planned.stderr
    text = planned.stdout + planned.stderr
    for shard in range(3):
        assert f"--num-shards 3 --shard-index {shard}" in text
    assert text.count("volad merge results --expect scans") == 1
