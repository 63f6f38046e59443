"""A picture of a report page, taken in a real browser, so that the README's picture is made by a command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from stgraph.errors import InputError
from stgraph.io import atomic_path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
"""Options of a browser that draws one local page and talks to nobody."""


def find_browser() -> str | None:
    """Path of a Chromium: ``$STGRAPH_CHROMIUM``, or the first one on the search path; None where there is none."""
    named = os.environ.get("STGRAPH_CHROMIUM")
    return named or next((found for found in map(shutil.which, BROWSERS) if found), None)


def screenshot(html_path: Path | str, png_path: Path | str, width: int = 1280, height: int | None = None,
               dark: bool = False) -> None:
    """Take a picture of a page.

    Args:
        html_path: The page.
        png_path: Where the PNG goes; written whole or not at all.
        width: Of the window, in pixels.
        height: Of the picture from the top of the page, in pixels; None takes the whole page.
        dark: In the dark theme rather than the light one.

    Raises:
        InputError: where the page, the playwright package or a Chromium is missing, or the picture cannot be written.
    """
    page_path = Path(html_path)
    if not page_path.is_file():
        raise InputError("no such page", file=page_path, remedy="make it with `stgraph report RUN`")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise InputError("the package playwright is missing", field="picture",
                         remedy="pip install playwright; the report itself needs no browser") from error
    browser_path = find_browser()
    if browser_path is None or shutil.which(browser_path) is None:
        raise InputError("no Chromium found", field="STGRAPH_CHROMIUM", value=browser_path,
                         remedy="install Chromium, or set STGRAPH_CHROMIUM to the path of one")
    try:
        with sync_playwright() as player:
            browser = player.chromium.launch(executable_path=browser_path, args=list(QUIET))
            page = browser.new_page(viewport={"width": width, "height": height or 900},
                                    color_scheme="dark" if dark else "light")
            page.goto(page_path.resolve().as_uri())
            picture = page.screenshot(full_page=height is None, type="png")
            browser.close()
    except Error as error:
        raise InputError(f"the browser failed: {error.message.splitlines()[0]}", file=page_path,
                         remedy=f"check that {browser_path} starts") from error
    with atomic_path(png_path) as work:
        work.write_bytes(picture)
