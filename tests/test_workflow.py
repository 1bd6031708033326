"""The example workflow of continuous integration names only what there is."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.resources import Artifacts

WORKFLOW = yaml.safe_load((PROJECT_ROOT / ".github" / "workflows" / "ci.yml").read_text())
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def commands(program: str) -> Iterator[list[str]]:
    """What follows ``program`` in each line that a step runs."""
    for step in STEPS:
        for line in step.get("run", "").splitlines():
            first, *rest = shlex.split(line)
            if first == program:
                yield rest


def test_every_step_runs_a_command_that_is_looked_at_here_or_an_action_of_a_fixed_version() -> None:
    programs = {shlex.split(line)[0] for step in STEPS for line in step.get("run", "").splitlines()}

    assert programs == {"make", "echo", "python", "dagster"}
    assert [step for step in STEPS if "run" not in step and not step["uses"].rpartition("@v")[2].isdigit()] == []


@pytest.mark.parametrize("target", [target for targets in commands("make") for target in targets])
def test_make_knows_every_target(target: str) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", target], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )

    assert planned.returncode == 0, planned.stderr


def test_python_is_a_version_that_the_package_supports_and_the_lock_file_is_there() -> None:
    setups = [step["with"] for step in STEPS if step.get("uses", "").startswith("actions/setup-python@")]

    assert {setup["python-version"] for setup in setups} == {"3.11"}
    assert all((PROJECT_ROOT / setup["cache-dependency-path"]).is_file() for setup in setups)


def test_the_sample_data_is_written_by_the_options_that_its_command_has(tmp_path: Path) -> None:
    ((dash_m, module, *options),) = commands("python")
    there = [option.replace("$LANDING_DIR", str(tmp_path)) for option in options]

    subprocess.run([sys.executable, dash_m, module, *there], cwd=PROJECT_ROOT, check=True, capture_output=True)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["features.csv", "stores.csv", "train.csv"]


def test_the_whole_graph_is_what_is_materialized_and_its_pictures_are_where_they_are_taken_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from forecast_assets.definitions import defs

    ((*command, dash_m, module, dash_select, selection),) = commands("dagster")
    graph = defs.resolve_asset_graph()
    monkeypatch.delenv("FORECAST_DATA_DIR")
    (upload,) = (step["with"]["path"] for step in STEPS if step.get("uses", "").startswith("actions/upload-artifact@"))

    assert (*command, dash_m, module, dash_select) == (
        *("asset", "materialize"),
        *("-m", "forecast_assets.definitions"),
        "--select",
    )
    assert dg.AssetSelection.from_string(selection).resolve(graph) == graph.materializable_asset_keys
    assert Artifacts().picture("any").parent == PROJECT_ROOT / upload
