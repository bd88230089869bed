"""The specification of tools/charts.py and tools/panels.py: what the curves of a page show."""

import math
import re
import xml.etree.ElementTree as xml

import pytest

from minirlhf.run import health
from minirlhf.tools import charts, panels
from minirlhf.tools.charts import Chart, Line


def drawn(chart):
    """The SVG of a chart, parsed: it is well-formed."""
    return xml.fromstring(charts.svg(chart))


def of_class(svg, kind):
    return [node for node in svg.iter() if kind in node.get("class", "").split()]


def numbers(path):
    return [float(x) for x in re.findall(r"-?[\d.]+", path)]


def test_a_line_goes_through_its_points_and_breaks_where_there_is_no_number():
    """Left is the least x, above is more. A metric that was not finite is null."""
    points = [(0, 0.0), (10, 1.0), (20, None), (30, 0.0), (40, 1.0)]
    [line] = of_class(drawn(Chart("a", "b", [Line("c", points)])), "line")
    assert line.get("d").count("M") == 2
    x0, y0, x1, y1, x3, y3, x4, y4 = numbers(line.get("d"))
    assert (x0, x4) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert y0 == y3 > y1 == y4 and x1 - x0 == pytest.approx(x4 - x3, abs=0.2)


def test_the_healthy_range_is_a_band_as_far_as_it_is_in_sight():
    """Up to 0.5 of a curve that goes from 0 to 1: half of the height. A limit that is far away
    does not squeeze the curve."""
    lines = [Line("kl", [(0, 0.0), (1, 1.0)])]
    [band] = of_class(drawn(Chart("kl", "nats", lines, (0, 0.5))), "healthy")
    room = charts.HEIGHT - charts.TOP - charts.BOTTOM
    assert float(band.get("height")) == pytest.approx(room * 0.5 / 1.1, abs=0.2)
    [band] = of_class(drawn(Chart("kl", "nats", lines, (0, 100))), "healthy")
    assert float(band.get("height")) == pytest.approx(room * 1.05 / 1.1, abs=0.2)
    assert not of_class(drawn(Chart("kl", "nats", lines)), "healthy")
    assert not of_class(drawn(Chart("kl", "nats", lines, (5, None))), "healthy")


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.9991, 1.0012), (0.17612, 0.17619), (-3e-9, 5e-9), (1e7, 1.00001e7), (-200, 3.0), (0, 1)],
)
def test_axes_have_units_and_labels_that_differ(low, high):
    """The x axis begins at 0, also where the first points were thinned to a mean."""
    svg = drawn(Chart("kl", "nats", [Line("kl", [(0.5, low), (96, high)])]))
    texts = ["".join(node.itertext()) for node in svg.iter() if node.tag == "text"]
    assert "klnats" in texts and "updates" in texts
    for kind in ("xtick", "ytick"):
        labels = [node.text for node in of_class(svg, kind)]
        assert 3 <= len(labels) <= 7 and len(set(labels)) == len(labels)
    assert of_class(svg, "xtick")[0].text == "0"


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-9, 7e8, 1e300])
def test_a_constant_a_single_point_and_no_point_are_charts_too(value):
    for points in ([(3, value)], [(0, value), (1, value)], [(0, None)], []):
        drawn(Chart("a", "b", [Line("c", points)], (0, 1)))


def test_what_is_markup_in_a_name_is_text_in_the_chart():
    evil = "</svg><script>\"'&"
    svg = drawn(Chart(evil, evil, [Line(evil, [(0, 1.0)]), Line("b", [(0, 2.0)])], x=evil))
    assert not [node for node in svg.iter() if "script" in node.tag]
    assert evil in "".join(svg.itertext())


def test_long_runs_are_thinned_to_means():
    points = charts.thinned([(x, float(x % 2)) for x in range(4000)])
    assert len(points) == charts.MOST and points[0] == (4.5, 0.5)
    assert charts.thinned([(0, None)] * 1000)[0] == (0, None)


# ---- panels


