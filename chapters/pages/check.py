"""Every page of the book in Chromium, wide and narrow, light and dark: python chapters/pages/check.py

Prints a line for each page and a total, and exits with 1 on any fault. It needs chromium and what build.py has written.
"""

import argparse
import asyncio
import re
import shutil
import sys
import time
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from cells import ROOT

HTML = ROOT / "data" / "book" / "html"
WIDTHS = (1280, 390)
TOGETHER = 4          # pages open at the same time
FEWEST_LINKS = 20     # from a chapter's code to the library
LARGEST = 8_000_000   # bytes of the whole book
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]

# Run in the page: wait for pictures and formulas.
READY = """async () => {
    await document.fonts.ready;
    if (window.MathJax?.startup) await MathJax.startup.promise;
    await Promise.all([...document.images].map(image => image.complete || new Promise(done => {
        image.onload = image.onerror = done; })));
}"""

# Run in the page: what can be seen to be wrong with it.
FAULTS = """() => {
    const faults = [];
    for (const box of [document.documentElement, document.querySelector(".content")])
        if (box && box.scrollWidth > box.clientWidth)
            faults.push(`${box.scrollWidth} px wide in ${box.clientWidth}`);
    for (const image of document.images)
        if (!image.naturalWidth) faults.push(`no picture: ${image.src}`);
    for (const formula of document.querySelectorAll("mjx-merror"))
        faults.push(`no formula: ${formula.textContent}`);
    if (document.querySelector(".math") && !document.querySelector("mjx-container"))
        faults.push("formulas are not set");
    return faults;
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="save each page in each of its four forms")
    args = parser.parse_args()
    pages = sorted(page.relative_to(HTML).as_posix() for page in HTML.rglob("*.html"))
    if not pages:
        raise SystemExit(f"there are no pages in {HTML}: python chapters/pages/build.py makes them")
    started = time.perf_counter()
    faults = asyncio.run(check_all(pages, args.screenshots))
    size = sum(file.stat().st_size for file in HTML.rglob("*") if file.is_file())
    if size > LARGEST:
        print(f"the book has {size:,} bytes, more than {LARGEST:,}")
        faults += 1
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB, {faults} faults, in {time.perf_counter() - started:.0f} s")
    return 1 if faults else 0


async def check_all(pages, screenshots):
    """Check these pages, a few at the same time. Output: how many faults there are"""
    from playwright.async_api import async_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit("chromium is missing: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=QUIET)
        free = asyncio.Semaphore(TOGETHER)
        found = await asyncio.gather(*(check(browser, free, page, screenshots) for page in pages))
        await browser.close()
    return sum(found)


async def check(browser, free, page, screenshots):
    """Open a page once, look at it in its four forms, and print a line. Output: how many faults it has"""
    faults, notes = [], []
    async with free:
        tab = await browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
        tab.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda asked: faults.append(f"asks for {asked.url}") if is_outside(asked.url) else None)
        search = page == "search.html"
        await tab.goto((HTML / page).as_uri() + ("?q=merge_lora" if search else ""))
        await tab.evaluate(READY)
        if search:
            notes.append(await found_by_search(tab, faults))
        for width in WIDTHS:
            await tab.set_viewport_size({"width": width, "height": 900})
            for scheme in ("light", "dark"):
                await tab.emulate_media(color_scheme=scheme)
                faults += [f"{fault} ({width} px, {scheme})" for fault in await tab.evaluate(FAULTS)]
                if screenshots:
                    name = f"{page.removesuffix('.html').replace('/', '_')}_{width}_{scheme}.png"
                    await tab.screenshot(path=screenshots / name, full_page=True)
        await tab.close()
    faults += dead_links(page)
    if re.match(r"\d", page):
        links = html_of(page).count('class="sphinx-codeautolink-a"')
        notes.append(f"{links} links in code")
        faults += [f"{links} links in code, fewer than {FEWEST_LINKS}"] * (links < FEWEST_LINKS)
    print(f"{page}: {', '.join(notes + sorted(set(faults)) or ['good'])}", flush=True)
    return len(set(faults))


async def found_by_search(tab, faults):
    """What the search says about merge_lora."""
    try:
        await tab.wait_for_selector("ul.search li a[href*='gpt/lora.html']", timeout=20_000)
        return f"{await tab.locator('ul.search li').count()} pages found for merge_lora"
    except Exception as error:
        faults.append(f"merge_lora is not found: {error}")
        return "nothing found"


def is_outside(address):
    return not address.startswith(("file:", "data:", "blob:"))


@cache
def html_of(page):
    return (HTML / page).read_text(encoding="utf-8")


@cache
def places_in(page):
    return set(re.findall(r'\bid="([^"]+)"', html_of(page)))


def dead_links(page):
    """The links of a page that lead to no page of the book, or to no place on it."""
    dead = []
    for target in set(re.findall(r'<a [^>]*href="([^"]*)"', html_of(page))):
        path, _, place = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (HTML / page).parent / unquote(path) if path else HTML / page
        if not file.is_file():
            dead.append(f"leads nowhere: {target}")
        elif place and unquote(place) not in places_in(file.resolve().relative_to(HTML).as_posix()):
            dead.append(f"leads to no place: {target}")
    return dead


if __name__ == "__main__":
    sys.exit(main())
