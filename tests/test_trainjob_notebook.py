"""The workbench's notebook runs from its first cell to its last, on this machine."""

from pathlib import Path
from typing import Any

import dagster as dg
import nbformat
import pytest
from nbclient import NotebookClient
from trainjob_jobs import processes_below, wait_until

from feature_repo.database import VARIABLES, PostgresSettings
from feature_repo.paths import PROJECT_ROOT
from forecast_assets.definitions import defs

NOTEBOOK = PROJECT_ROOT / "docs" / "notebooks" / "workbench.ipynb"
BEFORE_THE_FRAME = dg.AssetSelection.assets("training_frame").upstream() - dg.AssetSelection.assets("training_frame")


def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(document: Any) -> list[Any]:
    return [cell for cell in document.cells if cell.cell_type == "code"]


def test_it_is_committed_without_outputs() -> None:
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(notebook()))


# Of matplotlib's, about few weeks on an axis: the pictures of the graph are not the point here.
@pytest.mark.filterwarnings("ignore:AutoDateLocator was unable")
def test_it_leads_from_a_frame_to_the_forecasts_of_a_model(
    database: PostgresSettings, small_drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (database.host, str(database.port), database.database, database.user, database.password, database.sslmode)
    for name, value in zip(VARIABLES, address, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LANDING_DIR", str(small_drop))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    monkeypatch.setenv("FORECAST_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with dg.DagsterInstance.ephemeral() as instance:
        loaded = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=list(BEFORE_THE_FRAME.resolve(defs.resolve_asset_graph()))
        )
    assert loaded.success

    document = notebook()
    client = NotebookClient(document, timeout=180, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()

    outputs = [output for cell in code_cells(document) for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "torch-distributed | torch" in printed
    assert "[Rank 0] INFO epoch epoch=3" in printed
    assert "Complete [('node-0', 'Succeeded')]" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "data" / "models" / "bundles" / "workbench" / "best_model.pt").exists()
    wait_until(lambda: not processes_below(tmp_path), 5)
