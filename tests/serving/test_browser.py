"""The page as people use it, in Debian's Chromium."""

import csv
import io
import json
import shutil

import httpx
import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.confidence.reference import Measured, Reference, write_reference
from tests.conftest import draw, encode
from tests.serving.conftest import serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")

TOKEN = "secret"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
expect = playwright.expect
expect.set_options(timeout=20_000)


def file(name, label=0, seed=0, file_format="PNG"):
    """A drawn image, as Playwright chooses files."""
    return {"name": name, "mimeType": f"image/{file_format.lower()}", "buffer": encode(draw(label, seed), file_format)}


BROKEN = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": encode(draw(0, 0), "JPEG")[:300]}
IMAGES = [file("circle.png", 0), file("square.tiff", 1, 1, "TIFF"), BROKEN, file("=stripes.webp", 2, 2, "WEBP")]


@pytest.fixture(scope="module")
def url(artifact_path, tmp_path_factory):
    """A server that asks for a token. Of its 30 reference images most have a few labels, and each image sent is unlike them."""
    folder = tmp_path_factory.mktemp("page")
    model = shutil.copytree(artifact_path, folder / "artifact")
    labels = np.arange(30, dtype=np.int32) % 3
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1], 30)
    alike = (np.array([-10, 0, 10]) + generator.normal(0, 0.001, (30, 3))).astype(np.float32)
    measured = {"fp32": Measured.of(probabilities, labels, alike)}
    write_reference(load_artifact(model), Reference(labels=labels, hashes=np.zeros(30, np.uint64), measured=measured), {})
    with serving(folder / "log", DHVT_MODEL=str(model), DHVT_TOKEN=TOKEN) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser, url):
    """Opens the page; in the end, no page has asked another host, and none has done what its policy forbids."""
    contexts, requested, complaints = [], [], []

    def open_page(path="/ui", token=TOKEN, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        if token:
            context.add_init_script(f"sessionStorage.setItem('token', {token!r})")
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [other for other in requested if not other.startswith((url, "blob:", "data:"))] == []
    # The browser itself reports each response that is no success.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


def classify(page, *files):
    page.locator("#files").set_input_files(list(files))
    expect(page.locator("#status")).not_to_be_empty(timeout=20_000)


def cells(page, kind):
    return page.locator(f"#rows .{kind}").all_inner_texts()


def test_one_image_has_its_classes_times_and_model(url, new_page):
    page = new_page("/")
    expect(page.locator("#card")).to_contain_text("openvino in fp32")
    classify(page, IMAGES[0])
    answer = httpx.post(f"{url}/classify", files={"image": IMAGES[0]["buffer"]}, headers=AUTHORIZED)
    predictions = answer.json()["predictions"]
    shown = page.locator("#bars li").all_inner_texts()
    assert [text.split()[0] for text in shown] == [prediction["label"] for prediction in predictions]
    assert f"{100 * predictions[0]['score']:.1f} %" in page.locator("#result-title").inner_text()
    assert page.locator("#times dt").all_inner_texts() == ["Decoding", "Waiting", "Engine", "Network and the rest"]
    page.locator("#top-k").select_option("1")
    assert page.locator("#bars li").count() == 1
    expect(page.locator("#live")).to_contain_text("Images so far")


def test_many_images_are_a_table_to_sort_filter_and_take_away(url, new_page):
    page = new_page()
    busy = iter([True])
    page.route(
        "**/classify?*",
        lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}) if next(busy, False) else route.continue_(),
    )
    expect(page.locator("#card")).to_contain_text("openvino")
    classify(page, *IMAGES)
    expect(page.locator("#status")).to_have_text("4 images classified, 1 failed.")  # the one that was refused is not
    sent = [("image", (image["name"], image["buffer"])) for image in IMAGES]
    results = httpx.post(f"{url}/classify/batch?coverage=0.95&reject=0.05", files=sent, headers=AUTHORIZED).json()["results"]
    labels = [result["predictions"][0]["label"] for result in results if "predictions" in result]
    assert [text.split()[0] for text in cells(page, "label")] == labels
    assert "damaged or truncated" in page.locator("#rows .error").inner_text()

    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    assert json.loads(download.value.path().read_text())["results"][0] == results[0]
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    lines = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [line["label"] for line in lines] == [results[0]["predictions"][0]["label"], labels[1], "", labels[2]]
    assert lines[3]["name"] == "'=stripes.webp"  # no formula

    page.locator("#columns .name button").click()
    assert [text.split()[-1] for text in cells(page, "name")] == sorted(image["name"] for image in IMAGES)
    page.get_by_label("Filter by name or label").fill(".tiff")
    assert [text.split()[-1] for text in cells(page, "name")] == ["square.tiff"]
    page.get_by_label("Filter by name or label").fill("")
    page.locator("#state-filter").select_option("failed")
    assert page.locator("#rows tr").count() == 1


def test_a_format_that_the_browser_cannot_show_is_classified(new_page):
    page = new_page()
    classify(page, IMAGES[1])
    expect(page.locator("#no-preview")).to_have_text("Your browser cannot show TIFF files, but the server has read it.")
    assert page.locator("#bars li").count() == 3


