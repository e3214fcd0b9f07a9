"""The pages and the reconnecting client in a real browser, Chromium, against real servers."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from conftest import HEADLESS_SHELL, edit, needs_chromium, servers_of
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sites import catch_up

pytestmark = needs_chromium

NASTY = """<img src=x onerror="alert('gotcha')"> & <b>bold</b>"""

PRODUCTION = {
    "ALLOWED_HOSTS": "127.0.0.1,localhost",
    "DEBUG": "false",
    "SECRET_KEY": "a-key-for-the-tests-that-is-long-enough-for-all-of-django's-checks",
    "SECURE_SSL_REDIRECT": "false",
}

# What a project's own views would do: they take the place of the template's echo.
OBEDIENT_VIEWS = '''
from django.http import Http404


async def echo(socket):
    """Close as the client says ("close 1008 because"), refuse as its URL says, echo all else."""
    if "refuse" in socket.query_params:
        return await socket.close()
    if "missing" in socket.query_params:
        raise Http404
    await socket.accept(socket.subprotocols[0] if socket.subprotocols else None)
    if "close" in socket.query_params:
        return await socket.close(int(socket.query_params["close"]))
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            return await socket.close(int(code), reason)
        await socket.send_message(message.encode() if message == "bytes" else message)
'''

BLANK_PAGE = """
from django.http import HttpResponse

urlpatterns += [path("blank/", lambda request: HttpResponse("<link rel=icon href='data:,'>"))]
"""

STRICT_MIDDLEWARE = """
def strict(get_response):
    def middleware(request):
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'"
        return response

    return middleware
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not for the session: while Playwright runs, no other test can run asyncio."""
    quiet = (
        *("--disable-background-networking", "--disable-component-update", "--disable-gpu"),
        *("--disable-sync", "--no-first-run", "--no-sandbox"),
    )
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=HEADLESS_SHELL, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained about: errors, dialogs, missing files, foreign hosts."""
    return []


@pytest.fixture
def open_page(browser: Browser, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """A function that opens a URL; but for sockets that are lost, nothing may go wrong on it."""
    contexts = []

    def open_page(url: str, *, still: bool = False, **options) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        note_complaints(page, complaints)
        if still:
            # Time stands still on the page unless the test moves it, and chance is no more.
            page.add_init_script("Math.random = () => 1")
            page.clock.install(time=0)
            page.clock.pause_at(1_000)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in complaints if not text.startswith("WebSocket connection to")] == []


def note_complaints(page: Page, complaints: list[str]) -> None:
    def note_console(message) -> None:
        # Nobody answers while a test has the server away.
        url, text = message.location["url"], message.text
        away = text == "Failed to load resource: net::ERR_CONNECTION_REFUSED"
        if message.type == "error" and not away:
            complaints.append(f"{text} ({url})" if text.startswith("Failed to load") else text)

    def note_dialog(dialog) -> None:
        complaints.append(dialog.message)
        dialog.dismiss()

    def note_request(request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            complaints.append(f"a foreign host: {request.url}")

    def note_response(response) -> None:
        if response.status >= 400:
            complaints.append(f"{response.status} {response.url}")

    page.on("console", note_console)
    page.on("dialog", note_dialog)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", note_request)
    page.on("response", note_response)


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
    """A server of the project as it is, for the tests that leave its files as they are."""
    database = tmp_path_factory.mktemp("browser") / "db.sqlite3"
    shutil.copy(project.path / "db.sqlite3", database)
    with servers_of(project) as serve:
        yield serve(env={"DATABASE_URL": f"sqlite:///{database}"})


@pytest.fixture(scope="module")
def production(project, tmp_path_factory):
    """A server of the project as it is deployed."""
    copy = project.copy(tmp_path_factory.mktemp("production") / "project")
    copy.run("manage.py", "collectstatic", "--no-input", env=copy.env | PRODUCTION)
    with servers_of(copy) as serve:
        yield serve(env=PRODUCTION)


@pytest.fixture(scope="module")
def obedient(project, tmp_path_factory):
    """A server whose echo view also closes as the client says."""
    copy = project.copy(tmp_path_factory.mktemp("obedient") / "project")
    with open(copy.path / "users/views.py", "a") as file:
        file.write(OBEDIENT_VIEWS)
    with open(copy.path / "project/urls.py", "a") as file:
        file.write(BLANK_PAGE)
    with servers_of(copy) as serve:
        yield serve()


@pytest.fixture
def client(obedient, open_page) -> Page:
    """A page with nothing on it but `connect(...)`, which makes a client and notes its events."""
    page = open_page(f"{obedient.url}/blank/", still=True)
    page.evaluate(
        """async () => {
            const { ReconnectingWebSocket } = await import("/static/websocket/client.js");
            window.ReconnectingWebSocket = ReconnectingWebSocket;
            window.connect = (...args) => {
                window.events = [];
                window.socket = new ReconnectingWebSocket(...args);
                for (const type of ["open", "message", "error", "close", "reconnecting"])
                    socket.addEventListener(type, (event) => events.push(event));
            };
            window.count = (type) => events.filter((event) => event.type === type).length;
            window.nameOfError = (action) => {
                try { action() } catch (error) { return error.name }
            };
            window.delays = () => events.filter((event) => event.type === "reconnecting")
                .map((event) => event.detail.delay);
        }"""
    )
    return page


def state(page: Page):
    return page.get_by_role("status")


def log(page: Page):
    return page.get_by_role("log")


def echoed(page: Page):
    """What the index page's echo has sent back, but for the hellos."""
    return page.get_by_role("log", name="What came back")


def wall(page: Page):
    return page.get_by_role("log", name="Notes on the wall")


def take_picture(page: Page, name: str, width: int, height: int) -> None:
    """With SCREENSHOTS set, make a picture for the README."""
    if os.environ.get("SCREENSHOTS"):
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=Path(__file__).parent.parent / "docs" / f"{name}.png", full_page=True)


