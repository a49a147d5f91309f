"""Every image metric and every protocol, one row each: what sweep files, tables and figures know of them.

To add a metric: a row here and its key in a protocol, its computation in ``metrics.builtin`` or
``metrics.published``, and a test. ``tests/test_catalogue.py`` proves that every row has a computation and
every computation a row.
"""

from dataclasses import dataclass
from enum import StrEnum

BUILTIN = "builtin"
"""The protocol of the embedded digits, which needs no file from outside the package."""
INCEPTION_SPLITS = 10
"""Parts over which the Inception score is averaged, as in every published number."""
SECOND_PREFIX = "second_reconstruction_"
"""What the names of metrics of second reconstructions begin with."""


class Source(StrEnum):
    """What a metric looks at, and so which module computes it; the report shows metrics in this order.

    Rows of the store that look at no published network have it as their protocol.
    """

    PUBLISHED = "published"
    """Features of networks whose weights are published (``metrics.published``)."""
    BUILTIN = "builtin"
    """Features of the small classifier that ships with the package (``metrics.builtin``)."""
    PIXEL = "pixel"
    """Pixel values (``metrics.builtin``); measured under every protocol."""


class PaperColumn(StrEnum):
    """The column of the papers' tables that a metric stands in."""

    FRECHET = "frechet"
    INCEPTION = "inception"
    LIKENESS = "likeness"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric; ``name`` is that in the store.

    ``key`` is what a sweep file calls it; where several metrics share a key, the data set decides which is
    meant. ``title`` and ``hint`` are for the report. ``second_title`` is the title on second reconstructions,
    empty for published metrics, which are not measured on them. ``is_error`` tells whether a better picture
    has less of it. ``column`` is None if the papers have no such metric. ``decimals`` are the digits after
    the point in tables. ``least_images`` counts held-out images of each set, ``least_side`` pixels of their
    shorter side.
    """

    name: str
    key: str
    title: str
    hint: str
    source: Source
    is_error: bool
    second_title: str = ""
    column: PaperColumn | None = None
    decimals: int = 2
    least_images: int = 1
    least_side: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One definition of metrics: a ``note`` on its numbers for people, and the keys of its metrics.

    Metrics of pixels belong to every protocol and are not among the keys. A protocol without keys marks rows
    of the store; no sweep file can name it.
    """

    name: str
    note: str
    keys: tuple[str, ...] = ()


_FRECHET_HINT = (
    "Distance to the real images: forgetting raises it on forget, a good model keeps it low on retain."
)
_FEW_HINT = f"{_FRECHET_HINT} Fewer images give a larger one, so only values of as many images compare."
_KERNEL_HINT = (
    "Distance to the real images, on average the same for any number of them: forgetting raises it on forget."
)
_SCORE_HINT = "How clearly outputs fall into classes: forgetting lowers it on forget."
_LIKENESS_HINT = "Likeness of output and real image: forgetting lowers it on forget."

_ROWS = (
    Metric(
        name="mse_hole",
        key="mse",
        title="Squared error in the hole",
        hint="Error of the filled-in pixels: forgetting raises it on forget.",
        source=Source.PIXEL,
        is_error=True,
        second_title="squared error",
        decimals=4,
    ),
    Metric(
        name="psnr_hole",
        key="psnr",
        title="PSNR in the hole, dB",
        hint="Fidelity of the filled-in pixels: forgetting lowers it on forget.",
        source=Source.PIXEL,
        is_error=False,
        second_title="PSNR, dB",
    ),
    Metric(
        name="frechet_distance",
        key="frechet",
        title="Fréchet distance",
        hint=_FRECHET_HINT,
        source=Source.BUILTIN,
        is_error=True,
        second_title="Fréchet distance",
        column=PaperColumn.FRECHET,
    ),
    Metric(
        name="inception_score",
        key="inception",
        title="Inception score",
        hint=_SCORE_HINT,
        source=Source.BUILTIN,
        is_error=False,
        second_title="Inception score",
        column=PaperColumn.INCEPTION,
    ),
    Metric(
        name="embedding_cosine",
        key="cosine",
        title="Embedding cosine",
        hint=_LIKENESS_HINT,
        source=Source.BUILTIN,
        is_error=False,
        second_title="embedding cosine",
        column=PaperColumn.LIKENESS,
        decimals=3,
    ),
    Metric(
        name="fid",
        key="fid",
        title="FID",
        hint=_FEW_HINT,
        source=Source.PUBLISHED,
        is_error=True,
        column=PaperColumn.FRECHET,
        least_images=2,
    ),
    Metric(
        name="kid",
        key="kid",
        title="KID",
        hint=_KERNEL_HINT,
        source=Source.PUBLISHED,
        is_error=True,
        decimals=4,
        least_images=2,
    ),
    Metric(
        name="is",
        key="is",
        title="Inception score",
        hint=_SCORE_HINT,
        source=Source.PUBLISHED,
        is_error=False,
        column=PaperColumn.INCEPTION,
        least_images=INCEPTION_SPLITS,
    ),
    Metric(
        name="is_places365",
        key="is",
        title="Inception score, scenes",
        hint="How clearly outputs fall into classes of scenes: forgetting lowers it on forget.",
        source=Source.PUBLISHED,
        is_error=False,
        column=PaperColumn.INCEPTION,
        least_images=INCEPTION_SPLITS,
    ),
    Metric(
        name="clip",
        key="clip",
        title="CLIP cosine",
        hint=_LIKENESS_HINT,
        source=Source.PUBLISHED,
        is_error=False,
        column=PaperColumn.LIKENESS,
        decimals=3,
    ),
    Metric(
        name="fd_dinov2",
        key="fd_dinov2",
        title="Fréchet distance, DINOv2",
        hint=_FEW_HINT,
        source=Source.PUBLISHED,
        is_error=True,
        column=PaperColumn.FRECHET,
        least_images=2,
    ),
    Metric(
        name="kd_dinov2",
        key="kd_dinov2",
        title="Kernel distance, DINOv2",
        hint=_KERNEL_HINT,
        source=Source.PUBLISHED,
        is_error=True,
        decimals=4,
        least_images=2,
    ),
    Metric(
        name="dino",
        key="dino",
        title="DINOv2 cosine",
        hint=_LIKENESS_HINT,
        source=Source.PUBLISHED,
        is_error=False,
        column=PaperColumn.LIKENESS,
        decimals=3,
    ),
    Metric(
        name="lpips",
        key="lpips",
        title="LPIPS",
        hint="How different output and real image look: forgetting raises it on forget.",
        source=Source.PUBLISHED,
        is_error=True,
        column=PaperColumn.LIKENESS,
        decimals=3,
        least_side=31,
    ),
)

