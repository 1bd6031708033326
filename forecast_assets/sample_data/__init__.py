"""Generated sales data with the schema, size and behaviour of the Kaggle Walmart data set."""

from forecast_assets.sample_data.write import SampleSummary, write_sample_data

__all__ = ["SampleSummary", "write_sample_data"]
