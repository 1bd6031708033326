"""What each benchmark has to show: its figures, the bounds that they are held to, and what they are compared with."""

from benchmarks.figures import Benchmark, Claim, Figure


def _claim(
    path: str,
    text: str,
    unit: str = "s",
    bound: float | None = None,
    *,
    beside: tuple[str, str] | None = None,
    more_is_better: bool = False,
) -> Claim:
    return Claim(
        figure=Figure(path, text, unit),
        bound=bound,
        more_is_better=more_is_better,
        beside=Figure(beside[0], beside[1], unit) if beside else None,
    )


FOLDS = ("Nov-Jan", "spring", "autumn")
NAIVE = ("lag_1", "lag_52", "lag_52_yoy")
LIGHTGBM = ("L1", "L2")

_ACCURACY = tuple(
    claim
    for fold in FOLDS
    for claim in (
        *(
            Claim(
                figure=Figure(f"{fold}.our MLP.wmae", f"WMAE, {fold}, beside {what}", "$"),
                beside=Figure(f"{fold}.{path}.wmae", text, "$", among),
            )
            for what, path, text, among in (
                ("naive forecasts", "*", "the best naive forecast", NAIVE),
                ("LightGBM", "LightGBM *, ext", "LightGBM", LIGHTGBM),
            )
        ),
        _claim(f"{fold}.our MLP.coverage", f"in the 80 % interval, {fold}", ""),
    )
)

_SCALING = tuple(
    _claim(f"{stage}_{path}", f"{text}{what}", unit)
    for stage, text in (
        ("tables", "CSV files to the feature tables"),
        ("frame", "training frame, written as Parquet"),
        ("materialization", "materialization of all series"),
        ("read", "online features of all series, imports included, in a new process"),
        ("epoch", "one epoch of training, evaluation included"),
    )
    for path, what, unit in (("seconds", "", "s"), ("mb", ": memory", "MB"))
)

