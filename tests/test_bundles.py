"""What holds for every bundle: those in bundles/, by their being there, and one made for the tests.

These are the checks of MONAI's model zoo, run offline on the CPU, and that `volad segment` and
`python -m monai.bundle run` are one and the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from io_helpers import save_nifti
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from pipeline_helpers import (
    bundle_copy,
    grid,
    head,
    healthy_set,
    ready_bundle,
    save_head,
    sha256,
    write_training_manifest,
)

from volad import bundle, distributed
from volad.cli import main
from volad.errors import UsageError
from volad.methods._base import Method
from volad.preprocess.align import load_template
from volad.skeleton.docs import MULTI_GPU

REPOSITORY = Path(__file__).parents[1]
SCHEMA = REPOSITORY / "tests" / "data" / "meta_schema.json"
REAL_MR = REPOSITORY / "tests" / "data" / "IXI646-HH-2653_T1.nii.gz"
#: The bundle of the tests, beside which every folder in bundles/ is a shipped one.
MADE = "made for the tests"
SHIPPED = sorted(f.name for f in (REPOSITORY / "bundles").iterdir() if f.is_dir())
CPU = "$torch.device('cpu')"

every_bundle = pytest.mark.parametrize("name", [*SHIPPED, MADE])


def one_of_each_method() -> list[str]:
    """The first shipped bundle of each method that can be traced, and the one of the tests.

    `auto_context` refuses to be, see `test_auto_context`.
    """
    first: dict[str, str] = {}
    for name in SHIPPED:
        config = json.loads((REPOSITORY / f"bundles/{name}/configs/inference.json").read_text())
        method = config["network_def"]["_target_"]
        if not method.endswith("AutoContext"):
            first.setdefault(method, name)
    return [*first.values(), MADE]


def root_of(name: str) -> Path:
    return ready_bundle() if name == MADE else REPOSITORY / "bundles" / name


def config_of(name: str, which: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root_of(name) / "configs" / f"{which}.json").read_text())
    return found


def paths(name: str, which: str) -> dict[str, str]:
    """A config and its metadata, as MONAI's tools take them."""
    configs = root_of(name) / "configs"
    return {
        "config_file": str(configs / f"{which}.json"),
        "meta_file": str(configs / "metadata.json"),
    }


@cache
def healthy_mr(folder: Path) -> Path:
    """Two healthy MR phantoms of 4 mm, without skull, and their manifest."""
    template = load_template()
    t1 = template.t1.reshape(40, 2, 48, 2, 44, 2).mean(axis=(1, 3, 5))
    scans = []
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(1, 0.02, t1.shape)
        scans.append(folder / f"mr{seed}.nii.gz")
        save_nifti(scans[-1], np.where(head(seed) > -1000, 1000 * t1 * noise + 1, 0), grid())
    return write_training_manifest(folder, scans[:1], scans[1:]).parent


def network_of(name: str) -> Method:
    method: Method = bundle.part(root_of(name), "network_def")
    return method


def example(name: str) -> torch.Tensor:
    """A batch of one such as the metadata promise to take."""
    image = config_of(name, "metadata")["network_data_format"]["inputs"]["image"]
    torch.manual_seed(0)
    return torch.rand(1, image["num_channels"], *image["spatial_shape"]) + 0.1


# The files


@every_bundle
def test_the_files_are_there(name: str) -> None:
    root = root_of(name)
    for file in (
        *("LICENSE", "docs/README.md", "docs/data_license.txt", "models/calibration.json"),
        *("configs/inference.json", "configs/train.json", "configs/metadata.json"),
        *("configs/logging.conf", "configs/multi_gpu_train.json"),
    ):
        assert (root / file).stat().st_size > 0, file
    assert 0 < (root / "models" / "model.pt").stat().st_size < 25e6


@every_bundle
def test_the_documents_are_filled_in(name: str) -> None:
    """`volad train` leaves a stub for the licence of the data; a shipped bundle must state it."""
    licence = (root_of(name) / "docs" / "data_license.txt").read_text()
    assert licence.startswith("State the licence") == (name == MADE)
    source = config_of(name, "metadata")["data_source"]
    assert source.startswith("state the source") == (name == MADE)
    assert config_of(name, "metadata")["name"] == root_of(name).name


@every_bundle
def test_the_version_is_in_the_changelog(name: str) -> None:
    metadata = config_of(name, "metadata")
    assert metadata["changelog"][metadata["version"]]