def records(n=12, **numbers):
    """A healthy PPO run, as far as its numbers matter here."""
    usual = {"kl": 1.0, "entropy": 0.5, "ended": 1.0, "approx_kl": 0.01, "clip_fraction": 0.01}
    usual |= {"explained_variance": 0.5, "advantage_std": 1.0, "weight_rms": 0.1, "length": 10.0}
    usual |= {"value_var": 1.0, "return_var": 1.0, "score": 0.0, "score_max": 9.0, "score_std": 1.0}
    return [
        {"step": 20 + i, "kl_coef": 0.1, "policy_loss": 0.0} | usual | numbers for i in range(n)
    ]


LIMITS = {  # metric -> (sign, which end of its range)
    "kl": ("runaway_kl", 1),
    "ended": ("unfinished_responses", 0),
    "approx_kl": ("large_steps", 1),
    "clip_fraction": ("large_steps", 1),
    "explained_variance": ("idle_critic", 0),
    "advantage_std": ("zero_advantages", 0),
    "weight_rms": ("large_weights", 1),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_shaded_range_ends_where_the_warning_begins(name):
    """What a run warns of lies outside, what it does not warn of inside."""
    sign, end = LIMITS[name]
    limit = panels.HEALTHY[name](records())[end]
    inside, outside = (limit * (1 + x if end else 1 - x) for x in (-1e-3, 1e-3))
    if limit < 0:
        inside, outside = outside, inside
    assert sign not in health.diagnose(records(**{name: inside}))
    assert sign in health.diagnose(records(**{name: outside}))


def test_the_range_of_entropy_and_of_loss_follows_the_first_record():
    fallen = records(1) + records(entropy=0.049)
    assert panels.entropy_range(fallen) == (0.05, None)
    assert "collapsed_entropy" in health.diagnose(fallen)
    assert "collapsed_entropy" not in health.diagnose(records(1) + records(entropy=0.051))
    losses = [{"step": i, "loss": loss} for i, loss in enumerate([2.0] + [3.01] * 10)]
    assert panels.loss_range(losses) == (None, 3.0)
    assert "growing_loss" in health.diagnose(losses)


def test_curves_begin_at_update_0_with_the_sft_model():
    """A rollout is sampled before its update, an evaluation made after it."""
    run = [
        {"step": 0, "score": 0.1},
        {"step": 1, "score": 0.2, "eval_score": 0.5, "sft_score": 0.0},
        {"step": 2, "score": None, "eval_score": 0.7, "sft_score": 0.0},
    ]
    assert panels.curve(run, "score") == [(0, 0.1), (1, 0.2), (2, None)]
    assert panels.curve(run, "eval_score") == [(0, 0.0), (2, 0.5), (3, 0.7)]


def test_every_chart_has_a_unit_and_only_metrics_that_the_run_has():
    run = [{"step": i, "kl_coef": 0.1, "score": 0.1, "kl": 0.0} for i in range(3)]
    assert [chart.title for chart in panels.charts(run)] == ["score", "KL from the reference"]
    assert all(unit and title for title, unit, _ in panels.PPO + panels.LEARNING)
    [loss] = panels.charts([{"step": 0, "loss": 1.0, "held_out_loss": 2.0}])
    assert [line.name for line in loss.lines] == ["loss", "held_out_loss"] and loss.x == "steps"


def test_score_against_kl_begins_at_the_sft_model():
    evaluation = {"sft_kl": 0.0, "sft_score": -0.5, "eval_kl": 2.0, "eval_score": 1.0}
    chart = panels.frontier([{"step": 9} | evaluation])
    assert chart.lines[0].points == [(0.0, -0.5), (2.0, 1.0)]
    assert panels.frontier([{"step": 0, "score": 1.0}]) is None


def test_calibration_is_drawn_beside_the_diagonal():
    """A model that is right as often as it is sure lies on it."""
    bins = [{"confidence": c, "accuracy": c, "pairs": 5} for c in (0.55, 0.75, 0.95)]
    svg = drawn(panels.calibration(bins))
    x0, y0, x1, y1 = numbers(of_class(svg, "diagonal")[0].get("d"))
    points = numbers(of_class(svg, "line")[0].get("d"))
    for x, y in zip(points[::2], points[1::2], strict=True):
        assert y == pytest.approx(y0 + (x - x0) * (y1 - y0) / (x1 - x0), abs=0.2)
    assert math.isclose(x1, charts.WIDTH - charts.RIGHT)
