# SPDX-License-Identifier: Apache-2.0
"""Pages of results in a real Chromium: hover, keyboard, sorting, files, themes, widths, print."""

from __future__ import annotations

import base64
import csv
import json
import socket
import time
import xml.etree.ElementTree as ElementTree

import pytest
from browser import (
    DOWN,
    END,
    ENTER,
    ESCAPE,
    RIGHT,
    TAB,
    complaints,
    keys,
    move,
    open_browser,
    requests,
    text,
)
from report_results import HOSTILE, IMAGES, RATES, several, write, write_map

from noisystore.runtime.report import write_report
from noisystore.runtime.report_curves import read_curves
from noisystore.runtime.texts import printable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def driver(folder):
    with open_browser(folder) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(folder):
    """A page with much to compare, and one of hostile names; and the results of the first."""
    path, hostile = several(folder / "r.sqlite"), folder / "h.sqlite"
    write_report(path, folder / "r.html", sensitivity=[write_map(folder / "map.json")])
    said = {name: HOSTILE for name in ("model", "data", "mask_name", "storage_format")}
    said["sites"] = json.dumps({"number": 2, "kinds": [HOSTILE], "noisy": HOSTILE})
    write(hostile, description=said, cpu=HOSTILE, machine=HOSTILE, provider=HOSTILE)
    write(hostile, description={"model": '=HYPERLINK("x")'})
    bad_map = write_map(folder / "bad.json", name=HOSTILE)
    write_report(hostile, folder / "h.html", sensitivity=[bad_map], title=HOSTILE)
    return path


@pytest.fixture
def browser(driver, folder, pages):
    """The page, freshly opened; afterwards nothing was asked of others, and nothing complained."""
    driver.get((folder / "r.html").as_uri())
    yield driver
    assert complaints(driver) == []
    assert {url for url in requests(driver) if not url.startswith(("blob:", "data:"))} <= {
        (folder / name).as_uri() for name in ("r.html", "h.html")
    }


def downloaded(path):
    end = time.monotonic() + 10
    while not path.exists() or path.stat().st_size == 0:
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.05)
    return path


def column(browser, number):
    return browser.execute_script(
        "return [...document.querySelectorAll('#t-midpoints tbody tr')]"
        ".map((row) => row.cells[arguments[0]].dataset.v)",
        number,
    )


def width(browser, pixels, height=800):
    size = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_hover_tells_a_point(browser, pages):
    curve = next(c for c in read_curves(pages) if c.names["format"] == "float16")
    svg = browser.find_element("css selector", '[data-view="all"] svg')
    browser.execute_script("arguments[0].scrollIntoView()", svg)
    at = browser.execute_script(
        "const i = data.curves.findIndex((c) => c.format === 'float16');"
        "const [x, y] = svgPoint(arguments[0], ...place(i, 4));"
        "const box = arguments[0].getBoundingClientRect();"
        "return [x - box.left - box.width / 2, y - box.top - box.height / 2]",
        svg,
    )
    assert not browser.find_element("id", "tip").is_displayed()
    move(browser, svg, *at)
    tip = browser.find_element("id", "tip")
    assert tip.is_displayed()
    lines = tip.text.split("\n")
    assert lines[0].startswith("a, float16")
    assert lines[1] == "bit error rate 1.00e-5"
    low, high = curve.interval[4]
    mean = curve.accuracy[4]
    assert lines[2] == f"accuracy {mean:.2%} (95%: {low:.2%} to {high:.2%})"
    trials = ", ".join(f"{right / IMAGES:.2%}"[:-1] for right in curve.trials[4])
    assert lines[3] == f"3 trials: {trials}%"
    assert lines[4].startswith("midpoint ")
    for part in ("curve", "band"):
        assert len(browser.find_elements("css selector", f".ns.focus .{part}.on")) == 1
    heading = browser.find_element("css selector", "#h-curves")
    move(browser, heading)
    assert not tip.is_displayed()


def test_keyboard_goes_along_points_and_curves(browser):
    browser.execute_script("document.querySelector('.plot').focus()")
    keys(browser, RIGHT, RIGHT)
    said = text(browser, "#said")
    assert f"bit error rate {RATES[1]:.2e}".replace("e-0", "e-") in said
    keys(browser, END)
    assert "bit error rate 1.00e-2" in text(browser, "#said")
    keys(browser, DOWN)
    other = text(browser, "#said")
    assert "bit error rate 1.00e-2" in other
    assert other.split(";")[0] != said.split(";")[0]
    assert browser.find_element("id", "tip").is_displayed()
    keys(browser, ESCAPE)
    assert not browser.find_element("id", "tip").is_displayed()
    browser.execute_script("document.querySelector('.mapbox').focus()")
    keys(browser, RIGHT, DOWN)
    assert text(browser, "#said").startswith("0 conv, all bits; midpoint 1.00e-5 (95%: ")


def test_all_that_acts_is_reached_by_tab(browser):
    wanted = browser.execute_script(
        "return [...document.querySelectorAll('a[href], button, summary, .plot, .box,"
        "input:checked')].filter((e) => e.checkVisibility()).length"
    )
    seen = []
    for _ in range(wanted + 1):
        keys(browser, TAB)
        seen.append(
            browser.execute_script(
                "const e = document.activeElement;"
                "return [e.id, e.tagName, e.ariaLabel || e.textContent, "
                "getComputedStyle(e).outlineStyle]"
            )
        )
    reached = [tuple(e[:3]) for e in seen if e[1] != "BODY"]
    assert len(set(reached)) >= wanted - 1  # two boxes may have one label
    assert all(outline != "none" for _, tag, _, outline in seen if tag != "BODY")