def say(page: Page, text: str) -> None:
    """Type a message and send it, with the keyboard alone."""
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("textbox", name="Message").press("Enter")


# --- the index page ----------------------------------------------------------------------------


def test_the_page_sends_a_hello_every_second_and_shows_what_comes_back(server, open_page):
    page = open_page(server.url, still=True)
    expect(state(page)).to_have_text("Connected")
    for count in ("1", "2", "3"):
        page.clock.run_for(1_000)
        expect(page.locator("#beat-count")).to_have_text(count)
    expect(page.locator("#beat-text")).to_have_text("hello")


def test_the_page_shows_what_the_visitor_typed_as_text(server, open_page):
    page = open_page(server.url)
    expect(state(page)).to_have_text("Connected")
    say(page, "Hello from the browser!")
    expect(echoed(page).locator("p")).to_have_count(1)
    say(page, NASTY)
    expect(echoed(page).locator("p")).to_have_count(2)
    expect(echoed(page).locator(".log-text").last).to_have_text(NASTY)
    expect(page.locator("main img, b")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Message")).to_have_value("")


def test_a_screen_reader_hears_what_the_visitor_typed_and_not_each_hello(server, open_page):
    page = open_page(server.url, still=True)
    expect(state(page)).to_have_text("Connected")
    page.clock.run_for(3_000)
    expect(page.locator("#beat-count")).to_have_text("3")
    say(page, "hello")
    expect(echoed(page).locator(".log-text")).to_have_text(["hello"])
    beats = page.locator("#beat-text, #beat-time, #beat-count")
    expect(beats).to_have_count(3)
    assert not beats.evaluate_all(
        "beats => beats.some((beat) => beat.closest('[aria-live], [role=log], [role=status]'))"
    )


def test_the_log_keeps_the_last_hundred_messages(server, open_page):
    page = open_page(server.url)
    expect(state(page)).to_have_text("Connected")
    for number in range(105):
        say(page, f"message {number}")
    texts = echoed(page).locator(".log-text")
    expect(texts.last).to_have_text("message 104")
    expect(texts.first).to_have_text("message 5")
    expect(texts).to_have_count(100)
    echoed(page).scroll_into_view_if_needed()
    expect(texts.last).to_be_in_viewport()


def test_the_page_shows_the_servers_clock_and_who_is_looking(server, open_page):
    page = open_page(server.url)
    expect(page.locator("#who")).to_have_text("Anonymous")
    seen = page.locator("#clock").text_content()
    assert re.search(r"\d:\d\d:\d\d", seen)
    expect(page.locator("#clock")).not_to_have_text(seen)


def test_the_page_links_to_what_there_is(server, open_page):
    page = open_page(server.url)
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links).to_have_text([re.compile(name) for name in ("Chat", "Console", "Admin")])
    links.nth(1).click()
    expect(page.get_by_role("heading")).to_have_text("ws/")


@pytest.mark.parametrize("leave", ["kill", "stop"])
def test_the_page_is_connected_again_after_the_server_was_lost(serve, open_page, leave):
    server = serve()
    page = open_page(server.url)
    expect(state(page)).to_have_text("Connected")
    getattr(server, leave)()
    expect(state(page)).to_have_text("Reconnecting")
    expect(page.locator("#state-detail")).to_have_text(re.compile(r"in \d+ s|now"))
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    server.restart()
    expect(state(page)).to_have_text("Connected", timeout=90_000)
    say(page, "still here")
    expect(echoed(page)).to_contain_text("still here")


