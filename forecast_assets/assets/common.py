"""What all assets share."""

OWNERS = ["team:demand-forecasting"]
