"""Map matching: made drives are found again, walks are connected, and a slow plain reference says the same."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import shapely

from stgraph.errors import InputError
from stgraph.roads import Roads
from stgraph.roads.history import RoadHistory
from stgraph.roads.nearest import SegmentIndex
from stgraph.roads.routing import RoutingCells, routing_table
from stgraph.roads.turns import make_turns, permits
from stgraph.sources.osm.build import build_osm
from stgraph.sources.trips import matching
from stgraph.sources.trips.matcher import Matcher, median_gaps, not_permitted
from stgraph.sources.trips.matching import MatchSettings, Points, match


# -------------------------------------------------------------------- made roads and drives
def roads_of(lines, two_way) -> Roads:
    """Roads in plain metres whose segments are these lines, and then the other direction of those that are two-way."""
    lines = [np.asarray(line, float) for line in lines]
    lines += [lines[row][::-1] for row in np.flatnonzero(two_way)]
    names: dict[tuple[float, float], int] = {}
    tail, head = (np.array([names.setdefault(tuple(line[end]), len(names)) for line in lines]) for end in (0, -1))
    ptr = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    length = np.array([np.hypot(*np.diff(line, axis=0).T).sum() for line in lines])
    return Roads(np.arange(len(names)), np.array(list(names)), tail, head, length, ptr, np.concatenate(lines),
                 metric=True)


def grid(seed=0, size=5, block=120.0) -> Roads:
    """Streets between the jittered corners of a grid, with bends; a quarter are one-way."""
    chance = np.random.default_rng(seed)
    corner = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1) * block
    corner = corner + chance.normal(0, 12, corner.shape)
    ends = [((i, j), (i + k, j + 1 - k)) for i in range(size) for j in range(size) for k in (0, 1)
            if i + k < size and j + 1 - k < size]
    lines = [[corner[one], (corner[one] + corner[other]) / 2 + chance.normal(0, 6, 2), corner[other]]
             for one, other in ends]
    return roads_of(lines, chance.random(len(lines)) < 0.75)


def random_drive(roads, chance, segments):
    """A connected walk without U-turns."""
    while True:
        way = [int(chance.integers(len(roads.tail)))]
        while len(way) < segments:
            ahead = np.flatnonzero(roads.tail == roads.head[way[-1]])
            ahead = ahead[ahead != roads.reverse[way[-1]]]
            if not len(ahead):
                break
            way.append(int(chance.choice(ahead)))
        if len(way) == segments:
            return np.array(way)


def drive(roads, way, every, sigma=0.0, speed=10.0, chance=None, trip=0):
    """Points of a drive from end to end of a walk at one speed: (Points, true segment of each)."""
    end = np.cumsum(roads.length[way])
    time = np.arange(0, end[-1] / speed, every)
    at = np.minimum(np.searchsorted(end, time * speed, side="right"), len(way) - 1)
    xy = roads.to_metres(roads.locate(way[at], time * speed - (end - roads.length[way])[at]))
    if sigma:
        xy = xy + chance.normal(0, sigma, xy.shape)
    return Points(np.full(len(time), trip), time, xy), way[at]


def joined(parts):
    points = [one for one, _ in parts]
    return Points(*(np.concatenate([getattr(one, name) for one in points]) for name in ("trip", "time", "xy"))), \
        np.concatenate([one for _, one in parts])


def straight_streets(count=4, block=100.0, apart=None) -> Roads:
    """A straight two-way street of some blocks along the x axis; perhaps a second one beside it, not joined to it."""
    rows = [0.0] if apart is None else [0.0, apart]
    lines = [[[i * block, y], [(i + 1) * block, y]] for y in rows for i in range(count)]
    return roads_of(lines, np.ones(len(lines), bool))


def along(x, y=0.0, trip=0, every=5.0):
    """One trip whose points have these places along the x axis."""
    x = np.asarray(x, float)
    return Points(np.full(len(x), trip), np.arange(len(x)) * every, np.column_stack([x, np.broadcast_to(y, x.shape)]))


def check_same(one, other, points=..., walks=...):
    """Two results agree, of the second some points and rows of walks; sums of other trips may round differently."""
    for name in ("point_segment", "point_offset", "break_before"):
        assert np.array_equal(getattr(one, name), getattr(other, name)[points], equal_nan="offset" in name), name
    for name in ("walk_piece", "walk_seq", "walk_segment"):
        assert np.array_equal(getattr(one, name), getattr(other, name)[walks]), name
    np.testing.assert_allclose(one.point_confidence, other.point_confidence[points], atol=1e-9)
    for name in ("walk_entered_at", "walk_length", "walk_confidence"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name)[walks], atol=1e-6)


def check_laws(roads, points, matched):
    """What holds for every result."""
    assert len(matched.point_segment) == len(points)
    there = matched.point_segment >= 0
    assert np.array_equal(there, np.isfinite(matched.point_offset))
    assert np.array_equal(there, matched.point_confidence > 0)
    assert (matched.point_confidence <= 1).all()
    assert ((matched.point_offset >= 0) & (matched.point_offset <= roads.length[matched.point_segment]))[there].all()
    same_trip = np.diff(matched.walk_trip) == 0
    same = same_trip & (np.diff(matched.walk_piece) == 0)
    assert (roads.head[matched.walk_segment[:-1]] == roads.tail[matched.walk_segment[1:]])[same].all()
    assert (np.diff(matched.walk_entered_at)[same_trip] >= 0).all()
    assert (np.diff(matched.walk_seq)[same] == 1).all()
    assert (matched.walk_seq[1:][~same] == 0).all()
    assert (np.diff(matched.walk_piece)[same_trip] <= 1).all()
    assert (matched.walk_piece[1:][~same_trip] == 0).all()
    assert ((matched.walk_length >= 0) & (matched.walk_length <= roads.length[matched.walk_segment] + 1e-6)).all()
    assert ((matched.walk_confidence > 0) & (matched.walk_confidence <= 1)).all()
    inside = same[1:] & same[:-1]  # a segment neither first nor last of its piece is driven from end to end
    np.testing.assert_allclose(matched.walk_length[1:-1][inside], roads.length[matched.walk_segment[1:-1]][inside])
    pieces = len(matched.walk_trip) - same.sum()
    assert matched.break_before.sum() == pieces - len(np.unique(points.trip[there]))
    walked = set(zip(matched.walk_trip.tolist(), matched.walk_segment.tolist(), strict=True))
    assert set(zip(points.trip[there].tolist(), matched.point_segment[there].tolist(), strict=True)) <= walked
    first = matched.walk_seq == 0
    begins = np.isin(np.arange(len(points)), _first_points(points, matched))
    assert np.array_equal(matched.walk_entered_at[first], points.time[begins])


def _first_points(points, matched):
    """The first matched point of each piece."""
    rows = np.flatnonzero(matched.point_segment >= 0)
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(points.trip[rows]) != 0) | matched.break_before[rows][1:]
    return rows[new]


def shares(roads, ways, matched):
    """Share of the segments driven that were found, and of those found that were driven."""
    truth = {(trip, segment) for trip, way in enumerate(ways) for segment in way.tolist()}
    found = set(zip(matched.walk_trip.tolist(), matched.walk_segment.tolist(), strict=True))
    return len(truth & found) / len(truth), len(truth & found) / len(found)


@pytest.fixture(scope="module")
def helsinki(shared_data):
    """A real network with an index and all ways of 1 km."""
    roads = build_osm(shared_data / "osm_extracts" / "helsinki-centre.osm.pbf")[0]
    return roads, SegmentIndex(roads), RoutingCells(roads, 1000.0)


@pytest.fixture(scope="module")
def helsinki_ways(helsinki):
    chance = np.random.default_rng(3)
    return [random_drive(helsinki[0], chance, 25) for _ in range(40)]


# -------------------------------------------------------------------- made drives on a real network
@pytest.mark.parametrize(("sigma", "every", "least"), [(0.0, 1.0, 0.99), (5.0, 1.0, 0.95), (20.0, 5.0, 0.90)])
def test_made_drives_are_found_again(helsinki, helsinki_ways, sigma, every, least):
    roads, index, table = helsinki
    chance = np.random.default_rng(8)
    points, true = joined([drive(roads, way, every, sigma, 8.0, chance, trip)
                           for trip, way in enumerate(helsinki_ways)])
    matched = match(roads, points, MatchSettings(sigma=max(sigma, 3.0)), index, table)
    check_laws(roads, points, matched)
    found, right = shares(roads, helsinki_ways, matched)
    assert found >= least
    assert right >= least
    assert matched.break_before.sum() <= len(points) / 5000
    if not sigma:
        assert (matched.point_segment == true).mean() >= 0.99


def test_one_trip_alone_is_the_same_as_in_a_batch_and_names_of_trips_do_not_matter(monkeypatch, helsinki,
                                                                                  helsinki_ways):
    roads, index, _ = helsinki
    chance = np.random.default_rng(9)
    parts = [drive(roads, way, 5.0, 15.0, 8.0, chance, 3 * trip) for trip, way in enumerate(helsinki_ways[:15])]
    points, _ = joined(parts)
    together = match(roads, points, index=index, table=routing_table(roads, 1000.0, turns=True))
    monkeypatch.setattr(matching, "BLOCK", 150)  # many blocks
    check_same(together, match(roads, points, index=index))
    order = chance.permutation(len(parts))
    renamed, _ = joined([(Points(np.full(len(one.trip), number), one.time, one.xy), true)
                         for number, (one, true) in enumerate(parts[row] for row in order)])
    again = match(roads, renamed, index=index)
    for number, row in enumerate(order):
        alone = match(roads, parts[row][0], index=index)
        check_same(alone, again, renamed.trip == number, again.walk_trip == number)
        check_same(alone, together, points.trip == 3 * row, together.walk_trip == 3 * row)


def test_recovered_gaps_are_better_than_straight_lines(helsinki, helsinki_ways):
    roads, index, table = helsinki
    at_last, straight, count = 0.0, 0.0, 0
    for way in helsinki_ways[:20]:
        points, _ = drive(roads, way, 1.0, speed=8.0)
        kept = np.arange(0, len(points), 40)
        matched = match(roads, points[kept], MatchSettings(sigma=3.0), index, table)
        if matched.break_before.any() or len(matched.walk_segment) < 2:
            continue
        gap = np.setdiff1d(np.arange(kept[-1]), kept)
        row = np.searchsorted(matched.walk_entered_at, points.time[gap], side="right") - 1
        left = np.append(matched.walk_entered_at[1:], points.time[kept[-1]])
        stay = np.maximum(left - matched.walk_entered_at, 1e-9)[row]
        share = (points.time[gap] - matched.walk_entered_at[row]) / stay
        start = np.where(row == 0, matched.point_offset[0], 0.0)
        place = roads.to_metres(roads.locate(matched.walk_segment[row], start + share * matched.walk_length[row]))
        line = np.column_stack([np.interp(points.time[gap], points.time[kept], points.xy[kept, k]) for k in (0, 1)])
        at_last += np.hypot(*(place - points.xy[gap]).T).sum()
        straight += np.hypot(*(line - points.xy[gap]).T).sum()
        count += len(gap)
    assert count > 1000
    assert at_last < 0.5 * straight


# -------------------------------------------------------------------- the same as a slow reference
def reference(roads, points, settings):
    """Newson and Krumm in plain Python: (state of each point or None, its probability, breaks)."""
    graph = nx.MultiDiGraph()
    graph.add_edges_from((a, b, s, {"length": m}) for s, (a, b, m) in enumerate(zip(
        roads.tail.tolist(), roads.head.tolist(), roads.length.tolist(), strict=True)))
    lines = [shapely.LineString(roads.line_metres[a:b]) for a, b in itertools.pairwise(roads.line_ptr)]

    def states_of(xy):
        point = shapely.Point(xy)
        return [(s, line.project(point), line.distance(point)) for s, line in enumerate(lines)
                if line.distance(point) <= settings.reach]

    def move(one, other, gap, straight):
        (s, p, _), (t, q, _) = one, other
        turns = bool(t == roads.reverse[s])
        if s == t and q - p >= -settings.backward * settings.sigma:
            way = max(q - p, 0.0)
        else:
            try:
                nodes = nx.dijkstra_path(graph, int(roads.head[s]), int(roads.tail[t]), "length")
            except nx.NetworkXNoPath:
                return -math.inf
            passed = [min(graph[a][b], key=lambda k, a=a, b=b: graph[a][b][k]["length"])
                      for a, b in itertools.pairwise(nodes)]
            between = sum(roads.length[passed])
            if between > settings.limit:
                return -math.inf
            way = roads.length[s] - p + between + q
            turns |= bool(passed) and (passed[0] == roads.reverse[s] or roads.reverse[passed[-1]] == t)
        if way > settings.max_speed * gap + 4 * settings.sigma:
            return -math.inf
        scale = settings.beta + settings.beta_growth * gap + settings.sigma**2 / (straight + settings.sigma)
        line = math.sqrt(max(straight**2 - 4 * settings.sigma**2, 0))
        return -abs(way - line) / scale - settings.u_turn * turns

    def log_sum(values):
        top = max(values)
        return top if top == -math.inf else top + math.log(sum(math.exp(one - top) for one in values))

    rows = [(row, states_of(points.xy[row])) for row in range(len(points))]
    rows = [(row, states) for row, states in rows if states]
    answer, pieces, score, forward, moves = {}, [], [], [], []
    emission = [[-0.5 * (d / settings.sigma) ** 2 for _, _, d in states] for _, states in rows]
    for k, (row, states) in enumerate(rows):
        new = k == 0
        if not new:
            before = rows[k - 1][0]
            gap = points.time[row] - points.time[before]
            straight = math.hypot(*(points.xy[row] - points.xy[before]))
            new = row - before > 1 and gap > settings.bridge
            table = [[move(one, other, gap, straight) for one in rows[k - 1][1]] for other in states]
            best = [[a + b for a, b in zip(score[-1], line, strict=True)] for line in table]
            new |= max(map(max, best)) == -math.inf
        if new:
            pieces.append(k)
            score.append(emission[k])
            forward.append(emission[k])
            moves.append(None)
        else:
            score.append([max(line) + e for line, e in zip(best, emission[k], strict=True)])
            forward.append([log_sum([a + b for a, b in zip(forward[-1], line, strict=True)]) + e
                            for line, e in zip(table, emission[k], strict=True)])
            moves.append(table)
    for start, end in itertools.pairwise([*pieces, len(rows)]):
        state, backward = int(np.argmax(score[end - 1])), [0.0] * len(rows[end - 1][1])
        for k in range(end - 1, start - 1, -1):
            weights = [a + b for a, b in zip(forward[k], backward, strict=True)]
            answer[rows[k][0]] = rows[k][1][state], math.exp(weights[state] - log_sum(weights)), k == start
            if k > start:
                state = int(np.argmax([a + b for a, b in zip(score[k - 1], moves[k][state], strict=True)]))
                backward = [log_sum([moves[k][b][a] + emission[k][b] + backward[b] for b in range(len(moves[k]))])
                            for a in range(len(rows[k - 1][1]))]
    return answer


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_reference_says_the_same(seed):
    roads, chance = grid(seed), np.random.default_rng(seed)
    settings = MatchSettings(sigma=12.0, limit=[400.0, 150.0, 400.0, 60.0][seed], u_turn=[5.0, 0.0, 2.0, 5.0][seed],
                             max_speed=[60.0, 60.0, 6.0, 60.0][seed], bridge=8.0)
    parts = [drive(roads, random_drive(roads, chance, 9), [4.0, 10.0][seed // 2], 12.0, [10.0, 10.0, 10.0, 30.0][seed],
                   chance, trip) for trip in range(4)]
    points, _ = joined(parts)
    away = chance.random(len(points)) < 0.04
    points.xy[away] += 900.0  # no street nearby
    matched = match(roads, points, settings)
    check_laws(roads, points, matched)
    breaks = 0
    for trip in range(4):
        rows = np.flatnonzero(points.trip == trip)
        expected, seen = reference(roads, points[rows], settings), False
        assert np.array_equal(np.isin(np.arange(len(rows)), list(expected)), matched.point_segment[rows] >= 0)
        for k, ((segment, offset, _), confidence, begins) in sorted(expected.items()):
            place = matched.point_segment[rows[k]], matched.point_offset[rows[k]]
            at = roads.locate(*(np.array([one]) for one in place))
            assert place[0] == segment or np.allclose(at, roads.locate(np.array([segment]), np.array([offset])))
            assert place[1] == pytest.approx(offset, abs=1e-6) or place[0] != segment
            assert matched.point_confidence[rows[k]] == pytest.approx(confidence, abs=2e-4)
            assert matched.break_before[rows[k]] == (begins and seen)
            breaks += begins and seen
            seen = True
    assert (breaks > 0) == (seed > 1)  # the low speed bound and the short limit must have cut something


# -------------------------------------------------------------------- by hand
def test_times_and_lengths_by_hand():
    roads = straight_streets(4)
    matched = match(roads, along([50, 150, 170, 350], every=10.0))
    assert matched.point_segment.tolist() == [0, 1, 1, 3]
    np.testing.assert_allclose(matched.point_offset, [50, 50, 70, 50])
    assert matched.walk_segment.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(matched.walk_entered_at, [0, 5, 20 + 10 * 30 / 180, 20 + 10 * 130 / 180])
    np.testing.assert_allclose(matched.walk_length, [50, 100, 100, 50])
    assert not matched.break_before.any()


def test_standing_and_slipping_back_is_one_segment():
    roads = straight_streets(3)
    points = along([20, 60, 52, 58, 50, 55, 55, 80, 130], every=1.0)
    matched = match(roads, points)
    check_laws(roads, points, matched)
    assert matched.walk_segment.tolist() == [0, 1]
    np.testing.assert_allclose(matched.walk_length, [80, 30])
    np.testing.assert_allclose(matched.walk_entered_at, [0, 7 + 20 / 50])


def test_a_single_point_and_two_points_on_one_segment():
    roads = straight_streets(3)
    one = match(roads, along([130]))
    assert one.walk_segment.tolist() in ([1], [4])  # either direction
    assert (one.walk_length.tolist(), one.walk_entered_at.tolist()) == ([0], [0])
    assert 0.45 < one.point_confidence[0] <= 0.5
    two = match(roads, along([130, 160]))
    assert two.walk_segment.tolist() == [1]
    np.testing.assert_allclose(two.walk_length, [30])
    back = match(roads, along([160, 110, 60]))
    assert back.walk_segment.tolist() == [4, 3]
    assert (back.point_confidence > 0.8).all()


def test_points_off_the_map_break_the_trip_and_a_short_outage_does_not():
    roads = straight_streets(8)
    y = np.zeros(30)
    y[12:25] = 5000.0
    long = along(np.arange(30) * 25.0 + 12, y)
    matched = match(roads, long)
    check_laws(roads, long, matched)
    assert (matched.point_segment < 0).tolist() == (y > 0).tolist()
    assert np.flatnonzero(matched.break_before).tolist() == [25]
    assert matched.walk_piece.tolist() == [0] * 3 + [1] * 2
    short = along(np.arange(30) * 25.0 + 12, np.where(np.arange(30) == 12, 5000.0, 0.0))
    matched = match(roads, short)
    check_laws(roads, short, matched)
    assert (matched.point_segment < 0).sum() == 1
    assert matched.walk_segment.tolist() == list(range(8))
    nowhere = match(roads, along([0, 10, 20], 5000.0))
    assert (nowhere.point_segment == -1).all()
    assert len(nowhere.walk_segment) == 0
    assert not nowhere.break_before.any()


def test_no_way_or_too_fast_is_a_break():
    roads = straight_streets(3, apart=300.0)  # two streets that are not joined
    jump = along([20, 60, 100, 140, 180], [0, 0, 300, 300, 300])
    matched = match(roads, jump)
    check_laws(roads, jump, matched)
    assert np.flatnonzero(matched.break_before).tolist() == [2]
    assert matched.walk_piece.tolist() == [0, 1]
    assert matched.walk_segment.tolist() == [0, 4]  # of the segment that ends at the third point nothing was driven
    np.testing.assert_allclose(matched.walk_length, [40, 80])
    far = straight_streets(30)
    fast = along([50, 100, 2000, 2050])
    assert np.flatnonzero(match(far, fast, MatchSettings(limit=3000)).break_before).tolist() == [2]
    assert not match(far, fast, MatchSettings(limit=3000, max_speed=400)).break_before.any()
    assert np.flatnonzero(match(far, fast, MatchSettings(limit=1000, max_speed=400)).break_before).tolist() == [2]


def test_a_loop_driven_twice_is_in_the_walk_twice():
    corners = [[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]
    roads = roads_of(list(itertools.pairwise(corners)), np.zeros(4, bool))
    points, _ = drive(roads, np.tile(np.arange(4), 2), 5.0)
    matched = match(roads, points)
    check_laws(roads, points, matched)
    assert matched.walk_segment.tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(matched.walk_entered_at, np.arange(8) * 20, atol=1e-6)
    once = roads_of([[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]], [[0, 0], [-100, 0]]], np.zeros(2, bool))
    points, _ = drive(once, np.array([0, 0, 1]), 5.0)  # the loop is one segment that begins where it ends
    assert match(once, points).walk_segment.tolist() == [0, 0, 1]


def test_parallel_streets_are_told_apart_by_all_points_together():
    roads = straight_streets(6, apart=24.0)
    chance = np.random.default_rng(1)
    for y, first in ((0.0, 0), (24.0, 6)):
        points = along(np.arange(20, 580, 20.0), y + chance.normal(0, 10, 28))
        matched = match(roads, points)
        check_laws(roads, points, matched)
        assert matched.walk_segment.tolist() == list(range(first, first + 6))


def test_u_turns_are_found_and_noise_makes_none():
    roads = straight_streets(4)
    there_and_back = along([*np.arange(10, 290, 20.0), *np.arange(290, 10, -20.0)])
    matched = match(roads, there_and_back)
    check_laws(roads, there_and_back, matched)
    assert matched.walk_segment.tolist() == [0, 1, 2, 6, 5, 4]
    chance = np.random.default_rng(2)
    side = [[[i * 40.0, 0], [i * 40.0, 15]] for i in range(1, 20)]  # short dead ends all along the street
    roads = roads_of([[[i * 40.0, 0], [(i + 1) * 40.0, 0]] for i in range(20)] + side, np.ones(39, bool))
    for sigma in (5.0, 10.0):
        x = np.arange(5, 795, 8.0)
        noisy = along(x + chance.normal(0, sigma, len(x)), chance.normal(0, sigma, len(x)), every=1.0)
        matched = match(roads, noisy, MatchSettings(sigma=sigma))
        check_laws(roads, noisy, matched)
        assert np.isin(matched.walk_segment, np.arange(20)).mean() > 0.9
        assert (np.diff(matched.walk_segment) == 1).mean() > 0.9


def test_doubled_and_short_segments_and_a_map_without_a_street_nearby():
    line = [[0, 0], [100, 0]]
    roads = roads_of([line, line, [[100, 0], [100, 0]], [[100, 0], [200, 0]]], np.zeros(4, bool))
    points = along([30, 60, 90, 120, 150])
    matched = match(roads, points)
    check_laws(roads, points, matched)
    assert len(matched.walk_segment) in (2, 3)
    assert matched.walk_length.sum() == pytest.approx(120)
    empty = match(roads, Points(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 2))))
    assert len(empty.walk_segment) == len(empty.point_segment) == 0
    unknown = match(roads, Points(np.zeros(2, np.int64), np.arange(2.0), np.full((2, 2), np.nan)))
    assert (unknown.point_segment == -1).all()


# -------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(("trip", "time", "field"), [
    ([0, 1, 0], [0, 0, 1], "trip"), ([0, 0, 0], [0, 2, 1], "time"), ([0, 0, 0], [0, 1, 1], "time"),
    ([0, 0, 0], [0, np.nan, 1], "time"), ([0, 0], [0, 1], "points")])
def test_points_out_of_order_are_refused(trip, time, field):
    with pytest.raises(InputError, match=field):
        Points(np.array(trip), np.array(time, float), np.zeros((3, 2)))


@pytest.mark.parametrize("wrong", [{"sigma": 0}, {"sigma": np.nan}, {"radius": -1}, {"most": 0}, {"limit": np.inf},
                                   {"beta": 0}, {"u_turn": -1}, {"max_speed": 0}, {"bridge": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        MatchSettings(**wrong)


# -------------------------------------------------------------------- turns, times of roads, limits
def crossing(banned: tuple[tuple[int, int], ...] = (), sequences: tuple[tuple[int, ...], ...] = ()) -> Roads:
    """Two-way streets of 200 m from the middle to the west (0 leads in), north (1), east (2), south (3), and a street
    around from east to north (4); segments 5 to 9 are the other directions. ``banned`` moves are not permitted."""
    middle, west, north, east, south = (np.array(place, float) for place in
                                        ([0, 0], [-200, 0], [0, 200], [200, 0], [0, -200]))
    roads = roads_of([[west, middle], [middle, north], [middle, east], [middle, south], [east, [200, 200], north]],
                     np.ones(5, bool))
    turns, angle = make_turns(roads.tail, roads.head, roads.line_ptr, roads.line_xy, roads.reverse, True)
    kept = np.array([tuple(move) not in banned for move in turns.T.tolist()])
    return replace(roads, turn_index=turns[:, kept], turn_angle=angle[kept],
                   forbidden_ptr=np.concatenate([[0], np.cumsum([len(one) for one in sequences])]).astype(np.int64),
                   forbidden=np.array([part for one in sequences for part in one], np.int64))


def test_moves_that_are_not_permitted_are_not_made():
    x, y = np.r_[np.arange(-190, 0, 40), np.zeros(5)], np.r_[np.zeros(5), np.arange(10, 200, 40)]
    left = Points(np.zeros(10, np.int64), np.arange(10) * 4.0, np.column_stack([x, y]))
    assert match(crossing(), left).walk_segment.tolist() == [0, 1]
    banned = crossing(banned=((0, 1),))
    matched = match(banned, left)
    walk = list(zip(matched.walk_segment.tolist(), matched.walk_piece.tolist(), strict=True))
    assert all(permits(banned, np.array([a]), np.array([b]))[0]
               for (a, p), (b, q) in itertools.pairwise(walk) if p == q)
    assert np.flatnonzero(matched.break_before).tolist() == [6]  # the way around is too far for the time
    ahead = Points(left.trip, left.time, np.column_stack([np.arange(-190, 200, 39.0)[:10], np.zeros(10)]))
    assert match(banned, ahead).walk_segment.tolist() == [0, 2]
    freely = match(banned, left, table=RoutingCells(banned, 1000.0))  # ways without regard to turns
    assert freely.walk_segment.tolist() == [0, 1]
    assert not_permitted(banned, freely) == 1
    assert not_permitted(banned, matched) == 0


def test_forbidden_sequences_that_were_driven_are_counted():
    roads = crossing(sequences=((0, 2, 4), (3, 8, 9)))
    place = np.array([[-150.0, 0], [150, 0], [200, 150], [20, 200]])
    points = Points(np.zeros(4, np.int64), np.arange(4) * 30.0, place)
    matched = match(roads, points)
    assert matched.walk_segment.tolist() == [0, 2, 4]
    assert not_permitted(roads, matched) == 1
    assert not_permitted(crossing(sequences=((2, 4, 6), (0, 2, 3))), matched) == 0


@pytest.mark.parametrize("seed", range(3))
def test_median_times_between_points(seed):
    chance = np.random.default_rng(seed)
    size = chance.integers(1, 8, 50)
    trip = np.repeat(np.cumsum(chance.integers(1, 3, 50)), size)
    points = Points(trip, np.cumsum(chance.uniform(0.1, 99, len(trip))), np.zeros((len(trip), 2)))
    expected = [np.median(np.diff(points.time[trip == one])) if (trip == one).sum() > 1 else 0.0
                for one in np.unique(trip)]
    np.testing.assert_allclose(median_gaps(points), expected)


def test_journeys_get_the_limit_of_their_points_and_do_not_depend_on_each_other():
    roads = straight_streets(60)
    sparse = along([50, 2050, 4050], every=60.0)
    dense = along([20, 60, 100, 140], trip=1)
    quick = Points(sparse.trip + 2, sparse.time / 2, sparse.xy)
    every = Points(*(np.concatenate([getattr(one, name) for one in (sparse, dense, quick)])
                     for name in ("trip", "time", "xy")))
    matcher = Matcher(RoadHistory(roads), MatchSettings(max_speed=100.0), None)
    together = matcher.match(every)
    check_laws(roads, every, together)
    assert matcher.journeys == {1000.0: 1, 2000.0: 1, 4000.0: 1}
    assert np.flatnonzero(together.break_before).tolist() == []
    for number, one in enumerate((sparse, dense, quick)):
        alone = Matcher(RoadHistory(roads), MatchSettings(max_speed=100.0), None).match(one)
        check_same(alone, together, every.trip == number, together.walk_trip == number)
    fixed = Matcher(RoadHistory(roads), MatchSettings(max_speed=100.0), 1000.0)
    assert np.flatnonzero(fixed.match(every).break_before).tolist() == [1, 2, 8, 9]
    assert fixed.journeys == {1000.0: 3}
