"""The code location and the commands around it, as typed in a checkout with no environment prepared."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dagster_ui import ask, free_port

from benchmarks.processes import without_settings
from feature_repo.paths import PROJECT_ROOT

HEAVY = ("feast", "kubernetes", "kubeflow", "matplotlib", "pandera", "ray", "torch")


def bare_environment(tmp_path: Path) -> dict[str, str]:
    """The caller's environment without anything that is the project's or Dagster's."""
    return {**without_settings(), "FORECAST_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout without ``var`` and without its owner's ``.env``, which Dagster reads, over the environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in PROJECT_ROOT.iterdir():
        if path.name not in {".env", "var"}:
            (folder / path.name).symlink_to(path)
    return folder


def test_loading_the_code_location_imports_none_of_the_heavy_packages() -> None:
    code = "import sys, forecast_assets.definitions; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "dagster" in loaded
    assert sorted(set(loaded) & set(HEAVY)) == []


@pytest.mark.parametrize("arguments", [(), ("-w", "workspace.yaml"), ("-m", "forecast_assets.definitions")])
def test_definitions_validate_from_pyproject_from_the_workspace_and_by_module(
    arguments: tuple[str, ...], checkout: Path, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", *arguments],
        cwd=checkout,
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert "All code locations passed validation" in result.stdout + result.stderr


def test_every_asset_says_what_it_is_and_who_owns_it() -> None:
    from forecast_assets.definitions import defs

    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}

    assert {name: spec.group_name for name, spec in specs.items()} == {
        "train_csv": "raw",
        "features_csv": "raw",
        "stores_csv": "raw",
        "sales_features": "features",
        "store_features": "features",
        "sales_windows": "features",
        "feast_registry": "feature_store",
        "sales_history_features": "feature_store",
        "store_external_features": "feature_store",
        "sales_window_features": "feature_store",
        "feature_transformations": "feature_store",
        "temporal_transformations": "feature_store",
        "training_frame": "feature_store",
        "candidate_model": "model",
        "champion_model": "model",
        "online_features": "serving",
        "weekly_forecasts": "serving",
        "horizon_forecasts": "serving",
        "forecast_accuracy": "serving",
        "backtest": "serving",
    }
    assert [name for name, spec in specs.items() if not (spec.description and spec.owners and spec.kinds)] == []


def test_dagster_dev_serves_the_graph_and_leaves_no_process_behind(checkout: Path, tmp_path: Path) -> None:
    port = free_port()
    home = tmp_path / "home"
    home.mkdir()
    ui = subprocess.Popen(
        [sys.executable, "-m", "dagster", "dev", "-p", str(port)],
        cwd=checkout,
        env={**bare_environment(tmp_path), "DAGSTER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assets = _wait_for_assets(port)
        children = psutil.Process(ui.pid).children(recursive=True)
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(timeout=60)

    assert "weekly_forecasts" in assets
    assert len(assets) == 20
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def _wait_for_assets(port: int) -> list[str]:
    deadline = time.monotonic() + 60
    while not (nodes := ask(port, "{ assetNodes { assetKey { path } } }")["assetNodes"]):
        assert time.monotonic() < deadline, "the code location was not loaded within a minute"
        time.sleep(0.5)
    return [node["assetKey"]["path"][-1] for node in nodes]
