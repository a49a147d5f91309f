"""A page as one HTML file that needs no network: style, data, Plotly and the page's own script inside."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files

from plotly.offline import get_plotlyjs

from pareto_unlearn.report.fragments import text

__all__ = ["embedded_json", "frame"]


def frame(*, title: str, body: str, data: object, scripts: Sequence[str], head: str = "") -> str:
    """Return the whole page.

    The content security policy admits the two scripts of this page, by hash, and no others: even a name from
    the store that escaping missed could not run. Plotly needs ``blob:`` images to download a figure.

    Args:
        title: of the window; any text.
        body: HTML already.
        data: for the script, as JSON.
        scripts: files of this package that make up the page's own script, in their order.
        head: more elements of the head; HTML already.
    """
    plotly, script = _script_text(get_plotlyjs()), _script_text("".join(_asset(name) for name in scripts))
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_hash(plotly)} {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<meta name="color-scheme" content="light dark">\n{head}<title>{text(title)}</title>\n'
        f"<style>{_asset('style.css')}</style>\n</head>\n<body>\n{body}"
        f'<script type="application/json" id="report-data">{embedded_json(data)}</script>\n'
        f"<script>{plotly}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def embedded_json(data: object) -> str:
    """Return JSON that cannot end its script element, for any strings in the data."""
    plain = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return plain  # ensure_ascii has already escaped U+2028 and U+2029


def _asset(name: str) -> str:
    return files("pareto_unlearn.report").joinpath(name).read_text(encoding="utf-8")


def _script_text(source: str) -> str:
    """Return script text with the line ends that the browser hashes.

    Raises:
        ValueError: the source holds ``</script`` or opens an HTML comment before a ``<script``.
    """
    normal = source.replace("\r\n", "\n").replace("\r", "\n")
    lowered = normal.lower()
    if "</script" in lowered or ("<!--" in lowered and "<script" in lowered):
        raise ValueError("a script to embed holds an HTML script tag; it cannot be put inline as it is")
    return normal


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