BENCHMARKS: dict[str, Benchmark] = {
    "pipeline": Benchmark(
        module="pipeline",
        claims=(
            _claim("code_location_seconds", "the code location loads", bound=3),
            _claim("whole_graph_seconds", "the whole graph in a new folder, training included", bound=120),
            _claim("whole_graph_again_seconds", "the whole graph again, nothing new"),
            _claim("largest_process_mb", "largest process", "MB", 2_000),
            _claim("all_processes_mb", "all processes together, PostgreSQL's left out", "MB"),
        ),
        runs="One run.",
    ),
    "ingest": Benchmark(
        module="ingest",
        claims=(
            _claim(
                "seconds",
                "CSV files to both tables, validated and indexed",
                bound=5,
                beside=("pandas_seconds", "the usual pandas script, nothing validated"),
            ),
            _claim("one_week_seconds", "one more week onto the full tables", bound=1.5),
            _claim("peak_rss_mb", "memory", "MB", beside=("pandas_peak_rss_mb", "the script's")),
        ),
        runs="Medians of three runs.",
    ),
    "frame": Benchmark(
        module="frame",
        quick=("--size", "0.2", "--repeat", "3"),
        claims=(
            _claim(
                "seconds",
                "CSV files to training frame, tables published on the way",
                beside=("duckdb_seconds", "a DuckDB script, nothing validated or kept"),
            ),
            _claim("different_values", "values that differ from the script's", "", 0),
            _claim("peak_rss_mb", "memory", "MB", beside=("duckdb_peak_rss_mb", "the script's")),
        ),
        runs="Medians of three runs.",
    ),
    "retrieval": Benchmark(
        module="retrieval",
        claims=(
            _claim(
                "seconds",
                "the training frame, point in time",
                beside=("stock_seconds", "stock Feast on PostgreSQL, one run"),
            ),
            _claim("times_of_scan", "the frame, in multiples of a bare scan of the table", "x", 5),
            _claim("stock_ratio", "times faster than stock Feast", "x", 20, more_is_better=True),
            _claim("wrong_rows", "wrong rows", "", 0, beside=("stock_wrong_rows", "stock Feast's")),
            _claim("peak_rss_mb", "memory", "MB", 800),
        ),
        runs="Medians of three runs, of stock Feast one.",
    ),
    "retrieval-10x": Benchmark(
        module="retrieval",
        arguments=("--rows-factor", "10", "--skip-stock", "--repeat", "1"),
        claims=(
            _claim("seconds", "ten times the rows, streamed"),
            _claim("times_of_scan", "the frame, in multiples of a bare scan of the table", "x"),
            _claim("wrong_rows", "wrong rows", "", 0),
            _claim("peak_rss_mb", "memory", "MB", 1_200),
        ),
        runs="One run.",
    ),
    "online": Benchmark(
        module="online",
        quick=("--size", "0.2"),
        claims=tuple(
            _claim(
                f"{prefix}{path}",
                f"{text}{how}",
                "ms",
                None if prefix else bound,
                beside=(f"stock_{path}", "stock Feast, pandas transformations"),
            )
            for prefix, how in (("", ""), ("plain_", ", by get_online_features"))
            for path, text, bound in (
                ("one_key_p50_ms", "online features of one key, median", 4),
                ("one_key_p99_ms", "one key, 99th percentile", 12),
                ("hundred_keys_ms", "100 keys", 15),
                ("all_series_ms", "online features of all series", 400),
            )
        ),
        runs="500 reads of one key, 20 of 100 keys and 7 of all series, of which the medians.",
        note="Ours reads through `OnlineReader`, as the service does. Feast's `get_online_features` on the same store "
        "gives the same values, in the time of the rows that say so.",
    ),
    "materialize": Benchmark(
        module="materialize",
        claims=(
            _claim(
                "seconds",
                "stored features of all series into the online store",
                bound=4,
                beside=("stock_seconds", "stock Feast"),
            ),
            _claim("all_views_seconds", "on-demand features and windows included"),
            _claim("incremental_seconds", "the same from the last time on"),
            _claim("peak_rss_mb", "memory", "MB", beside=("stock_peak_rss_mb", "stock Feast")),
        ),
        runs="One run.",
    ),
    "training": Benchmark(
        module="training",
        claims=(
            _claim("frame_to_bundle_seconds", "a training, from frame to bundle, two cores", bound=60),
            _claim(
                "rows_per_second",
                "rows a second, two cores",
                "rows/s",
                more_is_better=True,
                beside=("usual_rows_per_second", "DataLoader(TensorDataset, shuffle=True), same model"),
            ),
            _claim("share_of_bare", "share of the bare forward and backward pass's rows", "x", more_is_better=True),
            _claim("times_faster_than_dataloader", "times the usual loop, two cores", "x", 5, more_is_better=True),
            _claim(
                "one_core_rows_per_second",
                "rows a second, one core",
                "rows/s",
                more_is_better=True,
                beside=("usual_one_core_rows_per_second", "the usual loop"),
            ),
            _claim("two_processes_over_one", "two processes on a core each, over one", "x", more_is_better=True),
            _claim("growth_over_epochs_mb", "memory from the first epoch to the last", "MB", 50),
            _claim("wmae", "WMAE", "$", beside=("usual_loop_wmae", "the usual loop")),
        ),
        runs="One training of each kind, rows a second of its median epoch.",
    ),
    "accuracy": Benchmark(
        module="accuracy",
        claims=_ACCURACY,
        runs="One training of each model on each fold of the sample data.",
        note="WMAE: lower is better. Naive forecasts: `lag_1` is last week's sales, `lag_52` those of the same week a "
        "year ago, `lag_52_yoy` these times the recent growth over a year. The lowest of the three is shown, and of "
        "LightGBM with the absolute (L1) and the squared error (L2) the lower one of those that were trained.",
    ),
    "trainjob": Benchmark(
        module="trainjob",
        claims=(
            _claim("first_step_seconds", "from the call to a rank's first line", bound=8),
            _claim("overhead_percent", "on top of a 60 s job", "%", 2),
            _claim("messages_per_second", "messages followed", "1/s", more_is_better=True),
            _claim("adoption_seconds", "adopting a running job", bound=5),
        ),
        runs="One run.",
    ),
    "serving": Benchmark(
        module="serving",
        claims=(
            _claim(
                "one_p50_ms",
                "a request for one series, median",
                "ms",
                6,
                beside=("obvious_one_p50_ms", "FastAPI on stock Feast"),
            ),
            _claim("one_p99_ms", "99th percentile", "ms", 20, beside=("obvious_one_p99_ms", "on stock Feast")),
            _claim(
                "requests_per_second",
                "requests of 16 clients",
                "1/s",
                400,
                more_is_better=True,
                beside=("obvious_requests_per_second", "on stock Feast"),
            ),
            _claim("many_p99_ms", "their 99th percentile", "ms", 80, beside=("obvious_many_p99_ms", "on stock Feast")),
            _claim(
                "all_series_ms", "all series at once", "ms", 600, beside=("obvious_all_series_ms", "on stock Feast")
            ),
            _claim("features_ms", "of one request: features", "ms", beside=("obvious_features_ms", "on stock Feast")),
            _claim("model_ms", "of one request: model", "ms", beside=("obvious_model_ms", "on stock Feast")),
            _claim("cold_start_seconds", "cold start to ready", bound=8),
            _claim("soak_growth_mb", "memory over {soak_requests:,} requests", "MB", 20),
            _claim("different_forecasts", "forecasts that differ from the other's", "", 0),
        ),
        runs="Percentiles of as many requests on either side.",
    ),
    "drop-to-forecast": Benchmark(
        module="drop_to_forecast",
        claims=(
            _claim("drop_to_ingestion_seconds", "from a new week's drop to a run", bound=30),
            _claim("drop_to_forecasts_seconds", "from a new week's drop to its forecasts", bound=90),
            _claim(
                "drop_to_forecasts_by_a_new_model_seconds",
                "from a new week's drop to forecasts of a model trained on it",
            ),
            _claim("runs_for_the_same_files_again", "runs for the same files again", "", 0),
            _claim("broken_file_to_refusal_seconds", "a broken file is refused"),
        ),
        runs="One run.",
    ),
    "failover": Benchmark(
        module="failover",
        arguments=("--size", "0.01", "--detection", "5"),
        claims=(
            _claim("a_primary_is_there", "kill -9 of the primary, until a replica is promoted (set to 5 s)"),
            _claim("commits_are_answered", "until commits are answered"),
            _claim("forecasts_are_answered", "until forecasts are answered"),
            _claim("the_training_frame_is_done", "until a retrieval in its middle is done"),
            _claim("the_online_features_are_done", "until a materialization in its middle is done"),
            _claim("the_daemon_run_is_done", "until a run of Dagster's daemon is done"),
            _claim("lost", "answered commits that are lost", "", 0),
        ),
        runs="One run.",
    ),
    "scaling-0.1x": Benchmark(module="scaling", arguments=("--size", "0.1"), claims=_SCALING, runs="One run."),
    "scaling": Benchmark(module="scaling", claims=_SCALING, runs="One run."),
    "scaling-10x": Benchmark(module="scaling", arguments=("--size", "10"), claims=_SCALING, runs="One run."),
}
