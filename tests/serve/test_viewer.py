"""The page in a real browser, without a screen."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="the browser's driver is for development: pip install -e '.[dev]'")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH")
PICTURES = os.environ.get("DEMASK_PICTURES")  # a folder for what the tests saw


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_window_size(1100, 1130)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, running):
    browser.get(running.url + "/")
    wait(browser, "return document.getElementById('model').textContent === 'demask/notes'")
    return Page(browser)


class Page:
    def __init__(self, browser):
        self.browser = browser

    def at(self, identity):
        return self.browser.find_element("id", identity)

    def type(self, identity, text):
        self.at(identity).clear()
        self.at(identity).send_keys(text)

    def go(self):
        self.at("go").click()
        wait(self.browser, "return !document.getElementById('go').disabled")

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def keep(self, name):
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(f"{PICTURES}/{name}.png")


def wait(browser, true):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(true))


def test_a_generation_is_played_and_scrubbed(page, model):
    from selenium.webdriver.common.keys import Keys

    page.type("prompt", "dear anna ,")
    page.type("steps-a", "12")
    page.go()
    whole = model.generate("dear anna ,", key=1, steps=12)
    cells = page.all(".text span")
    assert "".join(cell.get_attribute("textContent") for cell in cells) == "".join(whole.cells)
    assert f"{whole.nfe} forward passes" in page.at("canvases").text
    page.keep("generated")
    time = page.at("time")
    assert int(time.get_attribute("max")) == whole.steps
    time.send_keys(Keys.HOME)
    masked = sum(when >= 0 for when in whole.when)
    assert len(page.all(".masked")) == masked
    time.send_keys(Keys.ARROW_RIGHT)
    fresh = sum(when == 0 for when in whole.when)
    assert len(page.all(".fresh")) == fresh
    assert len(page.all(".masked")) == masked - fresh
    page.keep("scrubbed")
    page.at("play").click()
    wait(page.browser, "return document.querySelectorAll('.masked').length === 0")
    assert page.at("play").text == "▶"


def test_two_samplers_are_compared_and_coloured_by_entropy(page):
    page.type("prompt", "dear [MASK] , [MASK:40]")
    page.at("compare").click()
    for side, order in (("a", "Random()"), ("b", "Confidence()")):
        page.type(f"steps-{side}", "10")
        page.type(f"schedule-{side}", "uniform")
        page.type(f"order-{side}", order)
    page.go()
    assert [panel.text.splitlines()[0] for panel in page.all(".canvas h2")] == [
        "A: uniform, Random(), 10 steps",
        "B: uniform, Confidence(), 10 steps",
    ]
    assert len(page.all("canvas.order")) == 2
    page.at("colour").send_keys("by entropy")
    assert page.at("high").text.endswith("nats")
    page.keep("compared")
    page.browser.set_window_size(390, 844)
    assert page.browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    page.keep("phone")
    page.browser.execute_script("document.getElementById('player').scrollIntoView()")
    page.keep("phone-canvas")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    page.keep("phone-dark")
    page.browser.set_window_size(1100, 1130)
    page.browser.execute_script("scrollTo(0, 0)")
    page.keep("dark")
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_sampler_is_played_beside_a_schedule(page, model):
    page.type("prompt", "dear anna ,")
    page.type("tokens", "12")
    page.at("compare").click()
    page.type("steps-a", "4")
    page.type("sampler-b", "Remasking(6, Cap(0.1))")
    page.go()
    sampled = model.generate("dear anna ,", 12, key=1, sampler="Remasking(6, Cap(0.1))")
    assert page.all(".canvas h2")[1].text == "B: Remasking(6, Cap(0.1))"
    assert page.all(".text")[1].get_attribute("textContent") == "".join(sampled.cells)
    page.type("steps-b", "4")
    page.go()
    assert "give one of them" in page.at("error").text


def test_what_is_refused_is_shown(page):
    page.type("prompt", "bonjour")
    page.go()
    assert "bonjour" in page.at("error").text
    page.type("prompt", "dear anna ,")
    page.type("steps-a", "3")
    page.go()
    assert not page.at("error").is_displayed()


def test_a_recorded_run_is_opened(page, model, tmp_path):
    run = model.generate("dear anna ,", key=4, steps=7)
    (tmp_path / "run.json").write_text(json.dumps(run.to_json()))
    page.at("file").send_keys(str(tmp_path / "run.json"))
    wait(page.browser, "return document.querySelectorAll('.text span').length > 0")
    assert int(page.at("time").get_attribute("max")) == run.steps
    assert f"law {run.law.name}" in page.at("canvases").text
    (tmp_path / "other.json").write_text("{}")
    page.at("file").send_keys(str(tmp_path / "other.json"))
    wait(page.browser, "return !document.getElementById('error').hidden")
    assert "no run" in page.at("error").text


def test_nothing_is_loaded_from_elsewhere_and_nothing_complains(page):
    page.type("prompt", "dear anna ,")
    page.type("steps-a", "2")
    page.go()
    names = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    origin = page.browser.execute_script("return location.origin")
    assert names
    assert all(name.startswith(origin) for name in names)
    assert [line for line in page.browser.get_log("browser") if "400" not in line["message"]] == []


def test_the_keyboard_is_enough(page):
    from selenium.webdriver.common.keys import Keys

    page.at("prompt").send_keys("dear anna ,", Keys.TAB, "6", Keys.ENTER)
    wait(page.browser, "return document.querySelectorAll('.unmasked').length > 0")
    wait(page.browser, "return !document.getElementById('go').disabled")
    page.at("play").send_keys(Keys.SPACE)
    wait(page.browser, "return document.getElementById('play').textContent === '❚❚'")
