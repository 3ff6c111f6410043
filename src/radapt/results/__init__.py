"""Results: one row per sample and setting in an SQLite file, and the numbers and plots that are drawn from them."""

from ._merging import take_over
from ._notes import Notes, Run, command_line
from .intervals import class_weights, effective_share, f1_interval, mean_interval, score_interval, wilson
from .metrics import summarise
from .paired import Comparison, paired_tests
from .records import CHECKS, LEFT_OUT, Example, Kind, Result, Sample, Setting
from .signs import SIGNS, Sign
from .store import Results
from .together import together
from .worst_case import WORST_CASE, with_worst_cases

__all__ = [
    "CHECKS",
    "LEFT_OUT",
    "SIGNS",
    "WORST_CASE",
    "Comparison",
    "Example",
    "Kind",
    "Notes",
    "Result",
    "Results",
    "Run",
    "Sample",
    "Setting",
    "Sign",
    "class_weights",
    "command_line",
    "effective_share",
    "f1_interval",
    "mean_interval",
    "paired_tests",
    "score_interval",
    "summarise",
    "take_over",
    "together",
    "wilson",
    "with_worst_cases",
]
