"""The top of the page: verdict, facts of the run, and the sticky bar that selects a model."""

from collections.abc import Sequence

from pareto_unlearn.analysis.scores import BOXES, LEVELS, Scores
from pareto_unlearn.config import subject_of
from pareto_unlearn.config.smoke import SMOKE, SMOKE_NOTICE
from pareto_unlearn.report.facts import EpsilonRange, Hypervolume, MethodScores, Report
from pareto_unlearn.report.fragments import section, state_badge, text
from pareto_unlearn.report.seeds import LEAST
from pareto_unlearn.report.solution import Split
from pareto_unlearn.report.words import (
    NONE,
    number,
    share,
)

_UPPER_ENDS = {"path": "the top of the path", "original": "the original model"}


def header(report: Report) -> str:
    """Return the head of the page: name, verdict, badges. It is short, for the front on the first screen."""
    badges = "".join(
        f"<li>{state_badge(state, f'{number} {state.lower()}')}</li>" for state, number in report.states
    )
    return (
        f'<header>{_smoke_notice(report)}<p class="eyebrow">Unlearning report{_subject(report)}</p>'
        f"<h1>{text(report.name)}</h1>"
        f'<ul class="badges">{badges}</ul><p class="verdict">{text(report.verdict)}</p></header>'
    )


def _subject(report: Report) -> str:
    subject = subject_of(report.sweep_file)
    return f" · {text(subject)}" if subject else ""


def run_facts(report: Report) -> str:
    """Return the facts of the whole run that the sections build on."""
    ranges = "".join(_range(one, len(report.seeds)) for one in report.ranges) + _spread(report)
    volumes = "".join(_hypervolume(one) for one in report.hypervolumes)
    facts = [
        ("Valid range of epsilon", ranges or "not determined"),
        (
            "Hypervolume in this run's own box",
            (volumes + _reference_point(report)) if volumes else "none yet",
        ),
        ("Objective and classes", _aim(report)),
        ("Uncertainty", _uncertainty(report.seeds)),
        ("Scores in fixed units", _scores(report)),
    ]
    listed = "".join(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in facts)
    return section("run", "The run in numbers", "", f'<dl class="facts">{listed}</dl>{_progress(report)}')


def _progress(report: Report) -> str:
    """Return the figure of growing areas; empty without a method that has two trials."""
    if not any(len(one.trials) > 1 for one in report.progress):
        return ""
    return (
        '<article class="card progress"><div class="card-bar"><h3>What more trials brought</h3>'
        '<label>on <select id="progress-split" autocomplete="off"><option value="heldout">held-out images'
        '</option><option value="train">training images</option></select></label>'
        '<label>against <select id="progress-across" autocomplete="off"><option value="trials">trials'
        '</option><option value="pairs">gradient pairs</option></select></label></div>'
        '<div id="figure-progress" class="figure figure-progress" role="img" '
        'aria-label="Share of two fixed boxes that each method dominates, after each trial"></div>'
        '<p class="note">The fixed boxes of the table above, so larger is better in every report. Trials '
        "stand in the order of the plan; when each ended is not stored. Models mixed from a path cost no "
        "pairs of their own: the path paid for them.</p></article>"
    )


