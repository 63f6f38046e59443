"""The page carries its content unchanged, harmless and whole."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from pyproj import Geod

from stgraph.errors import InputError
from stgraph.report import page as report
from stgraph.report import payload, render, write_report

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\u2028 & "quoted"'


class Parts(HTMLParser):
    """What an HTML parser makes of the page: its elements, its texts, and its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[list] = []
        self.texts: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1][1] += data
        elif self.inside != "style":
            self.texts.append(data)

    @property
    def data(self) -> dict:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "content"))

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def numbers(nested) -> np.ndarray:
    return np.array(nested, dtype=float)  # None becomes NaN


def test_the_page_gives_its_content_back(content):
    data = Parts(render(content)).data
    assert data == payload(content)
    assert data["sensors"] == list(content.sensor_ids)
    assert data["times"] == list(content.times)
    assert data["summary"] == content.summary
    assert data["provenance"] == content.provenance
    assert data["curves"]["sensors"] == list(content.curve_sensors)
    assert data["curves"]["origins"] == list(content.origins)
    np.testing.assert_allclose(numbers(data["positions"]), content.positions, atol=0.5e-5, rtol=0)
    np.testing.assert_allclose(numbers(data["error"]), content.error_by_sensor, rtol=2e-4)
    np.testing.assert_allclose(numbers(data["error_by_step"]), content.error_by_step, rtol=2e-4)
    for step, values in content.error_by_sensor_at.items():
        np.testing.assert_allclose(numbers(data["error_at"][str(step)]), values, rtol=2e-4)
    for name, values in content.control_error_by_step.items():
        np.testing.assert_allclose(numbers(data["control_error_by_step"][name]), values, rtol=2e-4)
    np.testing.assert_allclose(numbers(data["curves"]["truth"]).T, content.truth, atol=0.0501, rtol=0)
    for step, values in content.forecast_at.items():
        np.testing.assert_allclose(numbers(data["curves"]["forecast_at"][str(step)]).T, values, atol=0.0501, rtol=0)
    np.testing.assert_allclose(numbers(data["curves"]["forecast_from"]).transpose(1, 2, 0), content.forecast_from,
                               atol=0.0501, rtol=0)


def test_missing_is_null_and_nothing_else_is(content):
    data = payload(content)
    truth = np.asarray(content.truth).T
    assert np.isnan(truth).any()
    assert [[v is None for v in row] for row in data["curves"]["truth"]] == np.isnan(truth).tolist()
    assert "NaN" not in report.script_json(data)
    summary = {**content.summary, "seconds": float("nan"), "parameters": np.int64(7)}
    assert payload(replace(content, summary=summary))["summary"]["seconds"] is None
    assert payload(replace(content, summary=summary))["summary"]["parameters"] == 7


def test_the_same_content_gives_the_same_bytes(content, make_content):
    assert render(content) == render(make_content())
    assert render(content) != render(make_content(seed=1))


def test_hostile_texts_stay_texts(content):
    ids = list(content.sensor_ids)
    ids[content.curve_sensors[0]] = HOSTILE
    hostile = replace(content, sensor_ids=ids, title=HOSTILE, model=HOSTILE, quantity=HOSTILE, next_command=HOSTILE,
                      provenance={HOSTILE: [HOSTILE], "commands": [HOSTILE], "attributions": [HOSTILE]},
                      curve_labels=[HOSTILE] * len(content.curve_sensors))
    plain, attacked = Parts(render(content)), Parts(render(hostile))
    assert attacked.data["sensors"] == ids
    assert attacked.data["next_command"] == HOSTILE
    assert len(attacked.scripts) == len(plain.scripts) == 2
    assert attacked.scripts[1] == plain.scripts[1]
    assert {tag for tag, _ in attacked.elements} <= {tag for tag, _ in plain.elements}
    assert not any(name.startswith("on") for _, attributes in attacked.elements for name in attributes)
    raw = re.search(r'<script type="application/json" id="content">(.*?)</script>', render(hostile), re.S)[1]
    assert not set("<>&\u2028\u2029") & set(raw)


