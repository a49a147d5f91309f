"""Replaces one section of a Markdown page and leaves the others as they are."""

from pathlib import Path


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->``; add what is missing, page or section.

    Raises:
        ValueError: the section begins but does not end.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text() if path.is_file() else "# Benchmarks\n"
    if start not in page:
        page = f"{page.rstrip()}\n\n{start}\n{end}\n"
    before, rest = page.split(start, 1)
    if end not in rest:
        raise ValueError(f"{path}: expected {end} after {start}, found none; put it where the section ends")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{start}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}")
