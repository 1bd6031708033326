"""The command: python -m forecast_assets.sample_data --out DIR."""

import argparse
from datetime import date
from pathlib import Path

from forecast_assets.sample_data import write_sample_data


def iso_date(text: str) -> date:
    """A date as YYYY-MM-DD; argparse names this function where it is not one."""
    return date.fromisoformat(text)


def main() -> None:
    """Write the files and print one line for each."""
    parser = argparse.ArgumentParser(prog="python -m forecast_assets.sample_data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.csv, features.csv and stores.csv")
    parser.add_argument("--seed", type=int, default=1, help="same seed and size, same files (default: 1)")
    parser.add_argument("--size", type=float, default=1.0, help="1 is 45 stores and 421,570 sales rows (default: 1)")
    parser.add_argument("--through", type=iso_date, help="leave out sales after this date, YYYY-MM-DD")
    arguments = parser.parse_args()
    try:
        summary = write_sample_data(arguments.out, seed=arguments.seed, size=arguments.size, through=arguments.through)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"features.csv {summary.features_rows:,} rows, {summary.first_week}..{summary.last_features_week}")
    print(f"stores.csv {summary.stores_rows:,} rows")
    print(f"train.csv {summary.train_rows:,} rows, {summary.first_week}..{summary.last_week}")


if __name__ == "__main__":
    main()
