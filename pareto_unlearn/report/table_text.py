"""Tables as text: Markdown, LaTeX (booktabs), CSV. Every text from a store is escaped."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from itertools import groupby

from pareto_unlearn.foreign_text import write_csv
from pareto_unlearn.report.paper_table import Cell, Column, PaperTable
from pareto_unlearn.report.words import NONE


class TextFormat(StrEnum):
    """The format of a table."""

    MARKDOWN = "md"
    LATEX = "latex"
    CSV = "csv"


_LATEX_SIGNS = {
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
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
}
_MARKDOWN_SIGNS = {sign: f"\\{sign}" for sign in "\\`*_{}[]<>#|~"}


def write_table(table: PaperTable, form: TextFormat) -> str:
    """Return a table in one of the formats, ending with a newline."""
    return {TextFormat.MARKDOWN: _markdown, TextFormat.LATEX: _latex, TextFormat.CSV: _csv}[form](table)


def markdown(text: str) -> str:
    """Return text escaped for Markdown and its tables."""
    return "".join(_MARKDOWN_SIGNS.get(sign, sign) for sign in _one_line(text))


def latex(text: str) -> str:
    """Return text escaped for LaTeX."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in _one_line(text))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of escaped cells; the first column is words, the others are numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal; columns between the first and the last are numbers, aligned right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    last = len(widths) - 1

    def placed(index: int, cell: str) -> str:
        return cell.rjust(widths[index]) if 0 < index < last else cell.ljust(widths[index])

    lines = [
        "  ".join(placed(index, cell) for index, cell in enumerate(row)).rstrip() for row in (head, *rows)
    ]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _set(column: Column) -> str:
    """Return F or R for the set, as in the papers, with the arrow of the better direction."""
    return f"{column.set[:1].upper()}{column.arrow}"


def _several_runs(table: PaperTable) -> bool:
    return len({column.run for column in table.columns}) > 1


def _shown(cell: Cell | None, column: Column, bold: str, underlined: str, nothing: str) -> str:
    """Return a cell as text: the mean, marked by its rank, then the spread."""
    if cell is None:
        return nothing
    mean = {1: bold, 2: underlined}.get(cell.rank, "{}").replace("{}", f"{cell.mean:.{column.decimals}f}")
    return mean if cell.spread is None else f"{mean} ± {cell.spread:.{column.decimals}f}"


def _markdown(table: PaperTable) -> str:
    several = _several_runs(table)
    head = [
        markdown(f"{f'{column.run}: ' if several else ''}{column.metric} {_set(column)}")
        for column in table.columns
    ]
    rows = [
        [
            markdown(label),
            *(
                _shown(cell, column, "**{}**", "<u>{}</u>", NONE)
                for cell, column in zip(cells, table.columns, strict=True)
            ),
        ]
        for label, cells in table.rows
    ]
    return f"{markdown_table(['', *head], rows)}\n{markdown(table.caption)}\n"


def _latex(table: PaperTable) -> str:
    heads = [_spans(table, lambda column: (column.run,))] if _several_runs(table) else []
    heads.append(_spans(table, lambda column: (column.run, column.protocol, column.metric)))
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *heads,
        rf" & {' & '.join(latex(_set(column)) for column in table.columns)} \\",
        r"\midrule",
        *(_latex_row(label, cells, table.columns) for label, cells in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _spans(table: PaperTable, identity: Callable[[Column], tuple[str, ...]]) -> str:
    """Return a row of heads, each over the columns that share an identity, with a rule below.

    A head shows the last part of the identity.
    """
    cells, rules, first = [], [], 2
    for parts, members in groupby(table.columns, identity):
        width = len(list(members))
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(parts[-1])}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return f" & {' & '.join(cells)} \\\\ {''.join(rules)}"


def _latex_row(label: str, cells: Sequence[Cell | None], columns: Sequence[Column]) -> str:
    shown = (
        _shown(cell, column, r"\textbf{{}}", r"\underline{{}}", "--")
        .replace("±", r"$\pm$")
        .replace("{-", "{$-$")
        for cell, column in zip(cells, columns, strict=True)
    )
    return rf"{latex(label)} & {' & '.join(shown)} \\"


def _csv(table: PaperTable) -> str:
    names = [
        f"{column.run} {column.metric} {column.set} ({column.protocol}, {column.split})"
        for column in table.columns
    ]
    head = ["model", *(part for name in names for part in (name, f"{name} std", f"{name} seeds"))]
    rows = [[label, *(part for cell in cells for part in (_csv_parts(cell)))] for label, cells in table.rows]
    return write_csv([head, *rows])


def _csv_parts(cell: Cell | None) -> tuple[str, str, str]:
    if cell is None:
        return "", "", ""
    return repr(cell.mean), "" if cell.spread is None else repr(cell.spread), str(cell.seeds)
