"""How commands are parsed, and how they end: with an exit code, and at most one line on stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from radapt.errors import InputError, RadaptError, SettingsError, shown
from radapt.text import one_line, visible

from ._shared import typed

__all__ = ["Command", "Commands"]

_KEPT = "what was computed is kept, run the same command to continue"
_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # wrong usage; typer does not export it


class Command(TyperCommand):
    """A command whose options are given once each, unless they are lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a command line.

        Raises:
            UsageError: they are not what the command takes, or an option that has one value is given twice.
        """
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for parameter in [] if ctx.resilient_parsing else order:
            if order.count(parameter) > 1 and not getattr(parameter, "multiple", True):
                raise typer.BadParameter(f"it is given {order.count(parameter)} times; give it once", ctx, parameter)
        typed.set(frozenset(str(parameter.name) for parameter in order))
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """The command line: whatever a command raises ends here, however the command line was started.

    Exit code 2 for wrong usage, 1 for failure. With ``RADAPT_DEBUG=1`` in the environment the traceback is shown, too.
    """

    def main(self, args: Any = None, *given: Any, **settings: Any) -> Any:
        """Run the command of these words (by default those of the process), and exit."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no reason to fail
                stream.reconfigure(errors="replace")
        try:
            code = super().main(args, *given, **{**settings, "standalone_mode": False})
        except Exception as error:
            code = _end(error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interrupt, and output that nobody reads, have their own words."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(_end(error)) from error
        except BrokenPipeError as error:
            _end(error)
            raise  # typer keeps Python from writing what is left to the closed pipe


def _end(error: BaseException) -> int:
    """Say what went wrong, in one line, and return the exit code."""
    console = Console(stderr=True, soft_wrap=True)
    if os.environ.get("RADAPT_DEBUG", "") not in ("", "0"):
        console.print(Text(visible("".join(traceback.format_exception(error)))))
    if isinstance(error, KeyboardInterrupt):
        console.print(Text.assemble(("interrupted", "bold red"), f"; {_KEPT}"))
        return 1
    if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help
        return 2
    console.print(Text.assemble(("error:", "bold red"), " ", one_line(_told(error))))
    return 2 if isinstance(error, _USAGE | SettingsError | InputError) else 1


def _got(error: BaseException) -> str:
    """The value that a parameter of a plain type was given, which typer's message leaves out."""
    from pydantic import ValidationError

    cause = error.__cause__
    return f", got {shown(cause.errors()[0]['input'])}" if isinstance(cause, ValidationError) else ""


def _told(error: BaseException) -> str:
    """What went wrong, and what to do."""
    reason = " ".join(str(error).split())
    if isinstance(error, RadaptError):
        return str(error)
    if isinstance(error, _USAGE):
        context = getattr(error, "ctx", None)
        help_of = "" if context is None else f" (see `{context.command_path} --help`)"
        return " ".join(str(getattr(error, "format_message")()).split()) + _got(error) + help_of  # noqa: B009 - of typer's own class
    if isinstance(error, BrokenPipeError):
        return f"what reads the output has closed it; {_KEPT}"
    if isinstance(error, OSError):
        return f"{reason}; {_KEPT}" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else reason
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in reason:
        what = f" ({reason})" if reason else ""
        advice = "take a smaller --batch-size or --n, or a smaller model"
        return f"there is not enough memory{what}; {advice}; what was computed is kept, and goes on in smaller batches"
    if isinstance(error, RecursionError):
        return f"something is nested too deeply to be read ({reason})"
    return (
        f"unexpected {type(error).__name__}: {reason or 'without a message'}. This is a fault of radapt: run the "
        "command again with RADAPT_DEBUG=1 in the environment, and report what it then shows"
    )