def test_nothing_is_fetched(content):
    html = render(content)
    parts = Parts(html)
    policy = next(a["content"] for tag, a in parts.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(parts.scripts[1][1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy
    assert not re.search(r"@import|url\(|https?://", html[html.index("<style>"):html.index("</style>")])
    assert not any("src" in attributes or "srcset" in attributes for _, attributes in parts.elements)
    links = [(tag, a["href"]) for tag, a in parts.elements if a.get("href")]
    assert {tag for tag, href in links if href.startswith("http")} == {"a"}
    assert [href for tag, href in links if tag == "link"] == ["data:,"]


def test_simulated_data_is_called_so(content):
    assert "Simulated data" in Parts(render(content)).text
    assert "no reading on this page was measured" in Parts(render(content)).text
    assert "imulated" not in Parts(render(replace(content, simulated=False))).text


def test_tables_hold_every_score_and_mark_the_lowest(content):
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", render(content), re.S)
    table = [re.findall(r"<td(?: class=(best))?>([\d.,]+)", row) for row in rows[:15]]
    scores = [content.summary["horizons"], *content.summary["controls"].values()]
    for metric, start in (("mae", 0), ("rmse", 5), ("mape", 10)):
        for horizon, key in enumerate(("3", "6", "12", "all")):
            expected = [s[key][metric] for s in scores]
            column = [table[start + row][horizon] for row in range(5)]
            assert [float(text.replace(",", "")) for _, text in column] == pytest.approx(expected, abs=0.051)
            assert [bool(best) for best, _ in column] == [value == min(expected) for value in expected]


def test_positions_keep_distances():
    rng = np.random.default_rng(3)
    positions = np.stack([-118.3 + rng.uniform(-0.3, 0.3, 40), 34.1 + rng.uniform(-0.2, 0.2, 40)], axis=1)
    positions[7] = np.nan
    kind, plane = report.place(positions)
    assert kind == "places"
    assert np.isnan(plane[7]).all()
    a, b = np.arange(0, 7), np.arange(10, 17)
    metres = Geod(ellps="sphere").inv(*positions[a].T, *positions[b].T)[2]
    np.testing.assert_allclose(np.linalg.norm(plane[a] - plane[b], axis=1), np.array(metres) / 1000, rtol=3e-3)


def test_a_city_across_the_antimeridian_stays_whole():
    plane = report.place(np.array([[179.9, -17.0], [-179.9, -17.0], [180.0, -17.1]]))[1]
    assert np.ptp(plane[:, 0]) == pytest.approx(0.2 * report.KM_PER_DEGREE * np.cos(np.radians(17.05)))


def test_sensors_without_any_position_use_the_layout_or_a_grid():
    nowhere = np.full((5, 2), np.nan)
    layout = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1]])
    kind, plane = report.place(nowhere, layout)
    assert kind == "layout"
    np.testing.assert_allclose(plane, layout * 50.0)
    kind, plane = report.place(nowhere)
    assert kind == "grid"
    assert len({tuple(place) for place in plane.tolist()}) == 5


def test_edges_are_drawn_once_and_the_longest_give_way(monkeypatch):
    positions = np.array([[0.0, 0.0], [0.01, 0.0], [0.03, 0.0], [0.1, 0.0]])
    edges = np.array([[0, 1, 2, 2, 3, 3], [1, 0, 1, 2, 2, 0]])
    assert report.shown_edges(edges, positions).T.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]
    monkeypatch.setattr(report, "EDGE_LIMIT", 2)
    assert report.shown_edges(edges, positions).T.tolist() == [[0, 1], [1, 2]]


def test_lines_break_where_time_is_missing():
    times = ["2016-02-29T22:40", "2016-02-29T22:50", "2016-03-01T05:00", "2016-03-01T05:10"]
    assert report.time_breaks(times, 600) == [2]
    across_the_clock_change = ["2012-03-11T01:50-08:00", "2012-03-11T01:55-08:00", "2012-03-11T03:00-07:00"]
    assert report.time_breaks(across_the_clock_change, 300) == []


@pytest.mark.parametrize(("part", "value", "named"), [
    ("truth", np.zeros((3, 2)), "truth has shape"), ("origins", [10**6] * 80, "origins has an index"),
    ("error_by_sensor_at", {3: np.zeros(2)}, r"error_by_sensor_at\[3\]"), ("edges", np.array([[0], [999]]), "edges")])
def test_parts_that_disagree_are_named(content, part, value, named):
    with pytest.raises(ValueError, match=named):
        payload(replace(content, **{part: value}))


def test_a_failed_report_leaves_what_stood_there(content, tmp_path):
    target = tmp_path / "report.html"
    write_report(content, target)
    before = target.read_bytes()
    with pytest.raises(ValueError, match="truth"):
        write_report(replace(content, truth=np.zeros((1, 1))), target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(InputError):
        write_report(content, target / "below-a-file.html")


def test_an_empty_test_part_still_makes_a_page(content):
    sensors = len(content.sensor_ids)
    nothing = np.full(sensors, np.nan)
    empty = replace(content, times=[], curve_sensors=[], truth=np.zeros((0, 0)), curve_labels=[], origins=[],
                    forecast_at={}, forecast_from=np.zeros((0, 12, 0)), error_by_sensor=nothing,
                    error_by_sensor_at={}, summary={"horizons": {"all": {"mae": None}}, "controls": {}})
    assert "No forecast could be scored" in Parts(render(empty)).text


def test_the_page_stays_small(make_content):
    assert len(render(make_content(sensors=207, rows=400, curves=12))) < 500_000
    every_sensor = make_content(sensors=207, rows=400, curves=207)
    few_origins = replace(every_sensor, origins=every_sensor.origins[::3],
                          forecast_from=every_sensor.forecast_from[::3])
    assert len(render(few_origins)) < 2_500_000