@pytest.mark.parametrize(
    ("code", "why"), [(1011, "log has the traceback"), (1012, "or your permissions have changed")]
)
def test_the_page_says_why_it_was_cut_off(obedient, open_page, code, why):
    page = open_page(obedient.url, still=True)
    expect(state(page)).to_have_text("Connected")
    say(page, f"close {code} because")
    expect(page.get_by_role("alert")).to_have_text(re.compile(why))
    # It stands in the echo's own card, and covers nothing.
    card = page.get_by_role("region", name="The echo")
    expect(card.get_by_role("alert")).to_have_css("position", "static")
    page.clock.run_for(1_000)
    expect(state(page)).to_have_text("Connected")
    expect(page.locator("#reason")).to_be_empty()


@pytest.mark.parametrize("code", [1000, 1008, 3000, 3003])
def test_the_page_does_not_come_back_after_a_close_that_says_so(obedient, open_page, code):
    catch_up(obedient)
    before = obedient.log().count('"WebSocket /ws/"')
    page = open_page(obedient.url, still=True)
    expect(state(page)).to_have_text("Connected")
    say(page, f"close {code} because")
    expect(state(page)).to_have_text("Closed")
    expect(page.locator("#state-detail")).to_have_text(f"{code} because")
    page.clock.run_for(600_000)
    expect(state(page)).to_have_text("Closed")
    catch_up(obedient)
    assert obedient.log().count('"WebSocket /ws/"') == before + 1


def test_the_page_works_under_a_strict_content_security_policy(
    serve, workshop, open_page, complaints
):
    (workshop.path / "project/strict.py").write_text(STRICT_MIDDLEWARE)
    with open(workshop.path / "project/settings.py", "a") as file:
        file.write('MIDDLEWARE += ["project.strict.strict"]\n')
    page = open_page(serve(path=workshop.path).url)
    expect(page.locator("#beat-count")).not_to_have_text("0")
    assert complaints == []


def test_an_edited_view_is_seen_without_a_restart_by_hand(serve, workshop, open_page):
    page = open_page(serve("--reload", path=workshop.path).url)
    expect(state(page)).to_have_text("Connected")
    views = workshop.path / "users/views.py"
    text = views.read_text()
    assert "send_message(message)" in text
    edit(views, text.replace("send_message(message)", "send_message(message.upper())"))
    expect(page.locator("#beat-text")).to_have_text("HELLO", timeout=90_000)
    expect(echoed(page)).not_to_contain_text("HELLO")
    # The code beside it is what runs by now.
    expect(code_of(page, "echo")).to_contain_text("send_message(message.upper())")
    expect(code_of(page, "echo").locator(".keyword").first).to_have_text("async")
    expect(page.locator(".changed summary > code")).to_have_text(["echo"])


def code_of(page: Page, view: str):
    return page.get_by_label(f"The code of {view}")


def test_the_page_shows_the_code_of_what_is_beside_it(server, open_page):
    page = open_page(server.url)
    path = server.project.path / "users" / "views.py"
    lines = path.read_text().splitlines()
    for view in ("wall", "announce", "echo", "clock"):
        shown = code_of(page, view).text_content()
        assert f"def {view}(" in shown
        start = int(page.locator(f"[data-line={view}]").text_content())
        assert lines[start - 1 : start - 1 + shown.count("\n") + 1] == shown.splitlines()


# --- the wall ----------------------------------------------------------------------------------


def write(page: Page, text: str) -> None:
    """Write on the wall, with the keyboard alone."""
    expect(page.get_by_role("button", name="Post")).to_be_enabled()
    page.get_by_role("textbox", name="Write on the wall").fill(text)
    page.get_by_role("textbox", name="Write on the wall").press("Enter")


def notes(page: Page):
    return wall(page).locator(".message-text")


@pytest.fixture
def walls(serve, project, tmp_path) -> str:
    """The URL of a server whose wall no other test writes on."""
    database = shutil.copy(project.path / "db.sqlite3", tmp_path / "db.sqlite3")
    return serve(env={"DATABASE_URL": f"sqlite:///{database}"}).url


def test_two_windows_see_each_other_and_share_the_wall(walls, open_page):
    one = open_page(walls)
    count = one.locator("#count")
    expect(count).to_have_text("1")
    expect(notes(one)).to_have_count(0)
    expect(one.locator("#people > .dot")).to_have_count(1)

    with one.expect_popup() as popup:
        one.get_by_role("link", name="Open it again").click()
    other = popup.value
    for page in (one, other):
        expect(page.locator("#count")).to_have_text("2")
        expect(page.locator("#people > .dot")).to_have_count(2)
        expect(page.locator("#people > .you")).to_have_count(1)

    write(one, "Hello from the first window!")
    write(other, NASTY)
    texts = {"Hello from the first window!", NASTY}
    for page in (one, other):
        expect(notes(page)).to_have_count(2)
        assert set(notes(page).all_text_contents()) == texts
        expect(page.locator("main img, b")).to_have_count(0)
        expect(wall(page).locator(".mine")).to_have_count(1)
    expect(one.get_by_role("textbox", name="Write on the wall")).to_have_value("")
    take_picture(one, "index", 1280, 1000)

    other.close()
    expect(count).to_have_text("1")
    expect(one.locator("#people > .dot")).to_have_count(1)


