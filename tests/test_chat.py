"""The chat example in two real browsers, against real servers that come and go."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_browser
from conftest import Project, Server, edit, needs_chromium
from playwright.sync_api import Locator, Page, expect
from services import running_redis
from test_browser import (
    FAINT_TEXTS,
    LOOKS,
    NASTY,
    SMALL_TARGETS,
    STRICT_MIDDLEWARE,
    log,
    say,
    state,
    take_picture,
)

pytestmark = needs_chromium

browser = test_browser.browser
complaints = test_browser.complaints
open_page = test_browser.open_page

USERS = """
from django.test import Client
from users.models import User

for name, is_admin in {"ada": True, "grace": False}.items():
    client = Client()
    user = User(username=name, is_staff=is_admin, is_superuser=is_admin)
    user.set_password(name)
    user.save()
    client.force_login(user)
    print(name, client.cookies["sessionid"].value)
"""


@pytest.fixture(scope="module")
def prepared(project: Project, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A database with two users, and the keys of their sessions."""
    database = tmp_path_factory.mktemp("chat") / "db.sqlite3"
    shutil.copy(project.path / "db.sqlite3", database)
    env = {**project.env, "DATABASE_URL": f"sqlite:///{database}"}
    printed = project.run("manage.py", "shell", "-c", USERS, env=env).stdout
    return database, dict(line.split() for line in printed.splitlines()[-2:])


@pytest.fixture
def env(prepared, tmp_path: Path) -> dict[str, str]:
    """The environment of a server with a database of its own."""
    return {"DATABASE_URL": f"sqlite:///{shutil.copy(prepared[0], tmp_path / 'db.sqlite3')}"}


@pytest.fixture
def server(serve, env) -> Server:
    return serve(env=env)


@pytest.fixture
def enter(prepared, open_page) -> Callable[..., Page]:
    """A function that opens the lobby, or another page, as a user who has logged in before."""

    def enter(server: Server, name: str, page: str = "/chat/rooms/lobby/", **options) -> Page:
        cookie = {"name": "sessionid", "value": prepared[1][name], "path": "/"}
        defaults = {"expires": -1, "httpOnly": True, "sameSite": "Lax", "secure": False}
        cookies = [{**cookie, **defaults, "domain": "127.0.0.1"}]
        page = open_page(server.url + page, storage_state={"cookies": cookies}, **options)
        if "/rooms/" in page.url:
            expect(state(page)).to_have_text("Connected")
        return page

    return enter


def log_in(page: Page, name: str) -> None:
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(name)
    page.get_by_role("button", name="Log in").click()


def texts(page: Page) -> Locator:
    return log(page).locator(".message-text")


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def here(page: Page) -> Locator:
    return page.get_by_role("list", name="Who is here").get_by_role("listitem")


def hurry(*pages: Page) -> None:
    """Come back now, and not after a while."""
    for page in pages:
        page.evaluate("dispatchEvent(new Event('online'))")


def forget_what_was_refused(complaints: list[str]) -> None:
    """While its server is away, a page asks it in vain whether the session has ended."""
    complaints[:] = [text for text in complaints if "net::ERR_CONNECTION_" not in text]


SAY = """
def say(texts):
    room, user = Room.objects.get(), User.objects.get(username="grace")
    Message.objects.bulk_create([Message(text=str(text), room=room, user=user) for text in texts])
"""


def in_database(project: Project, env: dict[str, str], code: str) -> None:
    code = f"from chat.models import *; from users.models import User\n{code}"
    project.run("manage.py", "shell", "-c", code, env={**project.env, **env})


def test_two_users_log_in_and_hear_and_see_each_other(server, open_page):
    ada, grace = (open_page(f"{server.url}/") for _ in range(2))
    for page, name in ((ada, "ada"), (grace, "grace")):
        page.get_by_role("link", name="Chat").click()
        log_in(page, name)
        page.get_by_role("link", name="Lobby").click()
        expect(state(page)).to_have_text("Connected")
    say(ada, "Good morning!")
    say(grace, "Good morning, ada!")
    for page in (ada, grace):
        expect(texts(page)).to_have_text(["Good morning!", "Good morning, ada!"])
        expect(log(page).locator(".message-user")).to_have_text(["ada", "grace"])
        expect(here(page)).to_have_text(["ada", "grace"])
    expect(box(ada)).to_have_value("")
    expect(box(ada)).to_be_focused()
    box(grace).press_sequentially("We")
    expect(ada.get_by_text("grace is typing…")).to_be_visible()
    expect(grace.locator("#typing")).to_be_empty()
    say(grace, "Well?")
    expect(ada.locator("#typing")).to_be_empty()


