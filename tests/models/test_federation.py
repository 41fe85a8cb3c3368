"""Updates on the wire, who is believed, and how updates become new weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import save

from appliance.errors import RoundRefused
from models.federation import (
    Question,
    Rules,
    Update,
    Weights,
    as_halves,
    believed,
    clipped,
    decode,
    decode_base,
    difference,
    digest_of,
    encode,
    encode_base,
    join,
    left_behind,
    norm_of,
)

RULES = Rules(clip_norm=5.0, min_sites=2)


def weights(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "one.weight": (scale * random.standard_normal((4, 3, 3))).astype(np.float32),
        "two.bias": (scale * random.standard_normal(5)).astype(np.float32),
    }


BASE = weights(1)
QUESTION = Question("hippocampus-1", 2, digest_of(BASE), "north")
DELTAS = weights(2, 0.1)


def update(site: str = "north", deltas: Weights = DELTAS, cases: int = 10) -> Update:
    return Update(replace(QUESTION, site=site), deltas, cases, {"loss": 0.5})


@pytest.mark.parametrize(("precision", "error"), [("f16", 1e-3), ("int8", 1e-2)])
def test_an_update_arrives_as_it_left_but_for_rounding(precision: str, error: float) -> None:
    sent = encode(update(), precision)  # type: ignore[arg-type]
    found = decode(sent, QUESTION, BASE)
    assert (found.site, found.cases, found.metrics) == ("north", 10, {"loss": 0.5})
    lost = left_behind(update(), sent)
    for name, one in DELTAS.items():
        assert found.deltas[name] == pytest.approx(one, abs=error * float(np.abs(one).max()))
        assert found.deltas[name] + lost[name] == pytest.approx(one, abs=1e-6)


def test_halves_are_half_and_int8_a_quarter_of_the_weights() -> None:
    large = {"w": np.zeros((1000, 1000), np.float32)}
    assert len(encode(update(deltas=large))) < 0.501 * large["w"].nbytes
    assert len(encode(update(deltas=large), "int8")) < 0.251 * large["w"].nbytes
    assert len(encode_base(as_halves(large), {})) < 0.501 * large["w"].nbytes


def test_a_base_arrives_with_its_record() -> None:
    found, about = decode_base(encode_base(as_halves(BASE), {"round": 3}), 10_000)
    assert about == {"round": 3}
    assert found["two.bias"] == pytest.approx(BASE["two.bias"], abs=2e-3)
    with pytest.raises(RoundRefused, match="bytes"):
        decode_base(encode_base(as_halves(BASE), {}), 100)


def broken(**changes: np.ndarray | None) -> bytes:
    """Return an update of which tensors were replaced or, with None, left out."""
    tensors = {"one.weight": DELTAS["one.weight"].astype(np.float16), "two.bias": DELTAS["two.bias"].astype(np.float16)}
    given = {name.replace("_", "."): one for name, one in changes.items()}
    metadata = {
        "format": "curie-update-1", "precision": "f16", "cases": "3", "metrics": "{}",
        "question": json.dumps(asdict(QUESTION)),
    }  # fmt: skip
    return save({k: v for k, v in (tensors | given).items() if v is not None}, metadata=metadata)


NAN = DELTAS["two.bias"].astype(np.float16).copy()
NAN[2] = np.nan
HOSTILE: list[tuple[Callable[[], bytes], str]] = [
    (lambda: broken(two_bias=NAN), "NaN or infinity"),
    (lambda: broken(two_bias=np.zeros(6, np.float16)), "has shape"),
    (lambda: broken(two_bias=np.zeros(5, np.float64)), "is float64"),
    (lambda: broken(two_bias=None), "lacks 'two.bias'"),
    (lambda: broken(three=np.zeros(5, np.float16)), "holds 'three'"),
    (lambda: broken(three=np.zeros(200_000, np.float16)), "is the most that can be right"),
    (lambda: pickle.dumps(DELTAS), "not safetensors"),
    (lambda: b"", "not safetensors"),
    (lambda: encode(update())[:-3], "not safetensors"),
    (lambda: b"\xff" * 64, "not safetensors"),
    (lambda: save(dict(DELTAS)), "no update of ours"),
    (lambda: encode(replace(update(), question=replace(QUESTION, round=1))), "another round"),
    (lambda: encode(replace(update(), question=replace(QUESTION, base="0" * 64))), "another base"),
    (lambda: encode(update("south")), "another site"),
    (lambda: encode(update(cases=0)), "0 cases"),
    (lambda: encode(replace(update(), metrics={"loss": float("nan")})), "no finite numbers"),
]


@pytest.mark.parametrize(("made", "words"), HOSTILE, ids=[words for _, words in HOSTILE])
def test_what_is_no_honest_answer_is_refused_with_its_reason(made: Callable[[], bytes], words: str) -> None:
    assert decode(broken(), QUESTION, BASE).cases == 3
    with pytest.raises(RoundRefused, match=words):
        decode(made(), QUESTION, BASE)


def test_too_long_an_update_is_named() -> None:
    honest = [update(site, weights(n, 0.1)) for n, site in enumerate(("a", "b", "c"), start=5)]
    loud = update("loud", {name: one * 100 for name, one in DELTAS.items()})
    found, refused = believed([*honest, loud], RULES)
    assert [one.site for one in found] == ["a", "b", "c"]
    assert "sites clip to 5" in refused["loud"]
    quieter = update("loud", clipped(loud.deltas, 4.9))
    _, refused = believed([*honest, quieter], RULES)
    assert "the others'" in refused["loud"]


def test_an_update_against_all_others_is_named() -> None:
    same = [update(site, {k: v + 0.01 * n for k, v in DELTAS.items()}) for n, site in enumerate(("a", "b", "c"))]
    contrary = update("contrary", {name: -one for name, one in DELTAS.items()})
    found, refused = believed([*same, contrary], RULES)
    assert len(found) == 3
    assert "points away" in refused["contrary"]


def test_clipping_shortens_what_is_too_long_and_nothing_else() -> None:
    assert norm_of(clipped(BASE, 1.0)) == pytest.approx(1.0)
    assert norm_of(clipped(DELTAS, 100.0)) == pytest.approx(norm_of(DELTAS))
    zero = {"w": np.zeros(3, np.float32)}
    assert norm_of(clipped(zero, 1.0)) == 0


def test_the_mean_is_weighted_by_cases() -> None:
    one, two = ({"w": np.full(3, value, np.float32)} for value in (1.0, 5.0))
    joined = join({"w": np.ones(3, np.float32)}, [update("a", one, 30), update("b", two, 10)], RULES)
    assert joined.weights["w"] == pytest.approx([3.0] * 3)
    assert difference(joined.weights, {"w": np.ones(3, np.float32)})["w"] == pytest.approx(joined.step["w"])


def test_a_trimmed_mean_leaves_the_extremes_out() -> None:
    several = [update(str(value), {"w": np.full(2, value, np.float32)}) for value in (-90.0, 1.0, 2.0, 70.0)]
    rules = replace(RULES, aggregation="trimmed-mean")
    assert join({"w": np.zeros(2, np.float32)}, several, rules).weights["w"] == pytest.approx([1.5, 1.5])
    assert join({"w": np.zeros(2, np.float32)}, several[1:3], rules).weights["w"] == pytest.approx([1.5, 1.5])


def test_momentum_goes_on_with_part_of_the_last_step() -> None:
    base, step = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
    rules = replace(RULES, aggregation="momentum", momentum=0.5)
    updates = [update("a", step), update("b", step)]
    first = join(base, updates, rules)
    second = join(first.weights, updates, rules, first.step)
    assert first.weights["w"] == pytest.approx([1.0, 1.0])
    assert second.weights["w"] == pytest.approx([2.5, 2.5])


def test_too_few_updates_change_nothing() -> None:
    with pytest.raises(RoundRefused, match="1 updates count, 2 are needed"):
        join(BASE, [update()], RULES)


def test_the_digest_tells_weights_apart_and_not_their_order() -> None:
    assert digest_of(BASE) == digest_of(dict(reversed(BASE.items())))
    assert digest_of(BASE) != digest_of(BASE | {"two.bias": BASE["two.bias"] + np.float32(1e-6)})