@every_bundle
def test_no_path_of_the_machine_that_made_it_is_left(name: str) -> None:
    for which in ("inference", "train", "multi_gpu_train", "metadata"):
        config = config_of(name, which)
        assert not re.search(r"/(work|root|home|tmp)/", json.dumps(config)), which


@every_bundle
def test_the_network_is_defined_once(name: str) -> None:
    target = config_of(name, "inference")["network_def"]["_target_"]
    module, cls = target.rsplit(".", 1)
    assert issubclass(getattr(import_module(module), cls), Method)
    train = (root_of(name) / "configs" / "train.json").read_text()
    assert "volad.methods" not in train
    assert json.loads(train)["network_def"] == {
        "_target_": "volad.bundle.part",
        "root": "@bundle_root",
        "name": "network_def",
    }


@every_bundle
def test_the_weights_are_tensors_that_fit_exactly(name: str) -> None:
    path = root_of(name) / "models" / "model.pt"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = network_of(name)
    network.load_state_dict(weights, strict=True)
    assert all(torch.isfinite(value).all() for value in weights.values())
    loaded = bundle.load_weights(network_of(name), path, "cpu").state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


@every_bundle
def test_the_calibration_is_of_healthy_scans_that_were_not_trained_on(name: str) -> None:
    stored = json.loads((root_of(name) / "models" / "calibration.json").read_text())
    assert np.isfinite(stored["threshold"])
    assert stored["healthy_scans"] == len(stored["scans"]) >= 2
    assert stored["realised"]["mean"] <= stored["promise"]["rate"] * 1.001
    hashes = [scan["sha256"] for scan in stored["scans"]]
    assert len(set(hashes)) == len(hashes)
    if name == MADE:
        used = {sha256(healthy_set() / "scans" / f"sub{n}.nii.gz") for n in (3, 4)}
        assert set(hashes) == used


# MONAI's own checks


@every_bundle
def test_the_metadata_are_valid(name: str) -> None:
    verify_metadata(meta_file=paths(name, "inference")["meta_file"], filepath=str(SCHEMA))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.pop("monai_version"),
        lambda m: m.update(version=1),
        lambda m: m["network_data_format"].pop("outputs"),
        lambda m: m["network_data_format"]["inputs"]["image"].pop("dtype"),
        lambda m: m["network_data_format"]["inputs"]["image"].update(spatial_shape=["a", 1, 1]),
    ],
)
def test_the_schema_refuses_what_it_should(spoil: Any) -> None:
    metadata = config_of(MADE, "metadata")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(metadata, schema)
    spoil(metadata)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(metadata, schema)


