"""The picture of a page is a picture of the asked size, or a message that says what is missing."""

import struct
import sys

import pytest

from stgraph.errors import InputError
from stgraph.report import write_report
from stgraph.report.picture import find_browser, screenshot


def size_of(png) -> tuple[int, int]:
    """Width and height in the header of a PNG file."""
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:])


@pytest.mark.skipif(find_browser() is None, reason="no Chromium: install one or set STGRAPH_CHROMIUM to its path")
def test_picture_has_the_size_and_theme_asked_for(content, tmp_path):
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    write_report(content, tmp_path / "report.html")
    screenshot(tmp_path / "report.html", tmp_path / "light.png", width=700, height=500)
    screenshot(tmp_path / "report.html", tmp_path / "dark.png", width=700, height=500, dark=True)
    assert size_of(tmp_path / "light.png") == size_of(tmp_path / "dark.png") == (700, 500)
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()


def test_missing_page_names_the_file(tmp_path):
    with pytest.raises(InputError) as caught:
        screenshot(tmp_path / "none.html", tmp_path / "out.png")
    assert caught.value.file.endswith("none.html")
    assert "stgraph report" in caught.value.remedy


def test_missing_browser_names_the_remedy(content, tmp_path, monkeypatch):
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    write_report(content, tmp_path / "report.html")
    monkeypatch.setenv("STGRAPH_CHROMIUM", str(tmp_path / "no-browser"))
    with pytest.raises(InputError) as caught:
        screenshot(tmp_path / "report.html", tmp_path / "out.png")
    assert caught.value.field == "STGRAPH_CHROMIUM"
    assert "STGRAPH_CHROMIUM" in caught.value.remedy
    assert not (tmp_path / "out.png").exists()


def test_missing_playwright_names_the_remedy(content, tmp_path, monkeypatch):
    write_report(content, tmp_path / "report.html")
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(InputError) as caught:
        screenshot(tmp_path / "report.html", tmp_path / "out.png")
    assert "pip install playwright" in caught.value.remedy