def test_one_logs_in_from_the_index_page_and_is_back(server, open_page):
    page = open_page(server.url)
    expect(page.locator("#who")).to_have_text("Anonymous")
    page.get_by_role("link", name="Log in").click()
    log_in(page, "grace")
    expect(page).to_have_url(f"{server.url}/")
    expect(page.locator("#who")).to_have_text("grace")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{server.url}/")
    expect(page.locator("#who")).to_have_text("Anonymous")


def test_a_name_stands_once_above_what_one_says_in_a_row(server, enter):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    for page, text in (
        (ada, "Good morning!"),
        (ada, "Who is here?"),
        (grace, "Me. Look above, beside the room's name."),
        (ada, "There we are."),
    ):
        say(page, text)
        expect(texts(grace).last).to_have_text(text)
    follows = log(grace).locator(".message.follows")
    expect(follows.locator(".message-text")).to_have_text(["Who is here?"])
    # A screen reader hears each name.
    expect(log(grace).locator(".message-user")).to_have_text(["ada", "ada", "grace", "ada"])
    expect(follows.locator(".message-user")).to_have_css("position", "absolute")
    take_picture(grace, "chat", 1000, 640)


def test_messages_stand_at_the_bottom_in_line_with_what_one_types(server, enter):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    say(grace, "Hello")
    say(ada, "Hello, grace")
    expect(texts(ada)).to_have_count(2)
    first, last = (log(ada).locator(".message").nth(n).bounding_box() for n in (0, 1))
    messages, field = log(ada).bounding_box(), box(ada).bounding_box()
    send = ada.get_by_role("button", name="Send").bounding_box()
    assert last["y"] + last["height"] == pytest.approx(messages["y"] + messages["height"])
    assert first["x"] == pytest.approx(field["x"])
    assert last["x"] + last["width"] == pytest.approx(send["x"] + send["width"])


def test_the_room_shows_who_comes_and_a_reload_is_neither_coming_nor_going(server, enter):
    ada = enter(server, "ada")
    expect(here(ada)).to_have_text(["ada"])
    grace = enter(server, "grace")
    expect(here(ada)).to_have_text(["ada", "grace"])
    ada.evaluate(
        """() => {
            window.changes = 0;
            new MutationObserver(() => { changes += 1 })
                .observe(document.getElementById("people"), { childList: true });
        }"""
    )
    grace.reload()
    expect(here(grace)).to_have_text(["ada", "grace"])
    say(grace, "Back")
    expect(texts(ada)).to_have_text(["Back"])
    assert ada.evaluate("changes") == 0


def test_the_room_shows_who_has_gone(serve, workshop, env, enter):
    presence = workshop.path / "websocket" / "groups" / "presence.py"
    text = presence.read_text()
    assert "RETURN: Final = 15.0" in text
    edit(presence, text.replace("RETURN: Final = 15.0", "RETURN: Final = 0.1"))
    server = serve(path=workshop.path, env=env)
    ada, grace = enter(server, "ada"), enter(server, "grace")
    expect(here(ada)).to_have_text(["ada", "grace"])
    grace.close()
    expect(here(ada)).to_have_text(["ada"])


def test_markup_shows_as_text(server, enter):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    say(ada, NASTY)
    for page in (ada, grace):
        expect(texts(page)).to_have_text([NASTY])
        expect(page.locator("img, b")).to_have_count(0)
    grace.reload()
    expect(texts(grace)).to_have_text([NASTY])