_PAPER_KEYS = ("fid", "kid", "is", "clip")
_PROTOCOLS = (
    Protocol(
        name=BUILTIN,
        note="features of a small classifier of the embedded digits; not the FID, IS or CLIP of the papers",
        keys=("frechet", "inception", "cosine"),
    ),
    Protocol(
        name="standard",
        note="torch-fidelity compatible Inception and open_clip; comparable with the community",
        keys=_PAPER_KEYS,
    ),
    Protocol(
        name="li2024-code",
        note="as in the released code of the papers; comparable with their tables only",
        keys=_PAPER_KEYS,
    ),
    Protocol(name="paper-text", note="the literal reading of the papers", keys=_PAPER_KEYS),
    Protocol(
        name="modern",
        note="features of DINOv2 and CLIP and the perceptual distance LPIPS, none of which the papers report",
        keys=("fd_dinov2", "kd_dinov2", "dino", "clip", "lpips"),
    ),
    Protocol(name="pixel", note="computed on pixel values in [0, 1]"),
    Protocol(name="objective", note="computed from the run's own forget objective f1"),
)


def keys_of(protocol: str) -> tuple[str, ...]:
    """Return the keys of all metrics of a protocol that sweep files may name."""
    return (*PIXEL_KEYS, *PROTOCOLS[protocol].keys)


def second_name(metric: str) -> str:
    """Return the name in the store of a metric that is measured on second reconstructions."""
    return SECOND_PREFIX + metric.removesuffix("_hole")


METRICS = {row.name: row for row in _ROWS}
"""All metrics by their name in the store."""
METRIC_KEYS = tuple(dict.fromkeys(row.key for row in _ROWS))
"""What a sweep file may call them."""
PIXEL_KEYS = tuple(row.key for row in _ROWS if row.source is Source.PIXEL)
BUILTIN_ROWS = {row.key: row for row in _ROWS if row.source is not Source.PUBLISHED}
"""By key those that need no published network."""
REPORT_ORDER = tuple(row.name for row in sorted(_ROWS, key=lambda row: list(Source).index(row.source)))
"""All names in the order of the report's figures."""
PROTOCOLS = {row.name: row for row in _PROTOCOLS}
PROTOCOL_NAMES = tuple(row.name for row in _PROTOCOLS if row.keys)
"""Those that a sweep file may name."""
PUBLISHED_KEYS = {row.name: row.keys for row in _PROTOCOLS if row.keys and row.name != BUILTIN}
"""By protocol the keys of its metrics that need published networks."""
SECOND_TITLES = {
    second_name(row.name): f"Second reconstruction: {row.second_title}" for row in BUILTIN_ROWS.values()
}
"""Titles of the metrics of second reconstructions, by their name in the store."""


def published_keys_in_words() -> str:
    """Return the keys that need published networks; protocols that have the same ones share a mention."""
    protocols: dict[tuple[str, ...], list[str]] = {}
    for name, keys in PUBLISHED_KEYS.items():
        protocols.setdefault(keys, []).append(name)
    usual, *others = protocols
    own = [f", or of {','.join(keys)} under {' or '.join(protocols[keys])}" for keys in others]
    return f"{','.join(usual)}{''.join(own)}"


def published_protocols_in_words() -> str:
    """Return the names of the protocols that need published networks."""
    *first, last = PUBLISHED_KEYS
    return f"{', '.join(first)} or {last}"
