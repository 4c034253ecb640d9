#!/usr/bin/env python
"""Makes the image of docs/app.md, with Chromium, from a running `make app`:

python tools/make_app_screenshot.py http://127.0.0.1:8470/ watercolor_test 1 "a dog and a bird"
"""

import argparse
import base64
import json
import sys
import tempfile
import time
from pathlib import Path

from tadp_d2.files import replacing

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import Browser  # noqa: E402


def wait(browser: Browser, condition: str) -> None:
    """Until a JavaScript expression is true."""
    while not browser.run(f"!!({condition})"):
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("dataset")
    parser.add_argument("number", type=int, help="of the image, from 0")
    parser.add_argument("caption", help="of side B; what its last word looks at is shown")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "app.jpg")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            browser.open(args.url, args.width, scheme=args.scheme)
            wait(browser, "image")
            browser.run(f"$('dataset').value = {json.dumps(args.dataset)}; browse({args.number})")
            browser.run("$('images').firstElementChild.click()")
            browser.run(f"sides[1].text.value = {json.dumps(args.caption)}; sides[1].preview()")
            wait(browser, "sides.every(side => side.reading)")
            browser.run("predict(); null")
            wait(browser, "results && !job")
            browser.run("[...document.querySelectorAll('#shown .b .words button')].pop().click()")
            # In a window as high as the page, so that the bar does not stick to a lower one's end.
            browser.call("Emulation.setScrollbarsHidden", hidden=True)
            height = browser.run("document.documentElement.scrollHeight")
            browser.resize(args.width, height)
            browser.wait_for_images()
            shot = browser.call("Page.captureScreenshot", format="jpeg", quality=85)
            with replacing(args.output) as temporary:
                temporary.write_bytes(base64.b64decode(shot["data"]))
        finally:
            browser.close()


if __name__ == "__main__":
    main()