def test_what_the_form_refuses_is_said_beside_the_input(server, enter):
    page = enter(server, "ada")
    long = "x" * 501
    refusals = {
        "": "This field is required.",
        long: "Ensure this value has at most 500 characters (it has 501).",
    }
    for text, error in refusals.items():
        say(page, text)
        expect(box(page)).to_have_accessible_description(error)
        expect(box(page)).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("alert").filter(has_text=error)).to_be_visible()
        expect(box(page)).to_have_value(text)
    say(page, "x" * 500)
    expect(texts(page)).to_have_text(["x" * 500])
    expect(box(page)).to_have_accessible_description("")
    expect(box(page)).not_to_have_attribute("aria-invalid", "true")


def test_a_message_beyond_all_limits_is_given_back(server, enter):
    page = enter(server, "ada")
    box(page).evaluate("(box) => { box.value = 'x'.repeat(2 ** 20 + 1) }")
    box(page).press("Enter")
    expect(box(page)).to_have_accessible_description("This could not be sent.")
    expect(state(page)).to_have_text("Connected")


def test_one_who_is_logged_out_elsewhere_is_told_and_can_come_back(server, enter):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    elsewhere = ada.context.new_page()
    elsewhere.goto(f"{server.url}/chat/")
    elsewhere.get_by_role("button", name="Log out").click()
    expect(elsewhere.get_by_role("heading")).to_have_text("Log in")
    expect(ada.get_by_role("alert").filter(has_text="You are logged out.")).to_be_visible()
    expect(state(ada)).to_have_text("Logged out")
    expect(box(ada)).to_be_hidden()
    expect(ada.get_by_role("button", name="Log out")).to_be_hidden()
    say(grace, "Is she gone?")
    ada.get_by_role("link", name="Log in again").click()
    log_in(ada, "ada")
    expect(texts(ada)).to_have_text(["Is she gone?"])
    assert ada.url == f"{server.url}/chat/rooms/lobby/"


def test_one_whose_session_ended_while_the_server_was_away_is_told_too(
    server, enter, project, env, complaints
):
    ada = enter(server, "ada")
    server.stop()
    expect(state(ada)).to_have_text("Reconnecting")
    in_database(
        project,
        env,
        "from django.contrib.sessions.models import Session; Session.objects.all().delete()",
    )
    server.restart()
    hurry(ada)
    expect(ada.get_by_role("alert").filter(has_text="You are logged out.")).to_be_visible(
        timeout=90_000
    )
    expect(state(ada)).to_have_text("Logged out")
    forget_what_was_refused(complaints)


MAY_VIEW = """
from django.contrib.auth.decorators import permission_required

may_view = permission_required("chat.view_room", raise_exception=True)


"""

GIVE = """
from django.contrib.auth.models import Permission
permission = Permission.objects.get(codename="view_room")
User.objects.get(username="grace").user_permissions.add(permission)
"""

TAKE_AWAY = """
User.objects.get(username="grace").user_permissions.clear()
"""


def test_one_who_may_not_enter_any_more_is_told_so_and_not_of_a_logout(
    serve, workshop, enter, project, env
):
    views = workshop.path / "chat" / "views.py"
    text = views.read_text()
    assert text.count("@login_required\nasync") == 1
    text = text.replace("@login_required\nasync", "@may_view\nasync")
    edit(views, text.replace("class RoomsView", MAY_VIEW + "class RoomsView"))
    with running_redis() as redis:
        env |= {"REDIS_URL": redis.url}
        in_database(project, env, GIVE)
        grace = enter(serve(path=workshop.path, env=env), "grace")
        in_database(project, env, TAKE_AWAY)
        expect(state(grace)).to_have_text("No access")
        expect(grace.get_by_role("alert").filter(has_text="You may not enter")).to_be_visible()
        expect(grace.get_by_text("You are logged out.")).to_be_hidden()
        expect(grace.get_by_role("button", name="Log out")).to_be_visible()
        expect(box(grace)).to_be_hidden()


