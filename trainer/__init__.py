"""Everything that runs inside the training job: from a published training frame to a published model bundle.

Importing this package, `trainer.spec`, `trainer.frame`, `trainer.baselines` or `trainer.metrics` does not import torch.
"""