def _smoke_notice(report: Report) -> str:
    return f'<p class="smoke" role="alert">{text(SMOKE_NOTICE)}</p>' if report.smoke else ""


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(text(name) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _range(one: EpsilonRange, num_seeds: int) -> str:
    raw = f"{number(one.raw[0])} &lt; epsilon &lt; {number(one.raw[1])}, a bound on {text(one.bounded)}"
    seed = f"seed {one.seed}: " if num_seeds > 1 else ""
    normalised = ""
    if one.normalised is not None:
        low, high = one.normalised
        completeness = text(one.bounded.replace("f1", "completeness"))
        normalised = (
            f'<br><span class="minor">normalised {share(low)} &lt; e &lt; {share(high)}, so {completeness} '
            f"{share(1.0 - high)} to {share(1.0 - low)}</span>"
        )
    source = (
        ""
        if one.upper_source == "lowest"
        else f"<br><span class='note'>Upper end: {_UPPER_ENDS[one.upper_source]}. "
        f"{text(one.reason[:1].upper() + one.reason[1:])}</span>"
    )
    return f"<p>{seed}{raw}{normalised}{source}</p>"


def _spread(report: Report) -> str:
    if report.spread_of_ends is None:
        return ""
    ends = "<br>".join(
        f"{name} end: mean e {share(one.mean)}, {share(one.low)} to {share(one.high)}, "
        f"{share(one.deviation)} of the range of f1 apart"
        for name, one in zip(("lower", "upper"), report.spread_of_ends, strict=True)
    )
    return f'<p class="minor">over {len(report.ranges)} seeds<br>{ends}</p>'


def _reference_point(report: Report) -> str:
    if report.reference_point is None:
        return ""
    f1, f2 = report.reference_point
    return (
        f'<span class="minor">same reference point for all: f1\u00a0{number(f1)}, f2\u00a0{number(f2)}</span>'
    )


def _scores(report: Report) -> str:
    """Return a table with a row per method: both areas, and quality loss at fixed e, held out first."""
    if not report.scores:
        return "no solution yet"
    areas = "".join(f"<th>area, loss &lt; {height:.0%}</th>" for height in BOXES)
    levels = "".join(f"<th>loss, e ≤ {level:g}</th>" for level in LEVELS)
    ours = report.scores[0].heldout
    rows = "".join(_score_row(one, ours) for one in report.scores)
    note = (
        "Areas: held out / training, as a share of e 0 to 1 and quality loss 0 to 5 % or 100 %, the same box "
        "in every report. Losses: the least on held-out images among models whose e on the forget set is up "
        "to the level, and how many times the first row's. Median over seeds. Pairs, of a seed: one gradient "
        "of either loss; measuring while solving has the same unit, in which a pass without gradients counts "
        "a third."
    )
    head = f"<tr><th>method</th>{areas}{levels}<th>pairs + measuring</th></tr>"
    table = f"<table class='scores'><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f"<div class='scroll'>{table}</div><span class='minor'>{note}</span>"


def _score_row(one: MethodScores, ours: Scores) -> str:
    areas = "".join(
        f"<td>{heldout:.3f} / {train:.3f}</td>"
        for heldout, train in zip(one.heldout.areas, one.train.areas, strict=True)
    )
    losses = "".join(
        f"<td>{_loss(loss, own)}</td>" for loss, own in zip(one.heldout.losses, ours.losses, strict=True)
    )
    name = text(one.method.replace("_", " "))
    return f"<tr><th>{name}</th>{areas}{losses}<td>{_counts(one)}</td></tr>"


def _loss(loss: float | None, own: float | None) -> str:
    """Return a loss in percent, with its ratio to ours where that is known and another."""
    if loss is None:
        return NONE
    ratio = f" ({loss / own:.1f}x)" if own and loss != own else ""
    return f"{share(loss, 2)}{ratio}"


def _hypervolume(one: Hypervolume) -> str:
    values = sorted(value for _, value in one.values)
    middle = (
        f"{values[len(values) // 2]:.3f}"
        if len(values) % 2
        else f"{(values[len(values) // 2 - 1] + values[len(values) // 2]) / 2:.3f}"
    )
    spread = (
        f"; median, {values[0]:.3f} to {values[-1]:.3f} over {len(values)} seeds" if len(values) > 1 else ""
    )
    return (
        f'<p class="pair"><span>{text(one.method.replace("_", " "))}</span> <b>{middle}</b> '
        f'<span class="minor">for {_pairs(one)}{spread}</span></p>'
    )


def _pairs(one: Hypervolume | MethodScores) -> str:
    """Return the gradient pairs behind a method's numbers, and beside them its measuring where known."""
    measuring = f" + {_span(one.measuring_pairs)} of measuring" if one.measuring_pairs else ""
    each = " a seed" if len(one.gradient_pairs) > 1 else ""
    return f"{_span(one.gradient_pairs)} gradient pairs{measuring}{each}"


def _counts(one: MethodScores) -> str:
    """Return the same as bare numbers."""
    return " + ".join(_span(counts) for counts in (one.gradient_pairs, one.measuring_pairs) if counts)


def _span(counts: Sequence[float]) -> str:
    """Return whole numbers in words: one, or the range over seeds."""
    low, high = f"{min(counts):,.0f}", f"{max(counts):,.0f}"
    return low if low == high else f"{low} to {high}"


def _uncertainty(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "one seed: there is no estimate of uncertainty, small differences may be chance"
    listed = ", ".join(str(seed) for seed in seeds)
    together = "; line and wash are what half, one and all of them attain" if len(seeds) >= LEAST else ""
    return f"{len(seeds)} seeds ({listed}); every seed is drawn as its own points{together}"


def _aim(report: Report) -> str:
    protocols = " ".join(f'<span class="protocol">{text(name)}</span>' for name in report.protocols)
    return (
        f"<p>{text(report.objective)}</p><p>forget {_names(report.classes_forget)}"
        f"<br>retain {_names(report.classes_retain)}</p>"
        f'<p class="minor">protocols {protocols or "none: no metric was computed"}</p>'
    )


def slider_bar(report: Report) -> str:
    """Return the sticky bar: the slider over the models of the epsilon method and the choice of split."""
    lists = [keys for _, keys in report.seed_sliders] or [report.slider]
    slider = next((keys for keys in lists if report.start in keys), lists[0])
    last = max(0, len(slider) - 1)
    start = slider.index(report.start) if report.start in slider else 0
    listed = "".join(f'<option value="{seed}">{seed}</option>' for seed, _ in report.seed_sliders)
    seeds = f'<label>seed <select id="seed" autocomplete="off">{listed}</select></label>' if listed else ""
    choices = "".join(
        f'<label><input type="radio" name="split" value="{split.value}"'
        f"{' checked' if split is Split.TRAIN else ''}>"
        f"<span>{split.words}</span></label>"
        for split in Split
    )
    chip = f'<b class="smoke">{SMOKE}</b> ' if report.smoke else ""
    disabled = " disabled" if not report.slider else ""
    return (
        f'<div class="dial"><div class="dial-inner"><p class="dial-now" aria-live="polite">{chip}'
        '<span id="dial-mark" class="mark"></span>'
        '<b id="dial-label"></b><span id="dial-numbers"></span></p>'
        '<label class="dial-slider"><span>original</span>'
        '<span class="visually-hidden">Select a model by epsilon</span>'
        f'<input type="range" id="epsilon" min="0" max="{last}" step="0.05" value="{start}"{disabled}>'
        f'<span>most forgotten</span></label><div class="dial-choices">{seeds}'
        '<fieldset class="segmented"><legend class="visually-hidden">Measured on</legend>'
        f"{choices}</fieldset></div></div></div>"
    )