@pytest.mark.parametrize("leave", ["kill", "stop"])
def test_after_a_restart_nothing_is_missed_and_nothing_is_there_twice(
    server, enter, project, env, complaints, leave
):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    before = ["One", "Two", "Three"]
    for text in before:
        say(ada, text)
    for page in (ada, grace):
        expect(texts(page)).to_have_text(before)
    getattr(server, leave)()
    for page in (ada, grace):
        expect(state(page)).to_have_text("Reconnecting")
        expect(page.locator("#reason")).to_have_text(re.compile("^The server "))
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
    # More than WEBSOCKET_HISTORY keeps; and one is gone that the pages still have.
    in_database(
        project,
        env,
        f"""{SAY}
say(f"Missed {{number}}" for number in range(150))
Message.objects.filter(text="Two").delete()
""",
    )
    server.restart()
    hurry(ada, grace)
    for page in (ada, grace):
        expect(state(page)).to_have_text("Connected", timeout=90_000)
        expect(page.locator("#reason")).to_be_empty()
    say(ada, "Back again")
    after = ["One", "Three", *(f"Missed {number}" for number in range(150)), "Back again"]
    for page in (ada, grace):
        expect(texts(page)).to_have_text(after)
        expect(texts(page).last).to_be_in_viewport()
    forget_what_was_refused(complaints)


MEANWHILE = """
    def last_messages(self, load=last_messages):
        from websocket.groups import publish
        messages = load(self)
        publish(self.group, self.messages.get(text="Late").as_event())
        self.messages.get(text="Gone").delete()
        return [message for message in messages if message["text"] != "Late"]
"""


def test_what_happens_while_the_state_loads_is_shown(serve, workshop, project, env, enter):
    models = workshop.path / "chat" / "models.py"
    text = models.read_text()
    edit(models, text.replace("\n\nclass Message(", f"{MEANWHILE}\n\nclass Message("))
    in_database(project, env, f"{SAY}say(['Kept', 'Gone', 'Late'])")
    ada = enter(serve(path=workshop.path, env=env), "ada")
    expect(texts(ada)).to_have_text(["Kept", "Late"])


def test_the_state_moves_nothing_under_a_reader_and_keeps_what_is_typed(
    server, enter, project, env, complaints
):
    in_database(project, env, f"{SAY}say(range(210))")
    ada = enter(server, "ada")
    expect(texts(ada)).to_have_text([str(number) for number in range(10, 210)])
    read = texts(ada).filter(has_text="100")
    read.evaluate("(item) => item.scrollIntoView()")
    expect(texts(ada).last).not_to_be_in_viewport()
    place = read.bounding_box()
    assert ada.evaluate("scrollY") == 0
    box(ada).fill("A draft")
    server.kill()
    expect(state(ada)).to_have_text("Reconnecting")
    # Above and below what ada reads.
    in_database(
        project, env, f"{SAY}say(range(210, 230)); Message.objects.filter(text='50').delete()"
    )
    server.restart()
    hurry(ada)
    expect(state(ada)).to_have_text("Connected", timeout=90_000)
    after = [str(number) for number in range(29, 230) if number != 50]
    expect(texts(ada)).to_have_text(after)
    assert read.bounding_box()["y"] == pytest.approx(place["y"], abs=1)
    expect(box(ada)).to_have_value("A draft")
    forget_what_was_refused(complaints)


def test_with_redis_a_page_gets_only_what_it_missed(serve, enter, project, env, redis, complaints):
    env["REDIS_URL"] = redis
    server = serve(env=env)
    ada = enter(server, "ada")
    for text in ("One", "Two"):
        say(ada, text)
        expect(texts(ada).last).to_have_text(text)
    states = []
    ada.on("websocket", lambda socket: socket.on("framereceived", lambda data: states.append(data)))
    server.stop()
    expect(state(ada)).to_have_text("Reconnecting")
    in_database(
        project,
        env,
        f"""{SAY}say(["Missed"])
from websocket.groups import publish
publish(Room.objects.get().group, Message.objects.last().as_event())
Message.objects.filter(text="One").delete()
""",
    )
    server.restart()
    hurry(ada)
    expect(state(ada)).to_have_text("Connected", timeout=90_000)
    expect(texts(ada)).to_have_text(["Two", "Missed"])
    [first] = [text for text in states if '"state"' in text]
    assert json.loads(first)["messages"] is None
    forget_what_was_refused(complaints)


