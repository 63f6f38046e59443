"""The page in a real browser: it draws what it holds, answers mouse and keyboard, and asks the network for nothing."""

import re
from dataclasses import replace

import numpy as np
import pytest

from stgraph.report import write_report
from stgraph.report.picture import QUIET, find_browser

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
HOSTILE = "</script><script>window.attacked=1</script><img src=x onerror='window.attacked=1'>"


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: install one or set STGRAPH_CHROMIUM to its path")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a content as a page; at the end nothing may have been asked of the network nor gone wrong in the script."""
    complaints, contexts = [], []

    def open_page(content, width=1280, **options):
        path = tmp_path / "report.html"
        write_report(content, path)
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: request.url == path.as_uri() or complaints.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def points(page, selector: str) -> np.ndarray:
    """The corners ``[P, 2]`` of a drawn line, in pixels."""
    drawn = page.locator(selector).get_attribute("d")
    return np.array([pair.split() for pair in re.findall(r"[ML]([-\d.]+ [-\d.]+)", drawn)], float)


def press(page, sensor: int) -> None:
    """Click where a sensor is drawn."""
    dot = page.locator(f'#map circle[data-sensor="{sensor}"]')
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_the_drawn_forecast_is_the_forecast(show, content):
    page = show(content)
    slider = page.locator("#origin")
    assert slider.get_attribute("max") == str(len(content.origins) - 1)
    chosen = int(page.locator("#sensor").input_value())
    k = content.curve_sensors.index(chosen)
    truth_first = page.locator("#origin-time").text_content()
    seen = []
    for _ in range(2):
        origin = int(slider.input_value())
        height = points(page, "#detail path.forecast")[:, 1]
        values = content.forecast_from[origin, :, k]
        slope, offset = np.polyfit(values, height, 1)
        assert slope < 0  # larger values are drawn higher
        assert np.abs(slope * values + offset - height).max() < 0.06 * abs(slope) + 0.06
        assert content.times[content.origins[origin]][-5:] in page.locator("#origin-time").text_content()
        assert content.times[content.origins[origin]][-5:] in slider.get_attribute("aria-valuetext")
        seen.append(page.locator("#detail path.forecast").get_attribute("d"))
        slider.press("ArrowRight")
    assert seen[0] != seen[1]
    assert page.locator("#origin-time").text_content() != truth_first


def test_a_click_on_the_map_changes_the_curve(show, content):
    page = show(content)
    before = page.locator("#overview path.truth").get_attribute("d")
    other = content.curve_sensors[1]
    assert page.locator("#sensor").input_value() != str(other)
    press(page, other)
    assert page.locator("#sensor").input_value() == str(other)
    assert page.locator("#about b").text_content() == f"Sensor {content.sensor_ids[other]}"
    assert page.locator("#overview path.truth").get_attribute("d") != before
    assert page.locator(f'#map circle[data-sensor="{other}"]').get_attribute("aria-selected") == "true"
    seen = np.isfinite(np.asarray(content.truth)[:, 1])
    assert len(points(page, "#overview path.truth")) == seen.sum()  # a missing reading is not drawn
    runs = np.sum(seen & ~np.roll(seen, 1)) if not seen[0] else 1 + np.sum(seen[1:] & ~seen[:-1])
    assert page.locator("#overview path.truth").get_attribute("d").count("M") == runs


def test_a_sensor_without_curve_says_so(show, content):
    page = show(content)
    without = next(i for i in range(len(content.sensor_ids)) if i not in content.curve_sensors and i != 5)
    press(page, without)
    assert "keeps no curve" in page.locator("#about").text_content()
    assert page.locator("#curves").is_hidden()
    press(page, content.curve_sensors[0])
    assert page.locator("#curves").is_visible()


def test_the_lead_on_the_map_changes_colours_and_names(show, content):
    page = show(content)
    dot = page.locator(f'#map circle[data-sensor="{content.curve_sensors[6]}"]')
    overall = dot.get_attribute("aria-label")
    page.locator('#map-lead input[value="12"]').check(force=True)
    assert dot.get_attribute("aria-label") != overall
    assert page.locator("#map circle.e-none").count() == np.isnan(content.error_by_sensor).sum()
    before = page.locator("#overview path.forecast").get_attribute("d")
    page.locator('#curve-lead input[value="12"]').check(force=True)
    assert page.locator("#overview path.forecast").get_attribute("d") != before