def test_an_answer_says_how_sure_it_is(url, new_page):
    page = new_page()
    expect(page.locator("#card")).to_contain_text("prediction sets up to 96.77 %, from 30 reference images")
    classify(page, IMAGES[0])
    expect(page.locator("#certainty")).to_have_text("Unknown: unlike the images that the model was made from")
    page.locator("#reject").select_option("")
    for coverage in ("0.95", "0.8"):
        page.locator("#coverage").select_option(coverage)
        files = {"image": IMAGES[0]["buffer"]}
        answer = httpx.post(f"{url}/classify?coverage={coverage}", files=files, headers=AUTHORIZED).json()
        expect(page.locator("#set")).to_contain_text(f"{100 * float(coverage):.0f} % coverage")
        labels = answer["prediction_set"]
        assert page.locator("#set .chip").all_inner_texts() == labels
        phrase = "One class in the set" if len(labels) == 1 else f"Not sure: {len(labels)} classes in the set"
        expect(page.locator("#certainty")).to_have_text(phrase)
    page.locator("#coverage").select_option("")
    expect(page.locator("#set")).to_be_hidden()


def test_why_shows_maps_over_the_image_by_mouse_and_by_keyboard(url, new_page):
    page = new_page()
    classify(page, IMAGES[0])
    page.get_by_role("button", name="Why?").click()
    expect(page.get_by_role("button", name="Rollout")).to_be_visible()
    label = page.locator("#result-title").inner_text().split()[0]
    overlay, note = page.locator("#overlay"), page.locator("#why-note")
    expect(overlay).to_have_attribute("aria-label", f"What speaks for “{label}”, over the image")
    answer = httpx.post(
        f"{url}/explain?label={label}", files={"image": IMAGES[0]["buffer"]}, headers=AUTHORIZED, timeout=60
    ).json()
    highest = max(map(max, answer["maps"][0]["values"]))
    expect(note).to_contain_text(f"{100 * highest:.0f} points" if highest > 0 else "no place")
    drawn = overlay.evaluate("canvas => canvas.toDataURL()")
    page.get_by_role("button", name="Head token 2").hover()
    expect(overlay).to_have_attribute("aria-label", "Head token 2, over the image")
    assert overlay.evaluate("canvas => canvas.toDataURL()") != drawn
    expect(note).to_contain_text("Attention of layer 2")
    page.locator("#result-title").hover()
    assert overlay.evaluate("canvas => canvas.toDataURL()") == drawn
    page.get_by_role("button", name="Head token 1").focus()
    page.keyboard.press("Tab")
    expect(overlay).to_have_attribute("aria-label", "Head token 2, over the image")
    page.keyboard.press("Enter")
    page.get_by_label("Layer").select_option("1")
    expect(note).to_contain_text("Attention of layer 1")
    expect(page.locator("#why-maps [aria-pressed=true]")).to_have_text("Head token 2")
    page.locator("#why-label").select_option(index=1)
    other = page.locator("#why-label").input_value()
    expect(page.locator("#why-maps [aria-pressed=true]")).to_have_text(f"What speaks for “{other}”")
    page.get_by_role("button", name="Why?").click()
    expect(overlay).to_be_hidden()


def test_why_keeps_the_image_in_sight_on_a_phone(new_page):
    page = new_page(viewport={"width": 390, "height": 664})
    classify(page, IMAGES[0])
    page.get_by_role("button", name="Why?").click()
    page.get_by_role("button", name="Rollout").click()
    expect(page.locator("#overlay")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Rollout")).to_be_in_viewport(ratio=1)


def test_why_says_what_went_wrong(new_page):
    page = new_page()
    page.route(
        "**/explain?*", lambda route: route.fulfill(status=504, json={"error": {"code": "timed_out", "message": "too slow"}})
    )
    classify(page, IMAGES[0])
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#why-note")).to_have_text("Too slow.")
    expect(page.locator("#overlay")).to_be_hidden()


def test_images_can_be_pasted_and_dropped(new_page):
    page = new_page()
    transfer = page.evaluate_handle(
        "([...bytes]) => { const data = new DataTransfer();"
        " data.items.add(new File([new Uint8Array(bytes)], 'circle.png', { type: 'image/png' })); return data; }",
        list(IMAGES[0]["buffer"]),
    )
    page.evaluate("data => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", transfer)
    expect(page.locator("#bars li")).to_have_count(3)
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#veil")).to_be_visible()
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#veil")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("2 images classified.")


def test_the_keyboard_reaches_everything(new_page):
    page = new_page()
    expect(page.locator("#card")).to_contain_text("openvino")
    classify(page, *IMAGES)
    page.get_by_role("button", name="square.tiff").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#file-name")).to_contain_text("square.tiff")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#file-name")).to_contain_text("broken.jpg")
    expect(page.locator("#result-title")).to_contain_text("damaged or truncated")


def test_the_token_is_asked_for_once(new_page):
    page = new_page(token="")
    token = page.get_by_label("This server asks for a token.")
    token.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("This token was not accepted.")).to_be_visible()
    token.fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_contain_text("dhvt_test")
    expect(token).to_be_hidden()
    page.reload()
    expect(page.locator("#model")).to_contain_text("dhvt_test")
    assert page.evaluate("sessionStorage.getItem('token') + localStorage.length + document.cookie") == f"{TOKEN}0"


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(new_page, options):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = new_page(**options)
    expect(page.locator("#card")).to_contain_text("openvino")
    for images in ((), IMAGES):
        if images:
            classify(page, *images)
            page.get_by_role("button", name="Why?").click()
            expect(page.get_by_role("button", name="Rollout")).to_be_visible()
        page.locator("#engines").evaluate("details => { details.open = true; }")
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_swagger_shows_every_route(url, new_page):
    page = new_page("/docs")
    paths = httpx.get(f"{url}/docs.json", headers=AUTHORIZED).json()["paths"]
    expect(page.locator(".opblock-summary-path")).to_have_count(len(paths))
    assert {text.replace("\u200b", "") for text in page.locator(".opblock-summary-path").all_inner_texts()} == set(paths)
