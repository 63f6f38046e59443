"""The picture of Porto in the README: the real streets coloured by speed, with made sensors and made incidents.

    python benchmarks/porto_picture.py --data ../shared/data --out docs/porto.png

Map data (c) OpenStreetMap contributors, ODbL 1.0. The sensors, their readings and the incidents are made up, drawn with
a fixed seed; the picture only shows that the layers meet in one graph.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from stgraph import build
from stgraph.report.map import draw_map
from stgraph.roads import Roads

SENSORS, EVENTS = 150, 600


def made_layers(roads: Roads, folder: Path) -> None:
    """Made sensors on large roads with a week of made speeds, and made incidents anywhere."""
    chance = np.random.default_rng(0)
    classes = np.array(roads.attributes["road_class"].to_pylist())
    large = np.flatnonzero(np.isin(classes, ["motorway", "trunk", "primary"]))
    chosen = chance.choice(large, SENSORS, replace=False)
    places = roads.locate(chosen, roads.length[chosen] / 2)
    ids = [f"made{number:03d}" for number in range(SENSORS)]
    heading = roads.heading(chosen, roads.length[chosen] / 2)
    sensors = pd.DataFrame({"sensor_id": ids, "longitude": places[:, 0], "latitude": places[:, 1], "heading": heading})
    sensors.to_csv(folder / "sensors.csv", index=False)
    hours = pd.date_range("2024-05-06", periods=168, freq="h", tz="UTC")
    speed = 22 + 6 * np.sin(np.arange(168) / 24 * 2 * np.pi)[:, None] + chance.normal(0, 2, (168, SENSORS))
    pd.DataFrame(speed.round(2), index=hours.rename("time"), columns=ids).to_csv(folder / "readings.csv")
    where = chance.choice(len(roads.length), EVENTS, p=roads.length / roads.length.sum())
    points = roads.locate(where, chance.uniform(0, 1, EVENTS) * roads.length[where])
    pd.DataFrame({"type": chance.choice(["crash", "works"], EVENTS), "lon": points[:, 0], "lat": points[:, 1],
                  "time": chance.choice(hours, EVENTS)}).to_parquet(folder / "incidents.parquet", index=False)


def main() -> None:
    """Build the layers, merge them, draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/porto.png"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        roads, _ = build.osm(chosen.data / "osm_extracts" / "porto.osm.pbf", out=folder / "porto.stg", name="Porto")
        made_layers(roads, folder)
        build.sensors(folder / "readings.csv", locations=folder / "sensors.csv", roads=folder / "porto.stg",
                      heading_key="heading", quantity="speed", unit="m/s", tz="UTC", simulated=True,
                      out=folder / "sensors.stg")
        build.events(folder / "incidents.parquet", on=folder / "porto.stg", simulated=True, out=folder / "events.stg")
        graph, _ = build.merge([folder / f"{name}.stg" for name in ("porto", "sensors", "events")], name="Porto",
                               out=folder / "city.stg")
        print(draw_map(graph, chosen.out, color="speed", layers="segments,sensors,events"))


if __name__ == "__main__":
    main()