@every_bundle
def test_the_inference_workflow_is_complete(name: str, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        **paths(name, "inference"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(root_of(name)),
        dataset_dir=str(save_head(tmp_path / "scan.nii.gz")),
        output_dir=str(tmp_path / "out"),
        device=CPU,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@every_bundle
def test_the_training_workflow_is_complete(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    metadata = config_of(name, "metadata")
    from_ct = metadata["modality"] == "ct" and not metadata.get("simulated_training_data")
    data = healthy_set() if from_ct else healthy_mr(tmp_path_factory.mktemp("mr"))
    workflow = ConfigWorkflow(
        **paths(name, "train"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(root_of(name)),
        dataset_dir=str(data),
        manifest=str(data / "manifest.csv"),
        cache_dir=str(data / "cache"),
        device=CPU,
        workers=0,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(workflow.train_dataset) > 0


@every_bundle
def test_the_overlay_for_several_gpus_joins_the_processes_and_leaves_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real processes in `tests/test_distributed.py`."""
    calls: list[object] = []
    monkeypatch.setattr(distributed, "start", lambda device: calls.append(device))
    monkeypatch.setattr(distributed, "stop", lambda: calls.append("stop"))
    configs = [paths(name, which)["config_file"] for which in ("train", "multi_gpu_train")]
    workflow = ConfigWorkflow(configs, workflow_type="train", logging_file=False, seed=7)
    workflow.initialize()
    assert calls == [distributed.device()]
    assert torch.initial_seed() == 7
    workflow.finalize()
    assert calls[1:] == ["stop"]
    assert config_of(name, "multi_gpu_train") == MULTI_GPU


@every_bundle
def test_the_network_takes_and_gives_what_the_metadata_promise(name: str) -> None:
    verify_net_in_out(net_id="network_def", **paths(name, "inference"), device="cpu")
    with torch.no_grad():
        assert network_of(name)(example(name)).shape[1] == 1


@pytest.mark.parametrize("name", one_of_each_method())
def test_a_traced_export_scores_the_same(name: str, tmp_path: Path) -> None:
    """For one bundle of each method, since a trace is slow and the code is the method's."""
    x = example(name)
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(root_of(name) / "models" / "model.pt"),
        **paths(name, "inference"),
        key_in_ckpt="",
        use_trace=True,
        input_shape=list(x.shape),
    )
    exported = torch.jit.load(tmp_path / "model.ts").eval()
    network = bundle.load_weights(
        network_of(name), root_of(name) / "models" / "model.pt", "cpu"
    ).eval()
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(exported(x), expected, rtol=1e-5, atol=1e-6)
        assert expected.std() > 0


# One way through


@every_bundle
def test_monai_and_volad_write_the_same(name: str, tmp_path: Path) -> None:
    """From another working directory than the bundle's, on a real head where it is for MR."""
    root = root_of(name)
    made = config_of(name, "metadata")["modality"] == "ct"
    scan = save_head(tmp_path / "head.nii.gz") if made else REAL_MR
    settings = {
        **paths(name, "inference"),
        "bundle_root": str(root),
        "dataset_dir": str(scan),
        "output_dir": str(tmp_path / "monai"),
        "device": CPU,
        "report": "False",
    }
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += [part for key, value in settings.items() for part in (f"--{key}", value)]
    environment = _one_thread()
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr

    segment = ["segment", str(scan), "-o", str(tmp_path / "volad"), "-b", str(root)]
    assert main([*segment, "--device=cpu", "--no-report"]) == 0
    stem = scan.name.removesuffix(".nii.gz")
    for kind in ("mask.nii.gz", "score.nii.gz", "lesions.csv"):
        ours, theirs = (tmp_path / who / f"{stem}_{kind}" for who in ("volad", "monai"))
        assert ours.read_bytes() == theirs.read_bytes(), kind


def _one_thread() -> dict[str, str]:
    here = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here}


# Finding and opening


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shelf of one shipped bundle, `head_ct_ae`."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    root = bundle_copy(folder)
    (folder / "unfinished").mkdir()
    monkeypatch.setattr(bundle, "shelf", lambda: folder)
    return root


def test_every_folder_on_the_shelf_is_listed() -> None:
    assert bundle.names() == SHIPPED


def test_a_bundle_is_found_by_name_or_folder(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundle.names() == ["head_ct_ae"]
    assert bundle.find("head_ct_ae") == shelf
    assert bundle.find(shelf) == shelf
    monkeypatch.chdir(shelf)
    assert bundle.find(".") == shelf
    with pytest.raises(UsageError, match="did you mean 'head_ct_ae'"):
        bundle.find("head_ct")
    with pytest.raises(UsageError, match="no bundle 'unfinished'"):
        bundle.find("unfinished")


def test_identity(shelf: Path) -> None:
    found = bundle.identity(shelf)
    assert (found.name, found.version, found.method) == ("head_ct_ae", "0.1.0", "ae")
    assert found.modality == "ct"
    assert found.weights_sha256 == sha256(shelf / "models" / "model.pt")
    assert not {"tails", "scans"} & set(found.calibration)
    (shelf / "models" / "model.pt").unlink()
    (shelf / "models" / "calibration.json").unlink()
    bare = bundle.identity(shelf)
    assert (bare.weights_sha256, bare.calibration) == ("", {})


def test_settings_that_a_bundle_does_not_have(shelf: Path) -> None:
    with pytest.raises(UsageError, match="bundle head_ct_ae has no setting 'colour'"):
        bundle.open_config(shelf, "inference", {"colour": 1})


def test_settings_hold_what_they_refer_to(shelf: Path) -> None:
    """The cache of preprocessed scans is named by them, so none may be forgotten."""
    config = config_of(MADE, "inference")
    found = bundle.settings(shelf, "preprocessing")
    assert found["preprocessing"] == config["preprocessing"]
    referred = set(re.findall(r"@(\w+)", json.dumps(config["preprocessing"])))
    assert "volume" in referred
    assert set(found) == {"preprocessing", *referred}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scan.nii.gz", "scan.nii.gz"),
        ("/data/a$b@c.nii", "/data/a$b@c.nii"),
        ("$exit()", "./$exit()"),
        ("@device", "./@device"),
        ("%x.json", "./%x.json"),
    ],
)
def test_paths_as_values(path: str, value: str) -> None:
    assert bundle.literal(path) == bundle.literal(Path(path)) == value