def test_a_note_has_at_most_140_characters_and_the_page_counts_them(walls, open_page):
    page = open_page(walls)
    expect(page.locator("#count")).to_have_text("1")
    box = page.get_by_role("textbox", name="Write on the wall")
    expect(box).to_have_accessible_description("140 characters left")
    box.focus()
    page.keyboard.insert_text("x" * 130)
    expect(box).to_have_accessible_description("10 characters left")
    page.keyboard.type("y" * 20)
    expect(box).to_have_accessible_description("0 characters left")
    box.press("Enter")
    expect(notes(page)).to_have_text(["x" * 130 + "y" * 10])
    # A browser counts this as two, and Python as one.
    write(page, "\N{ROCKET}" * 70)
    expect(notes(page).last).to_have_text("\N{ROCKET}" * 70)


def test_the_page_shows_the_last_twenty_notes(serve, project, open_page, tmp_path):
    database = shutil.copy(project.path / "db.sqlite3", tmp_path / "db.sqlite3")
    env = {"DATABASE_URL": f"sqlite:///{database}"}
    fill = (
        "from users.models import Note\n"
        "for n in range(20): Note.objects.create(author='abcdef', text=f'note {n}')"
    )
    project.run("manage.py", "shell", "-c", fill, env={**project.env, **env})
    page = open_page(serve(env=env).url)
    expect(notes(page)).to_have_count(20)
    expect(notes(page).last).to_be_in_viewport()
    expect(wall(page)).to_have_attribute("aria-live", "off")
    write(page, "one more")
    expect(notes(page).last).to_have_text("one more")
    expect(notes(page).last).to_be_in_viewport()
    expect(notes(page).first).to_have_text("note 1")
    expect(notes(page)).to_have_count(20)
    expect(wall(page)).to_have_attribute("aria-live", "polite")


def test_no_two_of_twenty_strangers_have_nearly_the_same_colour(
    serve, project, open_page, tmp_path
):
    database = shutil.copy(project.path / "db.sqlite3", tmp_path / "db.sqlite3")
    env = {"DATABASE_URL": f"sqlite:///{database}"}
    fill = (
        "from users.models import Note\n"
        "for n in range(20): Note.objects.create(author=f'{n:06x}', text=f'note {n}')"
    )
    project.run("manage.py", "shell", "-c", fill, env={**project.env, **env})
    page = open_page(serve(env=env).url)
    expect(notes(page)).to_have_count(20)
    colour = "(dot) => getComputedStyle(dot, '::before').backgroundColor.match(/[\\d.]+/g)"
    dots = wall(page).locator(".dot").evaluate_all(f"(dots) => dots.map({colour})")
    colours = [(float(light), float(hue)) for light, _, hue in dots]
    for (light, hue), (other_light, other_hue) in combinations(colours, 2):
        apart = abs(hue - other_hue)
        assert abs(light - other_light) > 0.1 or min(apart, 360 - apart) > 25


def test_who_writes_fast_is_slowed_down_and_loses_nothing(walls, open_page):
    page = open_page(walls)
    expect(page.locator("#count")).to_have_text("1")
    page.evaluate(
        """() => {
            window.times = [];
            new MutationObserver(() => times.push(performance.now()))
                .observe(document.getElementById("notes"), { childList: true });
        }"""
    )
    for text in ("one", "two", "three"):
        write(page, text)
    expect(notes(page)).to_have_text(["one", "two", "three"])
    first, _, third = page.evaluate("times")
    assert third - first > 1_800


# --- how the pages look ------------------------------------------------------------------------

LOOKS = {
    "a phone, light": {"viewport": {"width": 320, "height": 640}},
    "a phone, dark": {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
    "a desktop, light": {"viewport": {"width": 1200, "height": 800}},
    "a desktop, dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
}

# The contrast of each text with what is behind it (WCAG 2.2, 1.4.3), where it is less than 4.5.
FAINT_TEXTS = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) =>
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const behind = (element) => {
        const [r, g, b, a = 1] = channels(getComputedStyle(element).backgroundColor);
        return a === 1 ? [r, g, b] : behind(element.parentElement);
    };
    const hasText = (element) =>
        [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body, body *")]
        .filter((element) => hasText(element) && !element.matches("script, :disabled"))
        .map((element) => {
            const text = luminance(channels(getComputedStyle(element).color));
            const back = luminance(behind(element));
            const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
            return [element.textContent.trim(), contrast];
        })
        .filter(([, contrast]) => contrast < 4.5);
}"""


# What is smaller than a finger, of what can be pressed (WCAG 2.2, 2.5.5); links in text may be.
SMALL_TARGETS = """() =>
    [...document.querySelectorAll("a, button, input:not([type=hidden]), select, summary")]
        .filter((element) => element.checkVisibility() && !element.matches("p > a:not(.button)"))
        .map((element) => element.closest("label") ?? element)
        .map((element) => [element.outerHTML, element.getBoundingClientRect()])
        .filter(([, { width, height }]) => width < 43.9 || height < 43.9)
        .map(([html]) => html)
