"""Training: the loop that every trained part shares, its checkpoints, and the processes that share the work."""

from .checkpoint import resume, save
from .distributed import Workers, workers
from .fit import Dual, Schedule, epoch_rows, fit

__all__ = ["Dual", "Schedule", "Workers", "epoch_rows", "fit", "resume", "save", "workers"]
