"""Makes the pictures of the documentation from the report of a finished quickstart sweep.

uv run python docs/pictures/make.py runs/quickstart/report.html

Needs Debian's Chromium (``apt install chromium``). Pictures have few colours: each stays below 250 KB.
"""

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT = 1180, 900
LARGEST_BYTES = 250_000
SECTIONS = {"front.png": ("#front", 830), "images.png": ("#images", 1128), "audit.png": ("#audit", 640)}
"""Files, the section that each shows, and how many pixels of it from its top."""


def write_picture(name: str, png: bytes) -> None:
    """Write a screenshot in 128 colours.

    Raises:
        ValueError: the picture is too large for a page of documentation.
    """
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(out, "PNG", optimize=True)
    if out.tell() > LARGEST_BYTES:
        raise ValueError(f"{name}: expected at most {LARGEST_BYTES:,} bytes, found {out.tell():,}")
    (FOLDER / name).write_bytes(out.getvalue())


def take_pictures(page: Page, report: Path) -> None:
    """Open the report and take a picture of each of its sections that the documentation explains."""
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    page.wait_for_timeout(1500)  # what is drawn late moves what lies below it
    for name, (section, height) in SECTIONS.items():
        top = page.locator(section).evaluate("part => part.getBoundingClientRect().top + window.scrollY")
        area = {"x": 0, "y": top, "width": WIDTH, "height": height}
        write_picture(name, page.screenshot(full_page=True, clip=area))


def main() -> None:
    """Read the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="report.html of a finished quickstart sweep")
    report = parser.parse_args().report
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        take_pictures(page, report)
        browser.close()


if __name__ == "__main__":
    main()
