"""Training: the loop that every trained part shares, its checkpoints, and the processes that share the work."""

from .checkpoint import resume, save
from .distributed import Workers, workers
from .fit import Schedule, epoch_rows, fit
from .speed import steps_within

__all__ = ["Schedule", "Workers", "epoch_rows", "fit", "resume", "save", "steps_within", "workers"]