"""


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_fit_and_can_be_read_on(look, server, open_page, complaints):
    index = open_page(server.url, **LOOKS[look])
    console = open_page(f"{server.url}/ws/?{'x' * 200}", **LOOKS[look])
    console.get_by_role("button", name="Connect", exact=True).click()
    write(index, "x" * 140)
    expect(notes(index).last).to_have_text("x" * 140)
    for page, came_back in ((index, echoed(index)), (console, log(console))):
        expect(state(page)).to_have_text("Connected")
        say(page, "x" * 500)
        expect(came_back).to_contain_text("x" * 500)
        scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(scrolls)
        assert page.evaluate(FAINT_TEXTS) == []
        assert page.evaluate(SMALL_TARGETS) == []
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 18)"
        assert dark == ("dark" in look)
    assert complaints == []


@pytest.mark.parametrize("path", ["/", "/ws/"])
def test_everything_on_the_page_is_reached_with_the_tab_key(path, server, open_page):
    page = open_page(server.url + path)
    if path == "/":
        expect(page.get_by_role("button", name="Post")).to_be_enabled()
    else:
        page.get_by_role("button", name="Connect", exact=True).press("Enter")
    expect(state(page)).to_have_text("Connected")
    focusable = page.locator(":is(a, button, input, summary, [tabindex='0']):not(:disabled)")
    focusable.first.focus()
    for number, element in enumerate(focusable.all()):
        if number:
            page.keyboard.press("Tab")
            # Where the focus is can be seen.
            expect(element).to_have_css("outline-style", "solid")
        expect(element).to_be_focused()


def test_nothing_moves_for_those_who_want_it_still(server, open_page):
    page = open_page(server.url, reduced_motion="reduce")
    expect(page.locator("#people > .dot").first).to_be_visible()
    page.locator("details").first.evaluate("(details) => details.classList.add('changed')")
    assert page.evaluate("document.getAnimations().length") == 0


# --- static files ------------------------------------------------------------------------------


def test_no_page_misses_a_file_in_development(server, open_page, complaints):
    page = open_page(server.url)
    expect(state(page)).to_have_text("Connected")
    assert has_icon(page)
    login = open_page(f"{server.url}/admin/login/")
    assert has_rules(login) and has_icon(login)
    assert complaints == []


def test_no_page_misses_a_file_in_production(production, open_page, complaints):
    page = open_page(production.url)
    expect(state(page)).to_have_text("Connected")
    for script, name in zip(page.locator("script").all(), ("index", "wall"), strict=True):
        assert re.search(rf"{name}\.\w{{12}}\.js$", script.get_attribute("src"))
    # There is no console in production, and so no link to it.
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links).to_have_text([re.compile(name) for name in ("Chat", "Admin")])
    # Nobody is shown the code.
    expect(page.locator("#count")).not_to_have_text("–")
    expect(page.locator("pre")).to_have_count(0)
    assert has_icon(page)
    login = open_page(f"{production.url}/admin/login/")
    assert has_rules(login) and has_icon(login)
    assert complaints == []


def test_a_missing_page_looks_like_the_site_in_production(production, open_page, complaints):
    page = open_page(f"{production.url}/nowhere/", viewport={"width": 320, "height": 640})
    expect(page.get_by_role("heading")).to_have_text("This page does not exist")
    assert has_rules(page) and has_icon(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(FAINT_TEXTS) == page.evaluate(SMALL_TARGETS) == []
    page.get_by_role("link", name="Home").click()
    expect(state(page)).to_have_text("Connected")
    assert {text for text in complaints if "/nowhere/" not in text} == set()
    complaints.clear()


def has_icon(page: Page) -> bool:
    icon = page.evaluate("document.querySelector('link[rel=icon]').href")
    return page.request.get(icon).headers["content-type"] == "image/svg+xml"


def has_rules(page: Page) -> bool:
    return page.evaluate("[...document.styleSheets].every((sheet) => sheet.cssRules.length > 0)")


# --- the console -------------------------------------------------------------------------------


def test_the_console_shows_the_frames_of_both_directions(obedient, open_page, complaints):
    page = open_page(f"{obedient.url}/ws/?after=3")
    expect(page.get_by_role("heading")).to_have_text("ws/")
    expect(page.locator("body")).to_contain_text("users.views.echo")
    expect(page.locator("body")).to_contain_text("Close as the client says")
    expect(page.locator("body")).to_contain_text("anonymous")
    expect(page.locator("#url")).to_have_text(f"{obedient.ws}/ws/?after=3")

    page.get_by_label("Subprotocols").fill("chat, json")
    page.keyboard.press("Enter")
    expect(state(page)).to_have_text("Connected")
    expect(row(page, "open")).to_contain_text("subprotocol chat")

    say(page, NASTY + "é")
    for direction in ("sent", "received"):
        expect(row(page, direction)).to_contain_text(NASTY + "é")
        expect(row(page, direction)).to_contain_text(f"{len(NASTY) + 2} B")
    expect(page.locator("img, b")).to_have_count(0)

    say(page, "bytes")
    expect(log(page)).to_contain_text("62 79 74 65 73")

    page.get_by_role("button", name="Disconnect").click()
    expect(state(page)).to_have_text("Closed")
    expect(row(page, "close")).to_contain_text("1000 normal closure")
    # It is no error.
    expect(row(page, "close")).to_have_class("event")
    expect(state(page)).to_have_attribute("data-state", "ended")

    page.get_by_role("button", name="Clear").click()
    expect(log(page)).to_contain_text("Connect, and send a message.")
    page.get_by_role("link", name="Home").click()
    expect(page).to_have_url(f"{obedient.url}/")
    assert complaints == []


def test_the_console_formats_json_and_changes_nothing_in_it(server, open_page):
    page = open_page(f"{server.url}/ws/")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(state(page)).to_have_text("Connected")
    text = '{"id": 12345678901234567890, "teas": [{"name": "a, {b", "price": 4.50}], "more": {}}'
    say(page, text)
    lines = """{
  "id": 12345678901234567890,
  "teas": [
    {
      "name": "a, {b",
      "price": 4.50
    }
  ],
  "more": {}
}"""
    received = row(page, "received").locator(".text > :visible")
    expect(received).to_have_text(lines)
    assert received.evaluate("(form) => form.textContent") == lines
    take_picture(page, "console", 1000, 900)
    page.get_by_label("Format JSON").uncheck()
    expect(received).to_have_text(text)


def test_the_console_says_why_the_server_closed(obedient, open_page):
    page = open_page(f"{obedient.url}/ws/")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(state(page)).to_have_text("Connected")
    say(page, "close 1008 not for you")
    expect(row(page, "close")).to_contain_text("1008 policy violation\nnot for you")
    expect(row(page, "close")).to_have_class("lost")
    expect(state(page)).to_have_attribute("data-state", "closed")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(state(page)).to_have_text("Connected")


def test_the_console_says_why_a_handshake_was_refused(obedient, open_page):
    for query, status in (("refuse", "403 Forbidden"), ("missing", "404 Not Found")):
        page = open_page(f"{obedient.url}/ws/?{query}")
        page.get_by_role("button", name="Connect", exact=True).click()
        expect(row(page, "close")).to_contain_text(f"The server refused the handshake: {status}")
    expect(row(page, "close")).to_contain_text("The view found nothing for this URL.")


def test_the_console_says_when_nobody_answers(serve, open_page):
    server = serve()
    page = open_page(f"{server.url}/ws/")
    server.stop()
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(row(page, "close")).to_contain_text("The server does not answer.")


def test_the_console_tells_of_a_view_that_accepts_no_subprotocol(server, open_page):
    page = open_page(f"{server.url}/ws/")
    page.get_by_label("Subprotocols").fill("chat")
    page.keyboard.press("Enter")
    expect(row(page, "close")).to_contain_text("the view accepted none of them")


def test_there_is_no_console_in_production(production, browser):
    context = browser.new_context()
    response = context.request.get(f"{production.url}/ws/", headers={"Accept": "text/html"})
    assert response.status == 426
    assert "<" not in response.text()
    context.close()


def row(page: Page, name: str):
    return log(page).get_by_role("row").filter(has=page.get_by_role("cell", name=name)).last


# --- the client --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1001, 1003, 1011, 1012, 1013, 3008, 4000])
def test_the_client_comes_back_after_any_other_close(client, code):
    client.evaluate("connect('/ws/')")
    client.wait_for_function("count('open') === 1")
    client.evaluate(f"socket.send('close {code} because')")
    client.wait_for_function("count('reconnecting') === 1")
    closed = "events.findLast((event) => event.type === 'close')"
    assert client.evaluate(f"{closed}.code") == code
    assert client.evaluate(f"{closed}.reason") == "because"
    client.clock.run_for(1_000)
    client.wait_for_function("count('open') === 2")


@pytest.mark.parametrize(
    ("final", "code", "comes_back"),
    [("[4401]", 4401, False), ("[4401]", 1000, True), ("[]", 3003, True)],
)
def test_the_client_takes_a_list_of_the_codes_that_are_final(client, final, code, comes_back):
    client.evaluate(f"connect('/ws/', [], {{ final: {final} }})")
    client.wait_for_function("count('open') === 1")
    client.evaluate(f"socket.send('close {code} because')")
    client.wait_for_function("count('close') === 1")
    assert client.evaluate("count('reconnecting')") == comes_back
    assert client.evaluate("socket.readyState === socket.CLOSED") is not comes_back


def test_the_client_lets_a_new_cookie_arrive_before_it_comes_back_after_1012(client):
    client.evaluate("Math.random = () => 0")
    for code, delay in ((1012, 500), (1011, 0)):
        client.evaluate("connect('/ws/')")
        client.wait_for_function("count('open') === 1")
        client.evaluate(f"socket.send('close {code} because')")
        client.wait_for_function("count('reconnecting') === 1")
        assert client.evaluate("delays()[0]") == delay
        client.evaluate("socket.close()")


def test_the_client_waits_longer_and_longer_for_a_server_that_hangs_up_at_once(client):
    client.evaluate("connect('/ws/?close=1011')")
    for attempt in range(1, 8):
        client.wait_for_function(f"count('reconnecting') === {attempt}")
        assert client.evaluate("count('open')") == attempt
        delay = client.evaluate("delays().at(-1)")
        assert client.evaluate("events.at(-1).detail.attempt") == attempt
        client.clock.run_for(delay)
    assert client.evaluate("delays().slice(0, 7)") == [1e3, 2e3, 4e3, 8e3, 16e3, 30e3, 30e3]


def test_the_client_waits_longer_and_longer_for_a_server_that_refuses(client):
    client.evaluate("connect('/ws/?refuse', [], { firstDelay: 100, maxDelay: 250 })")
    for attempt in range(1, 5):
        client.wait_for_function(f"count('reconnecting') === {attempt}")
        client.clock.run_for(client.evaluate("delays().at(-1)"))
    assert client.evaluate("delays().slice(0, 4)") == [100, 200, 250, 250]
    assert client.evaluate("count('open')") == 0


def test_the_delay_is_a_random_part_of_its_span(client):
    client.evaluate("Math.random = () => 0.25")
    client.evaluate("connect('/ws/?close=1011')")
    client.wait_for_function("count('reconnecting') === 1")
    assert client.evaluate("delays()") == [250]


def test_the_delays_are_short_again_after_a_connection_that_lasted(client):
    client.evaluate("connect('/ws/')")
    for connection, lasted in enumerate((0, 0, 4_999, 5_000), 1):
        client.wait_for_function(f"count('open') === {connection}")
        client.clock.run_for(lasted)
        client.evaluate("socket.send('close 1011 because')")
        client.wait_for_function(f"count('reconnecting') === {connection}")
        client.clock.run_for(client.evaluate("delays().at(-1)"))
    assert client.evaluate("delays()") == [1_000, 2_000, 4_000, 1_000]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param("window.dispatchEvent(new Event('online'))", id="the network is back"),
        pytest.param("document.dispatchEvent(new Event('visibilitychange'))", id="it is visible"),
    ],
)
def test_the_client_tries_at_once_when(client, event):
    client.evaluate("connect('/ws/')")
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.evaluate(event)
    client.wait_for_function("count('open') === 2")
    # The timer that it did not wait for is gone, and the event means nothing to an open socket.
    client.evaluate(event)
    client.clock.run_for(60_000)
    assert client.evaluate("[count('open'), count('close'), socket.readyState]") == [2, 1, 1]


def test_the_client_asks_for_its_url_anew_each_time(client, obedient):
    client.evaluate("connect(() => `../ws/?after=${window.last ?? 0}`)")
    client.wait_for_function("count('open') === 1")
    assert client.evaluate("socket.url") == f"{obedient.ws}/ws/?after=0"
    client.evaluate("window.last = 7; socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.clock.run_for(1_000)
    client.wait_for_function("count('open') === 2")
    assert client.evaluate("socket.url") == f"{obedient.ws}/ws/?after=7"


def test_the_client_tries_again_where_its_url_could_not_be_made(client, complaints):
    client.evaluate(
        """connect(() => {
            if (window.broken) throw new Error("no URL yet");
            return new URL("/ws/", location.href);
        })"""
    )
    client.wait_for_function("count('open') === 1")
    client.evaluate("window.broken = true; socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.clock.run_for(1_000)
    client.wait_for_function("count('reconnecting') === 2")
    client.evaluate("window.broken = false")
    client.clock.run_for(2_000)
    client.wait_for_function("count('open') === 2")
    assert complaints == ["no URL yet"]
    complaints.clear()


def test_the_client_has_the_interface_of_the_browsers_own(client, obedient, complaints):
    start = "connect('/ws/', ['chat', 'json']); [socket.readyState, socket.binaryType]"
    assert client.evaluate(start) == [0, "blob"]
    client.wait_for_function("count('open') === 1")
    names = "Object.getOwnPropertyNames(WebSocket.prototype)"
    assert client.evaluate(f"{names}.filter((name) => !(name in socket))") == []
    for name, number in {"CONNECTING": 0, "OPEN": 1, "CLOSING": 2, "CLOSED": 3}.items():
        assert client.evaluate(f"[socket.{name}, ReconnectingWebSocket.{name}]") == [number] * 2
    attributes = "[socket.readyState, socket.protocol, socket.extensions, socket.bufferedAmount]"
    assert client.evaluate(attributes) == [1, "chat", client.evaluate("socket.extensions"), 0]
    client.evaluate("socket.onmessage = (event) => { window.handled = event }; null")
    client.evaluate("socket.send('text')")
    client.wait_for_function("count('message') === 1")
    assert client.evaluate("handled instanceof MessageEvent && handled.data") == "text"
    assert client.evaluate("handled.target === socket && handled.origin") == obedient.ws
    assert client.evaluate("socket.close(4001, 'enough'); socket.readyState") == 2
    client.wait_for_function("count('close') === 1")
    assert client.evaluate("socket.readyState") == 3
    assert client.evaluate("events.at(-1) instanceof CloseEvent")
    assert client.evaluate("events.at(-1).code") == 4001
    client.evaluate("socket.send('discarded')")
    assert complaints == ["WebSocket is already in CLOSING or CLOSED state."]
    complaints.clear()
    client.clock.run_for(60_000)
    assert client.evaluate("count('open')") == 1


def test_the_client_keeps_its_binary_type_when_it_comes_back(client):
    client.evaluate("connect('/ws/'); socket.binaryType = 'arraybuffer'")
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.clock.run_for(1_000)
    client.wait_for_function("count('open') === 2")
    client.evaluate("socket.send('bytes')")
    client.wait_for_function("count('message') === 1")
    assert client.evaluate("events.at(-1).data instanceof ArrayBuffer")


def test_sending_without_a_connection_throws_rather_than_lose_the_message(client):
    sending = "nameOfError(() => socket.send('x'))"
    assert client.evaluate(f"connect('/ws/'); {sending}") == "InvalidStateError"
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    assert client.evaluate("socket.readyState") == 0
    assert client.evaluate(sending) == "InvalidStateError"


def test_a_close_event_says_whether_it_is_the_last(client):
    client.evaluate("connect('/ws/'); window.states = []")
    client.evaluate("socket.onclose = () => states.push(socket.readyState); null")
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.clock.run_for(1_000)
    client.wait_for_function("count('open') === 2")
    client.evaluate("socket.send('close 1000 done')")
    client.wait_for_function("count('close') === 2")
    assert client.evaluate("states") == [0, 3]
    assert client.evaluate("count('reconnecting')") == 1


@pytest.mark.parametrize("listener", ["onclose", "onreconnecting"])
def test_the_client_can_be_closed_by_what_hears_of_a_loss(client, listener):
    client.evaluate(f"connect('/ws/'); socket.{listener} = () => socket.close(); null")
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("socket.readyState === WebSocket.CLOSED")
    client.clock.run_for(60_000)
    assert client.evaluate("count('open')") == 1


def test_the_client_can_be_closed_between_two_connections(client):
    client.evaluate("connect('/ws/')")
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.evaluate("socket.close()")
    client.wait_for_function("count('close') === 2")
    assert client.evaluate("socket.readyState") == 3
    client.evaluate("socket.close()")
    client.clock.run_for(60_000)
    assert client.evaluate("[count('open'), count('close')]") == [1, 2]


def test_the_client_refuses_to_close_with_what_a_browser_refuses(client):
    client.evaluate("connect('/ws/')")
    client.wait_for_function("count('open') === 1")
    unregistered, long = "socket.close(999)", f"socket.close(1000, '{'x' * 124}')"
    assert client.evaluate(f"nameOfError(() => {unregistered})") == "InvalidAccessError"
    assert client.evaluate(f"nameOfError(() => {long})") == "SyntaxError"
    assert client.evaluate("socket.readyState") == 1


def test_a_listener_that_fails_does_not_keep_the_client_from_coming_back(client, complaints):
    client.evaluate("connect('/ws/')")
    client.evaluate("socket.onclose = () => { throw new Error('a bug in the page') }; null")
    client.wait_for_function("count('open') === 1")
    client.evaluate("socket.send('close 1011 because')")
    client.wait_for_function("count('reconnecting') === 1")
    client.clock.run_for(1_000)
    client.wait_for_function("count('open') === 2")
    assert complaints == ["a bug in the page"]
    complaints.clear()