def test_the_keyboard_reaches_every_sensor_it_points_at(show, content):
    page = show(content)
    assert page.locator('#map circle[tabindex="0"]').count() == 1
    page.locator("#map-lead input:checked").focus()
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.dataset.sensor")
    moved = next(key for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
                 if page.keyboard.press(key) or page.evaluate("document.activeElement.dataset.sensor") != first)
    assert moved
    now = int(page.evaluate("document.activeElement.dataset.sensor"))
    assert page.locator("#map-tip b").text_content() == content.sensor_ids[now]
    page.keyboard.press("Enter")
    assert page.locator("#about b").text_content() == f"Sensor {content.sensor_ids[now]}"


def test_zoom_spreads_the_sensors(show, content):
    page = show(content)
    a, b = (page.locator(f'#map circle[data-sensor="{i}"]') for i in (0, 1))

    def apart():
        return np.hypot(*(float(a.get_attribute(c)) - float(b.get_attribute(c)) for c in ("cx", "cy")))

    before = apart()
    page.locator("#zoom-in").click()
    assert apart() == pytest.approx(2 * before, abs=0.3)
    page.locator("#zoom-out").click()
    assert apart() == pytest.approx(before, abs=0.2)


def test_theme_follows_the_system_and_the_button(show, content):
    paint = "getComputedStyle(document.body).backgroundColor"
    light, dark = show(content, color_scheme="light"), show(content, color_scheme="dark")
    bright, dim = light.evaluate(paint), dark.evaluate(paint)
    assert bright != dim
    light.locator("#theme").click()
    assert light.evaluate(paint) == dim
    assert light.locator("#theme").text_content() == "Light"
    light.locator("#theme").click()
    assert light.evaluate(paint) == bright


def test_no_sideways_scrolling(show, content):
    wordy = replace(content, title="L" * 120, sensor_ids=["S" * 60 + str(i) for i in range(len(content.sensor_ids))],
                    next_command="stgraph " + "x" * 200)
    for page in (show(content, 360), show(wordy, 360)):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for width in (320, 800, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            # the page draws itself anew when it hears of the new size, which on a busy machine is a moment later
            page.wait_for_function(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")
            assert page.locator("#detail").evaluate("svg => svg.viewBox.baseVal.width === svg.clientWidth")


def test_hostile_names_are_shown_and_not_run(show, content):
    ids = [HOSTILE + str(i) for i in range(len(content.sensor_ids))]
    page = show(replace(content, sensor_ids=ids, title=HOSTILE, model=HOSTILE))
    press(page, content.curve_sensors[2])
    assert page.locator("#about b").text_content() == f"Sensor {ids[content.curve_sensors[2]]}"
    assert page.evaluate("window.attacked") is None
    assert page.locator("img").count() == 0


def test_the_policy_forbids_the_network(browser, content, tmp_path):
    write_report(content, tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    inline = page.evaluate("""() => { const script = document.createElement('script');
        script.textContent = 'window.attacked = 1'; document.body.append(script); return window.attacked ?? null; }""")
    page.close()
    assert refused == "TypeError"
    assert inline is None


def test_bare_content_draws_without_complaint(show, content):
    nowhere = np.full((len(content.sensor_ids), 2), np.nan)
    page = show(replace(content, positions=nowhere, curve_labels=[]))
    assert "no positions known" in page.locator("#map").text_content()
    empty = replace(content, times=[], curve_sensors=[], truth=np.zeros((0, 0)), curve_labels=[], origins=[],
                    forecast_at={}, forecast_from=np.zeros((0, 12, 0)), error_by_sensor_at={},
                    error_by_sensor=np.full(len(content.sensor_ids), np.nan), error_by_step=np.full(12, np.nan),
                    control_error_by_step={}, provenance={}, summary={"horizons": {}, "controls": {}})
    assert show(empty).locator("#curves").is_hidden()


def test_playing_moves_the_forecast_and_stops(show, content):
    page = show(content)
    start = page.locator("#origin").input_value()
    page.locator("#play").click()
    page.wait_for_timeout(700)
    page.locator("#play").click()
    stopped = page.locator("#origin").input_value()
    page.wait_for_timeout(400)
    assert start != stopped == page.locator("#origin").input_value()
