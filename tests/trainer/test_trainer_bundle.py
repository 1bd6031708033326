import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_frames import made_up_table, publish_frame, replaced

from forecast_assets.training_run import bundle_name
from trainer import version
from trainer.bundle import bundle_hash, load_model, published, read_sidecar, write_sidecar
from trainer.distributed import joined_world
from trainer.errors import BundleError, FrameError
from trainer.forecaster import Forecaster
from trainer.frame import floats, read_frame
from trainer.inputs import Encoder
from trainer.job import run
from trainer.metrics import evaluate
from trainer.report import Report
from trainer.spec import DEFAULT_NUMERIC_FEATURES, TrainSpec
from trainer.version import code_version
from trainer.windows import validation_rows

FEATURES = (*DEFAULT_NUMERIC_FEATURES, "temperature", "markdown1", "has_markdown")


def train(spec: TrainSpec) -> None:
    with joined_world(spec) as world:
        run(spec, world, Report())


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    """A finished training: its bundle lies where the spec says."""
    root = tmp_path_factory.mktemp("training")
    spec = TrainSpec(
        frame_path=str(publish_frame(made_up_table(), root / "frame")),
        model_output_dir=str(root / "models" / "candidate"),
        numeric_features=FEATURES,
        hidden_dims=(32, 16),
        members=2,
        categorical_features=("store", "dept", "store_type"),
    )
    train(spec)
    return spec


@pytest.fixture(scope="module")
def forecaster(spec: TrainSpec) -> Forecaster:
    return load_model(spec.model_output_dir)


def test_bundled_forecaster_scores_what_the_training_reported(spec: TrainSpec, forecaster: Forecaster) -> None:
    rows = validation_rows(read_frame(spec.frame_path).table, spec)
    found = evaluate(floats(rows, spec.label), forecaster.predict(rows), floats(rows, spec.holiday))
    sidecar = read_sidecar(spec.model_output_dir)
    assert found == pytest.approx(sidecar["scores"], rel=1e-6)
    best = sidecar["history"][sidecar["training"]["best_epoch"] - 1]
    assert found == pytest.approx({name: best[name] for name in found}, rel=1e-6)


def test_model_beats_every_baseline(spec: TrainSpec) -> None:
    sidecar = read_sidecar(spec.model_output_dir)
    assert sidecar["scores"]["wmae"] < min(baseline["wmae"] for baseline in sidecar["baselines"].values())


def test_forecasts_do_not_depend_on_the_label(forecaster: Forecaster) -> None:
    table = made_up_table()
    expected = forecaster.predict(table)
    assert np.array_equal(forecaster.predict(replaced(table, weekly_sales=1e9)), expected)
    assert np.array_equal(forecaster.predict(table.drop_columns(["weekly_sales"])), expected)


def test_forecast_of_a_row_does_not_depend_on_the_rows_beside_it(forecaster: Forecaster) -> None:
    table = made_up_table()
    assert forecaster.predict(table.slice(1_000, 5)) == pytest.approx(forecaster.predict(table)[1_000:1_005], rel=1e-5)


def test_column_that_switches_on_after_training_cannot_change_forecasts(forecaster: Forecaster) -> None:
    table = made_up_table()
    switched = replaced(table, markdown1=1e9, has_markdown=True)
    assert np.array_equal(forecaster.predict(switched), forecaster.predict(replaced(table, markdown1=None)))


def test_driver_beyond_its_training_range_moves_forecasts_no_more_than_its_extreme(forecaster: Forecaster) -> None:
    table = made_up_table()
    hot, hotter = (forecaster.predict(replaced(table, temperature=degrees)) for degrees in (200.0, 1e6))
    assert np.array_equal(hot, hotter)


