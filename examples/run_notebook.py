"""Runs the code cells of a notebook in their order and stores what they print and return in it.

uv run python examples/run_notebook.py examples/quickstart.ipynb

It needs no Jupyter. As there, a cell's value is that of its last line, and paths start at the notebook.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

Names = dict[str, Any]


def run_cell(source: str, names: Names) -> list[dict[str, Any]]:
    """Run one cell and return its outputs in the form of the notebook format, version 4."""
    parts = ast.parse(source)
    last = parts.body.pop() if parts.body and isinstance(parts.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(parts, "cell", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines_of(printed.getvalue())})
    if value is not None:
        outputs.append(
            {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": shown(value)}
        )
    return outputs


def shown(value: Any) -> dict[str, Any]:
    """Return a value in all the forms that it can be shown in."""
    data: dict[str, Any] = {"text/plain": lines_of(repr(value))}
    if html := getattr(value, "_repr_html_", lambda: None)():
        data["text/html"] = lines_of(html)
    if png := getattr(value, "_repr_png_", lambda: None)():
        data["image/png"] = base64.b64encode(png).decode()
        data["text/plain"] = [type(value).__name__]
    return data


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their ends, as notebooks store it."""
    return text.splitlines(keepends=True)


def run_notebook(path: Path) -> dict[str, Any]:
    """Return the notebook with the outputs of a fresh run."""
    notebook: dict[str, Any] = json.loads(path.read_text())
    names: Names = {"__name__": "__main__"}
    count = 0
    with contextlib.chdir(path.parent):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell["execution_count"] = count
                cell["outputs"] = run_cell("".join(cell["source"]), names)
                for output in cell["outputs"]:
                    if "execution_count" in output:
                        output["execution_count"] = count
    return notebook


def main() -> None:
    """Read the command line, run the notebook and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    path.write_text(json.dumps(run_notebook(path), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
