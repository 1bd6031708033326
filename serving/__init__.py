"""The model service: next week's forecast over HTTP, from the online features and the champion."""