def test_unseen_stores_and_departments_without_any_history_get_a_sensible_forecast(forecaster: Forecaster) -> None:
    table = made_up_table(weeks=130).slice(0, 50)
    sales = [name for name in table.column_names if name.startswith("sales_")]
    cold = replaced(table, store=999, dept=999, **dict.fromkeys(sales))
    forecasts = forecaster.predict(cold)
    assert np.isfinite(forecasts).all()
    assert ((forecasts > 100) & (forecasts < 1e6)).all()
    assert np.isfinite(forecaster.predict(replaced(cold, store_type="Z", is_holiday=None, week_of_year=None))).all()


def test_missing_column_is_refused_by_name(forecaster: Forecaster) -> None:
    with pytest.raises(FrameError, match="lacks columns: sales_lag_1, temperature"):
        forecaster.predict(made_up_table().drop_columns(["temperature", "sales_lag_1"]))


def test_encoder_survives_a_trip_through_json(forecaster: Forecaster) -> None:
    assert Encoder.from_dict(json.loads(json.dumps(forecaster.encoder.to_dict()))) == forecaster.encoder


def test_checkpoint_loads_without_running_code(spec: TrainSpec) -> None:
    checkpoint = torch.load(Path(spec.model_output_dir) / "best_model.pt", weights_only=True)
    assert set(checkpoint) == {"MODEL_STATE", "OPTIMIZER_STATE", "EPOCH", "VAL_LOSS", "MODEL_CONFIG", "FEATURE_HASH"}


def test_training_again_gives_the_same_bundle_elsewhere(spec: TrainSpec, tmp_path: Path) -> None:
    frame = shutil.copytree(spec.frame_path, tmp_path / "frame")
    again = {**spec.to_dict(), "frame_path": str(frame), "model_output_dir": str(tmp_path / "bundle")}
    train(TrainSpec(**again))
    assert bundle_hash(tmp_path / "bundle") == bundle_hash(spec.model_output_dir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "frame"]


