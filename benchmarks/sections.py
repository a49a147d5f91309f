"""Generated sections of a Markdown page, each between two markers of its own, so that every benchmark replaces only its own."""

from pathlib import Path


def write_section(page: Path, name: str, section: str) -> None:
    """Replace the part of a page between the markers of a section; add it at the end, or make the page, where missing."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = page.read_text() if page.is_file() else "# Benchmarks\n"
    if start not in text:
        text = f"{text.rstrip()}\n\n{start}\n{end}\n"
    before, rest = text.split(start, 1)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{start}\n{section}\n{end}{rest.split(end, 1)[1]}")
