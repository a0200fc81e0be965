"""The README's picture: two cells of the executed lesson, photographed in Chromium.

Usage, after ``make demo``: ``python -m demo.picture``. It writes ``docs/first_cell.png``.
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright

from demo import places

CELLS = ("look", "workdir")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_KEEP = """(ids) => {
  for (const cell of document.querySelectorAll('.jp-Cell')) {
    cell.style.display = ids.some((id) => cell.id === 'cell-id=' + id) ? '' : 'none';
  }
  for (const prompt of document.querySelectorAll('.jp-InputPrompt, .jp-OutputPrompt')) prompt.remove();
}"""


def main() -> int:
    """Photograph the cells."""
    page_path = places.BUILD / "01_first_cell.html"
    chromium = shutil.which("chromium")
    if chromium is None or not page_path.exists():
        print("needs Chromium (apt-get install chromium) and an executed lesson (make demo)", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 860, "height": 600})
        page.goto(page_path.as_uri())
        page.evaluate(_KEEP, list(CELLS))
        page.locator("main").screenshot(path=places.ROOT / "docs" / "first_cell.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