def test_bundle_names_the_code_it_was_made_by_and_that_follows_every_change_of_it(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_sidecar(spec.model_output_dir)["versions"]["code"] == code_version()
    frame, other = "0" * 64, Path(shutil.copytree(version.SOURCES, tmp_path / "trainer"))
    name = bundle_name(frame, {})
    monkeypatch.setattr(version, "SOURCES", other)
    assert bundle_name(frame, {}) == name
    with (other / "tft.py").open("a") as file:
        file.write("# changed")
    assert code_version() != read_sidecar(spec.model_output_dir)["versions"]["code"]
    assert bundle_name(frame, {}) != name


def test_new_bundle_replaces_the_old_one(spec: TrainSpec, tmp_path: Path) -> None:
    output = shutil.copytree(spec.model_output_dir, tmp_path / "bundle")
    train(TrainSpec(**{**spec.to_dict(), "model_output_dir": str(output), "num_epochs": 1}))
    assert read_sidecar(output)["spec"]["num_epochs"] == 1
    load_model(output)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(("file", "kept"), [("bundle.json", 0.5), ("bundle.json", 0), ("best_model.pt", 0.5)])
def test_damaged_bundle_is_replaced_by_the_one_of_a_retraining(
    spec: TrainSpec, tmp_path: Path, file: str, kept: float
) -> None:
    bundle = Path(shutil.copytree(spec.model_output_dir, tmp_path / "bundle"))
    content = (bundle / file).read_bytes()
    (bundle / file).write_bytes(content[: int(len(content) * kept)])
    with published(bundle) as draft:
        shutil.copytree(spec.model_output_dir, draft, dirs_exist_ok=True)
    load_model(bundle, data_version=bundle_hash(spec.model_output_dir))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_directory_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(BundleError, match=f"{tmp_path} holds files and no bundle.json"), published(tmp_path):
        pass
    assert (tmp_path / "precious").exists()


def test_corrupt_bundle_file_is_refused_with_both_hashes(spec: TrainSpec, tmp_path: Path) -> None:
    bundle = shutil.copytree(spec.model_output_dir, tmp_path / "bundle")
    with (bundle / "best_model.pt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"best_model\.pt is corrupt: sha256 is [0-9a-f]{64}, .* says [0-9a-f]{64}"):
        load_model(bundle)


def test_bundle_that_is_not_the_expected_version_is_refused_with_both_hashes(spec: TrainSpec, tmp_path: Path) -> None:
    version = bundle_hash(spec.model_output_dir)
    load_model(spec.model_output_dir, data_version=version)
    bundle = shutil.copytree(spec.model_output_dir, tmp_path / "bundle")
    sidecar = bundle / "bundle.json"
    sidecar.write_text(sidecar.read_text().replace('"overall_median": ', '"overall_median": 1'))
    with pytest.raises(BundleError, match=rf"its hash is [0-9a-f]{{64}}, expected {version}"):
        load_model(bundle, data_version=version)


def test_every_flipped_bit_of_the_sidecar_is_noticed(spec: TrainSpec, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(spec.model_output_dir, tmp_path / "bundle"))
    sidecar = bundle / "bundle.json"
    content = sidecar.read_bytes()
    step = len(content) // 300
    said = rf"bundle file {sidecar} .*: train again, or roll back to another bundle"
    for number, position in enumerate(range(0, len(content), step)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << number % 8
        sidecar.write_bytes(damaged)
        with pytest.raises(BundleError, match=said):
            read_sidecar(bundle)
    sidecar.write_bytes(content)
    assert read_sidecar(bundle) == read_sidecar(spec.model_output_dir)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every number, text and null of a JSON document, with the way to it."""
    if not isinstance(value, dict | list):
        yield path, value
        return
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(each, (*path, key))


def test_every_changed_value_of_the_sidecar_is_noticed(spec: TrainSpec, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(spec.model_output_dir, tmp_path / "bundle"))
    content = (bundle / "bundle.json").read_text()
    found = list(leaves(json.loads(content)))
    assert {path[0] for path, _ in found} >= {"encoder", "spread", "files", "scores", "spec", "sha256"}
    for (*way, last), value in found[:: len(found) // 100]:
        changed = json.loads(content)
        functools.reduce(lambda document, key: document[key], way, changed)[last] = f"{value}0"
        (bundle / "bundle.json").write_text(json.dumps(changed, indent=1, sort_keys=True) + "\n")
        with pytest.raises(BundleError, match="is corrupt"):
            load_model(bundle)


def test_sidecar_of_before_it_had_a_hash_is_refused_and_says_what_to_do(spec: TrainSpec, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(spec.model_output_dir, tmp_path / "bundle"))
    (bundle / "bundle.json").write_text(json.dumps(read_sidecar(bundle), indent=1, sort_keys=True) + "\n")
    with pytest.raises(BundleError, match=r"bundle\.json has no sha256 of its own, .*another version.*: train again"):
        load_model(bundle)


def test_numbers_as_keys_do_not_make_a_sidecar_seem_corrupt(tmp_path: Path) -> None:
    write_sidecar(tmp_path, {"weeks": {2: 0.1, 10: float("nan")}, "pair": (1, 1e300)})
    assert list(read_sidecar(tmp_path)["weeks"]) == ["10", "2"]


def test_incomplete_bundle_is_refused(spec: TrainSpec, tmp_path: Path) -> None:
    bundle = shutil.copytree(spec.model_output_dir, tmp_path / "bundle")
    (bundle / "best_model.pt").unlink()
    with pytest.raises(BundleError, match=r"best_model\.pt is missing"):
        load_model(bundle)
    (bundle / "bundle.json").unlink()
    with pytest.raises(BundleError, match=r"not complete: it has no bundle\.json"):
        load_model(bundle)


def test_bundle_of_another_version_of_the_trainer_is_refused_and_says_what_to_do(
    spec: TrainSpec, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(spec.model_output_dir, tmp_path / "bundle"))
    sidecar = read_sidecar(bundle)
    del sidecar["encoder"]["reads_windows"]
    write_sidecar(bundle, sidecar)
    with pytest.raises(BundleError, match=r"another version of the trainer \(KeyError: 'reads_windows'\): train again"):
        load_model(bundle)
