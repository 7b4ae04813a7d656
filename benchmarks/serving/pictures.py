"""Opens the playground in headless Chromium, uses it as visitors do, and takes pictures.

    make pictures

It needs playwright's Python package and a Chromium of the system. Whatever a browser asks for must come from the
playground itself, and what is moved, asked and refused must be seen on the page; else the script fails. With
`--docs` the two pictures of `docs/playground.md` are renewed.
"""

import argparse
import re
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from playground import ROOT, playing

PROMPT = "Once there was a quiet duck named Emma who lived at the market."
DESK, PHONE = {"width": 1280, "height": 820}, {"width": 390, "height": 844}
KEPT = {"both": "playground.png", "phone": "playground-phone.png"}
"""Pictures that the docs show, by their names there."""


class Visitor:
    """A browser of its own at the playground; notes what it asks others for."""

    def __init__(self, browser: Browser, url: str, size: dict[str, int], pictures: Path) -> None:
        self.page: Page = browser.new_context(viewport=size, accept_downloads=True).new_page()
        self.pictures, self.elsewhere, self.complaints = pictures, [], []
        self.page.on("request", lambda request: self._note(request.url, url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.goto(url)
        expect(self.page.get_by_text("expected at")).to_be_visible(timeout=30000)

    def _note(self, address: str, url: str) -> None:
        if not address.startswith((url, "data:", "blob:")):
            self.elsewhere.append(address)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def open(self, title: str) -> None:
        self.page.get_by_text(title, exact=True).click()

    def weights(self) -> list[float]:
        sliders = self.page.locator("input[type=range]:visible")
        return [float(sliders.nth(i).input_value()) for i in range(2)]

    def move(self, i: int, weight: float) -> None:
        """One of the first two sliders; the other follows, and so does the point on the front."""
        self.page.locator("input[type=range]:visible").nth(i).fill(f"{weight}")
        other = self.page.locator("input[type=range]:visible").nth(1 - i)
        expect(other).to_have_value(re.compile(rf"^{1 - weight:.3g}"), timeout=5000)
        assert abs(sum(self.weights()) - 1) < 1e-9
        self.page.wait_for_timeout(1500)

    def ask(self, button: str = "Ask") -> list[str]:
        self.page.get_by_label("Prompt").fill(PROMPT)
        pressed = self.page.get_by_role("button", name=button, exact=True)
        pressed.click()
        label = f"Answer at cheerful {self.weights()[0]:g}, "
        expect(self.page.get_by_text(label).locator("visible=true")).to_be_visible(timeout=30000)
        expect(pressed).to_be_enabled(timeout=120000)
        return self.answers()

    def answers(self) -> list[str]:
        boxes = self.page.locator("label", has_text="Answer").locator("textarea:visible")
        return [boxes.nth(i).input_value() for i in range(boxes.count())]

    def refused(self, sentence: str) -> None:
        expect(self.page.get_by_text(sentence)).to_be_visible(timeout=10000)
        self.page.wait_for_timeout(1000)

    def picture(self, name: str, whole: bool = False) -> None:
        self.page.mouse.move(0, 0)
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=whole)
        print(f"{name}: sliders {self.weights()}, answers {self.answers()}", flush=True)


def visit(browser: Browser, url: str, pictures: Path) -> list[Visitor]:
    one = Visitor(browser, url, DESK, pictures)
    one.picture("start")
    even = one.ask()
    one.move(0, 0.9)
    assert one.ask() != even, "the preference says nothing"
    one.picture("moved")

    other = Visitor(browser, url, DESK, pictures)
    other.move(0, 0.05)
    briefly = other.ask()
    assert one.weights() == [0.9, 0.1], "one visitor's sliders are the other's"
    assert one.ask() != briefly
    one.picture("one visitor")
    other.picture("other visitor")

    one.page.get_by_label("Compare with a second preference").check()
    one.move(0, 0.2)
    one.ask("Ask both")
    one.page.wait_for_timeout(1000)
    one.picture("both")

    one.open("Which preference do I want?")
    one.page.get_by_label("brief at least").fill("-10")
    one.press("Set the sliders")
    one.page.wait_for_timeout(2500)
    assert one.weights() != [0.2, 0.8]
    one.picture("wish", whole=True)
    one.page.get_by_label("brief at least").fill("5")
    one.press("Set the sliders")
    one.refused("What is wished for must be attainable")
    one.picture("unattainable", whole=True)

    other.page.get_by_label("Prompt").fill("")
    other.press("Ask")
    other.refused("`prompt` must have some text, but got none.")
    other.picture("error")
    other.open("Take the preference along")
    other.press("Make the file")
    with other.page.expect_download() as download:
        other.page.get_by_text(re.compile(r"KB")).click()
    assert download.value.suggested_filename == "lora-0.05-0.95.zip"

    phone = Visitor(browser, url, PHONE, pictures)
    phone.picture("phone start", whole=True)
    phone.move(0, 0.3)
    phone.ask()
    phone.picture("phone")
    return [one, other, phone]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="examples/storyteller/adapter")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-headless-shell"))
    parser.add_argument("--output", type=Path, default=ROOT / "build/pictures")
    parser.add_argument("--docs", action="store_true", help="renew the pictures in docs/, too")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with playing(args.adapter) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium)
        visitors = visit(browser, url, args.output)
        browser.close()
    for visitor in visitors:
        assert visitor.elsewhere == [], f"asked for elsewhere: {visitor.elsewhere}"
        print(f"asked nobody else for anything; errors in the console: {visitor.complaints}")
    for name, kept in KEPT.items() if args.docs else []:
        shutil.copy(args.output / f"{name}.png", ROOT / "docs" / kept)


if __name__ == "__main__":
    main()
