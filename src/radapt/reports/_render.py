"""The table as Markdown, CSV, LaTeX and terminal text."""

from __future__ import annotations

import csv
import io
from itertools import groupby

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from radapt.text import literal, markdown

from .table import Cell, Section, Table

__all__ = ["csv_text", "heading", "latex_text", "markdown_text", "terminal"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # a line may not begin with a bare bracket: \\ would take it for its argument
    "∞": r"$_\infty$",
    "·": r"\textperiodcentered{}",
}


def heading(section: Section) -> str:
    """Title of a section with the number of samples, where it is one number."""
    return f"{section.title} (n = {section.n})" if section.n and not section.mean else section.title


def _remarks(cell: Cell, section: Section) -> list[str]:
    """What is written beside a result: its own n where sizes differ, what is missing, the white-box warning."""
    size = [f"n = {cell.n}"] if section.n is None and not section.mean else []
    return [*size, *filter(None, (cell.partial, cell.unpaired))]


def _notes(table: Table) -> list[str]:
    return [f"[{number}] {note}" for number, note in enumerate(table.notes, 1)]


def terminal(table: Table) -> Group:
    """The table for a rich console."""
    grid = RichTable(show_lines=False, pad_edge=False, header_style="bold")
    grid.add_column("method", overflow="fold")
    for column in table.columns:
        grid.add_column(Text(column.title), justify="right", overflow="fold")
    for section in table.sections:
        grid.add_section()
        grid.add_row(Text(heading(section), style="bold italic"))
        for line in section.lines:
            grid.add_row(Text("  " + line.method), *(_terminal_cell(cell, section) for cell in line.cells))
    return Group(grid, *(Text(text, style="dim") for text in table.remarks), *(Text(note) for note in _notes(table)))


def _terminal_cell(cell: Cell | None, section: Section) -> Text:
    if cell is None:
        return Text("—", style="dim")
    text = Text(f"{cell.percent:.1f}", style="bold")
    text.append(f" [{cell.low:.1f}, {cell.high:.1f}]", style="not bold dim")
    for mark in cell.marks:
        text.append(f" [{mark}]", style="bold yellow")
    for remark in _remarks(cell, section):
        text.append(
            f"\n{remark}", style="not bold yellow" if remark in (cell.partial, cell.unpaired) else "not bold dim"
        )
    return text


def markdown_text(table: Table) -> str:
    """The table in GitHub's Markdown, one per section."""
    lines = []
    for section in table.sections:
        lines += [f"### {markdown(heading(section))}", ""]
        lines.append("| method | " + " | ".join(markdown(column.title) for column in table.columns) + " |")
        lines.append("|---" + "|---:" * len(table.columns) + "|")
        for line in section.lines:
            cells = " | ".join(_markdown_cell(cell, section) for cell in line.cells)
            lines.append(f"| {markdown(line.method)} | {cells} |")
        lines.append("")
    lines += [f"{markdown(text)}\n" for text in table.remarks]
    lines += [f"{number}. {markdown(note)}" for number, note in enumerate(table.notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(cell: Cell | None, section: Section) -> str:
    if cell is None:
        return "—"
    marks = "".join(f"<sup>{mark}</sup>" for mark in cell.marks)
    remarks = "".join(f"<br>*{markdown(remark)}*" for remark in _remarks(cell, section))
    return f"{cell.percent:.1f} \\[{cell.low:.1f}, {cell.high:.1f}\\]{marks}{remarks}"


def csv_text(table: Table) -> str:
    """The table with unrounded numbers, one line per result; no text of it is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("section", "task", "mean", "method", "column", "kind", "norm", "eps")
    writer.writerow((*names, "percent", "low", "high", "n", "missing", "white_box", "flags"))
    for section in table.sections:
        for line in section.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell:
                    place = (section.title, section.task, int(section.mean), line.method, column.title, column.kind)
                    numbers = (column.norm, column.eps, cell.percent, cell.low, cell.high, cell.n)
                    flags = "; ".join(table.notes[mark - 1] for mark in cell.marks)
                    cells = (*place, *numbers, cell.partial, cell.unpaired, flags)
                    writer.writerow([literal(each) if isinstance(each, str) else each for each in cells])
    return stream.getvalue()


def latex_text(table: Table) -> str:
    """The table for LaTeX with booktabs."""
    width = len(table.columns)
    groups = [(name, len(list(columns))) for name, columns in groupby(table.columns, key=lambda column: column.group)]
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * width}}}", "\\toprule"]
    if any(name for name, _ in groups):
        rules, at = [], 2
        for name, count in groups:
            rules += [f"\\cmidrule(lr){{{at}-{at + count - 1}}}"] if name else []
            at += count
        lines.append("".join(f" & \\multicolumn{{{count}}}{{c}}{{{_latex(name)}}}" for name, count in groups) + r" \\")
        lines.append(" ".join(rules))
    lines.append("method" + "".join(f" & {_latex(column.name)}" for column in table.columns) + r" \\")
    for section in table.sections:
        lines += ["\\midrule", f"\\multicolumn{{{width + 1}}}{{l}}{{\\emph{{{_latex(heading(section))}}}}} \\\\"]
        for line in section.lines:
            cells = "".join(f" & {_latex_cell(cell, section)}" for cell in line.cells)
            lines.append(f"{_latex(line.method)}{cells} \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", ""]
    lines += [f"\\par\\noindent {_latex(text)}" for text in table.remarks]
    lines += [f"\\par\\noindent $^{{{number}}}$ {_latex(note)}" for number, note in enumerate(table.notes, 1)]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell | None, section: Section) -> str:
    if cell is None:
        return "--"
    marks = "".join(f"$^{{{mark}}}$" for mark in cell.marks)
    remarks = "".join(f" {{\\scriptsize {_latex(remark)}}}" for remark in _remarks(cell, section))
    return f"{cell.percent:.1f} {{\\scriptsize [{cell.low:.1f}, {cell.high:.1f}]}}{marks}{remarks}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
