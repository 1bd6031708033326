"""Checks of what `deploy/` renders to, without a cluster: schemas, references, and who may reach what."""