def test_names_and_roles_of_figures(browser):
    names = browser.execute_script(
        "return [...document.querySelectorAll('.view svg')].map((s) => "
        "s.getAttribute('aria-labelledby').split(' ').map((i) => "
        "document.getElementById(i).textContent))"
    )
    assert len(names) >= 4
    assert all(title and "midpoint of each curve" in about for title, about in names)
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert browser.execute_script("return document.documentElement.lang") == "en"


def test_comparisons_are_chosen(browser):
    def shown():
        views = browser.find_elements("css selector", ".view")
        return [v.get_attribute("data-view") for v in views if v.is_displayed()]

    assert shown() == ["all"]
    browser.find_element("id", "by-format").click()
    assert shown() == ["format"]


def test_sorting(browser):
    button = browser.find_element("xpath", "//table[@id='t-midpoints']//button[.='midpoint']")
    number = int(button.get_attribute("data-column"))
    head = button.find_element("xpath", "..")
    button.click()
    values = list(map(float, column(browser, number)))
    assert values == sorted(values)
    assert len(set(values)) == 5
    assert head.get_attribute("aria-sort") == "ascending"
    button.send_keys(ENTER)
    values = list(map(float, column(browser, number)))
    assert values == sorted(values, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    assert text(browser, "#said") == "sorted by midpoint, descending"


def test_csv_files_are_exact(browser, folder, pages):
    fits = {curve.fit.midpoint for curve in read_curves(pages)}
    browser.find_element("css selector", '[data-csv="midpoints"]').click()
    with downloaded(folder / "midpoints.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["midpoint"]) for row in rows} == fits
    (folder / "midpoints.csv").unlink()
    browser.find_element("css selector", '[data-csv="points"]').click()
    with downloaded(folder / "points.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 6 * 3 * len(RATES)
    assert {float(row["bit_error_rate"]) for row in points} == set(RATES)
    assert all(int(row["correct"]) / IMAGES == float(row["value"]) for row in points)
    (folder / "points.csv").unlink()


def test_pictures_are_saved(browser, folder):
    image = pytest.importorskip("PIL.Image")
    assert text(browser, "figcaption") == "all curves"
    for kind in ("svg", "png"):
        browser.find_element("css selector", f'[data-picture="{kind}"]').click()
    saved = {kind: downloaded(folder / f"all-curves.{kind}") for kind in ("svg", "png")}
    drawn = ElementTree.parse(saved["svg"]).getroot()
    assert drawn.find("{*}style") is not None
    with image.open(saved["png"]) as picture:
        assert picture.width == 1200
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (0, 0x72, 0xB2) in colours
    assert (255, 255, 255) in colours


def test_themes(browser):
    def colours():
        return browser.execute_script(
            "const of = (e) => getComputedStyle(document.querySelector(e));"
            "return [of('body').backgroundColor, of('.ns .curve .fit').stroke]"
        )

    def prefer(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    prefer("light")
    light = colours()
    prefer("dark")
    dark = colours()
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))
    browser.find_element("id", "theme").click()
    assert colours() == light
    prefer("light")
    browser.find_element("id", "theme").click()
    assert colours() == dark
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("name", ["r.html", "h.html"])
def test_a_phone_scrolls_tables_but_not_the_page(browser, folder, name):
    try:
        width(browser, 360)
        browser.get((folder / name).as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
        text_size = browser.execute_script(
            "const t = document.querySelector('.ns text');return t.getBoundingClientRect().height"
        )
        assert text_size > 9
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print(browser):
    document = base64.b64decode(browser.print_page())
    assert document.startswith(b"%PDF")
    assert len(document) > 20_000
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = browser.execute_script(
        "return [...document.querySelectorAll('button, nav, fieldset')]"
        ".filter((e) => e.checkVisibility() && !e.classList.contains('sort')).length"
    )
    box = browser.execute_script("return getComputedStyle(document.querySelector('.box')).overflow")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == 0
    assert box == "visible"


def test_hostile_names(browser, folder):
    browser.get((folder / "h.html").as_uri())
    title = printable(HOSTILE)
    assert text(browser, "h1") == title
    assert browser.execute_script("return document.scripts.length") == 2
    assert title in text(browser, "#t-models")
    assert title[:200] in text(browser, ".mapbox tbody")
    browser.find_element("css selector", '[data-csv="midpoints"]').click()
    with downloaded(folder / "midpoints.csv").open(newline="") as file:
        models = {row["model"] for row in csv.DictReader(file)}
    (folder / "midpoints.csv").unlink()
    assert models == {title, '\'=HYPERLINK("x")'}


def test_without_scripts_it_is_still_a_page(browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.refresh()
        shown = browser.find_elements("css selector", ".view")
        assert [v.get_attribute("data-view") for v in shown if v.is_displayed()] == ["all"]
        browser.find_element("css selector", "label:has(#by-mask)").click()
        assert [v.get_attribute("data-view") for v in shown if v.is_displayed()] == ["mask"]
        buttons = browser.find_elements("css selector", "button.js")
        assert not any(button.is_displayed() for button in buttons)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_policy_holds_even_where_markup_got_in(driver, folder, pages):
    page = (folder / "r.html").read_text()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        bad = f"<script>document.title = 'bad'</script><img src='{address}'>"
        bad += "<style>body { display: none }</style><p id='mine' style='color: red'>text</p>"
        (folder / "bad.html").write_text(page.replace('<main id="main"', bad + '<main id="main"'))
        driver.get((folder / "bad.html").as_uri())
        assert driver.title.startswith("Bit errors and accuracy")
        assert driver.find_element("id", "main").is_displayed()
        assert "255, 0, 0" not in driver.find_element("id", "mine").value_of_css_property("color")
        assert sum("Content Security Policy" in line for line in complaints(driver)) == 4
        with pytest.raises(TimeoutError):
            server.accept()
    requests(driver)
