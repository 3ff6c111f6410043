"""Training: the loop that every trained part shares, its checkpoints, and the processes that share the work."""

from .checkpoint import resume, save, steps_of
from .distributed import Workers, workers
from .fit import epoch_rows, fit
from .log import Log, check_log, open_log
from .schedule import Dual, Schedule
from .speed import steps_within

__all__ = [
    "Dual",
    "Log",
    "Schedule",
    "Workers",
    "check_log",
    "epoch_rows",
    "fit",
    "open_log",
    "resume",
    "save",
    "steps_of",
    "steps_within",
    "workers",
]
