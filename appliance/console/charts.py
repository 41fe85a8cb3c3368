"""Small charts as SVG made on the server: numbers in, markup out. Colours and sizes come from the style sheet.

Each says in words what it shows, for whoever does not see it. No style attribute: the page's policy forbids them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

BAR, GAP, HEIGHT = 8, 2, 40
WIDE, ROW = 600, 22
# what each part of a study's way is called, in order, and the classes that give it a colour and a pattern
PARTS = (
    ("complete_s", "until complete"),
    ("wait_s", "waiting"),
    ("volume_s", "volume"),
    ("inference_s", "inference"),
    ("findings_s", "findings"),
    ("results_s", "results"),
    ("validated_s", "checked"),
    ("delivery_s", "delivery"),
    ("commitment_s", "commitment"),
)


def by_hour(name: str, counts: Sequence[int], *, alarming: bool = False) -> Markup:
    """Return bars, one an hour, the latest on the right; its text says the sum and the highest."""
    most = max(counts, default=0)
    width = len(counts) * (BAR + GAP)
    bars = [
        f'<rect x="{n * (BAR + GAP)}" y="{HEIGHT - h}" width="{BAR}" height="{h}"/>'
        for n, count in enumerate(counts)
        if (h := _height(count, most))
    ]
    said = f"{name}: {sum(counts)} in {len(counts)} hours, {counts[-1] if counts else 0} in the last, at most {most}"
    kind = "chart alarming" if alarming else "chart"
    line = f'<line x1="0" y1="{HEIGHT}.5" x2="{width}" y2="{HEIGHT}.5"/>'
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {HEIGHT + 1}" role="img" preserveAspectRatio="none">'
        f"<title>{escape(said)}</title>{line}{''.join(bars)}</svg>"
    )


def _height(count: int, most: int) -> int:
    return max(2, round(HEIGHT * count / most)) if count else 0


def way(timings: Mapping[str, float]) -> Markup:
    """Return one bar of the seconds of each step, one after the other; its text says them."""
    parts = [(key, name, timings[key]) for key, name in PARTS if timings.get(key)]
    total = sum(seconds for *_, seconds in parts)
    if not total:
        return Markup("")
    drawn, at = [], 0.0
    for key, name, seconds in parts:
        width = WIDE * seconds / total
        drawn.append(
            f'<rect class="part-{key}" x="{at:.1f}" y="0" width="{max(width - 1, 0.5):.1f}" height="{ROW}">'
            f"<title>{escape(name)} {seconds:.2f} s</title></rect>"
        )
        at += width
    said = ", ".join(f"{name} {seconds:.2f} s" for _, name, seconds in parts)
    return Markup(
        f'<svg class="way" viewBox="0 0 {WIDE} {ROW}" role="img" preserveAspectRatio="none">'
        f"<title>{escape(said)}</title>{''.join(drawn)}</svg>"
    )


def meter(name: str, spent: float, budget: float) -> Markup:
    """Return how much of a budget is spent."""
    share = min(1.0, spent / budget) if budget else 1.0
    kind = "meter alarming" if share > 0.8 else "meter"
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 100 8" role="img" preserveAspectRatio="none">'
        f"<title>{escape(name)}: {spent:.2f} of {budget:g}</title>"
        f'<rect class="all" width="100" height="8"/><rect class="spent" width="{100 * share:.1f}" height="8"/></svg>'
    )