def test_a_message_that_the_server_took_down_with_it_is_sent_again_once(server, enter, complaints):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    os.kill(server.process.pid, signal.SIGSTOP)
    say(ada, "In flight")
    expect(box(ada)).to_have_value("")
    server.kill()
    server.restart()
    hurry(ada, grace)
    for page in (ada, grace):
        expect(texts(page)).to_have_text(["In flight"], timeout=90_000)
    say(ada, "And another")
    for page in (ada, grace):
        expect(texts(page)).to_have_text(["In flight", "And another"])
    forget_what_was_refused(complaints)


def test_a_message_deleted_in_the_admin_disappears_from_every_open_page(server, enter):
    ada, grace = enter(server, "ada"), enter(server, "grace")
    say(grace, "Hello")
    say(grace, "Something rude")
    expect(texts(ada)).to_have_text(["Hello", "Something rude"])
    admin = ada.context.new_page()
    admin.goto(f"{server.url}/admin/chat/message/?q=rude")
    admin.locator("#action-toggle").check()
    admin.get_by_label("Action:").select_option("delete_selected")
    admin.get_by_role("button", name="Go").click()
    admin.get_by_role("button", name="Yes").click()
    for page in (ada, grace):
        expect(texts(page)).to_have_text(["Hello"])


@pytest.fixture
def redis() -> Iterator[str]:
    """The URL of a Redis of its own."""
    with running_redis() as redis:
        yield redis.url


def test_commands_reach_every_open_page(serve, enter, project, env, redis):
    env["REDIS_URL"] = redis
    server = serve(env=env)
    ada, grace = enter(server, "ada"), enter(server, "grace")
    text = "Deploying in <five> minutes"
    project.run("manage.py", "announce", "lobby", text, env={**project.env, **env})
    for page in (ada, grace):
        expect(log(page).locator(".announcement")).to_have_text(text)
        assert page.evaluate(FAINT_TEXTS) == []
    event = json.dumps({"type": "announcement", "text": "Now"})
    project.run("manage.py", "publish", "chat.room.1", event, env={**project.env, **env})
    for page in (ada, grace):
        expect(log(page).locator(".announcement")).to_have_text([text, "Now"])


def test_the_chat_works_under_a_strict_content_security_policy(
    serve, workshop, env, enter, complaints
):
    (workshop.path / "project/strict.py").write_text(STRICT_MIDDLEWARE)
    with open(workshop.path / "project/settings.py", "a") as file:
        file.write('MIDDLEWARE += ["project.strict.strict"]\n')
    page = enter(serve(path=workshop.path, env=env), "ada")
    say(page, "Hello")
    expect(texts(page)).to_have_text(["Hello"])
    assert complaints == []


@pytest.mark.parametrize("look", ["a phone, dark", "a desktop, light"])
def test_the_chats_pages_fit_and_can_be_read_on(look, server, enter, open_page):
    room = enter(server, "ada", **LOOKS[look])
    other = enter(server, "grace", **LOOKS[look])
    say(other, "https://example.com/" + "x" * 200)
    say(room, "Shorter")
    expect(texts(room)).to_have_count(2)
    box(other).press_sequentially("More")
    expect(room.locator("#typing")).not_to_be_empty()
    say(room, "")
    expect(room.locator("#error")).not_to_be_empty()
    rooms = enter(server, "ada", "/chat/", **LOOKS[look])
    login = open_page(f"{server.url}/chat/login/", **LOOKS[look])
    login.get_by_label("Username").fill("ada")
    login.get_by_label("Password").fill("wrong")
    login.get_by_role("button", name="Log in").click()
    expect(login.get_by_role("alert")).to_contain_text("Please enter a correct username")
    for page in (room, rooms, login):
        scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(scrolls)
        assert page.evaluate(FAINT_TEXTS) == []
        assert page.evaluate(SMALL_TARGETS) == []
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 18)"
        assert dark == ("dark" in look)
    # The page itself does not scroll: what one types and what was said last stay in sight.
    expect(box(room)).to_be_in_viewport(ratio=1)
    expect(texts(room).last).to_be_in_viewport(ratio=1)
    assert room.evaluate("document.documentElement.scrollHeight <= innerHeight")
