"""Random plans for a case: what its servers, clients, middleware and views do, and when.

A plan can be printed, and cut down: each item of a list, but not of a tuple, can be left out.
"""

from testsite.fuzz.errors import ERRORS, RESPONSES

PAUSES = [0, 0, 0.5, 3.0]
GROUPS = ["group", "group", "group", "other", "bad name"]

CONNECT = {"type": "websocket.connect"}
ODDITIES = [
    CONNECT,
    {"type": "websocket.receive"},
    {"type": "websocket.receive", "text": None, "bytes": None},
    {"type": "http.request"},
]
DISCONNECTS = [
    {"type": "websocket.disconnect", "code": 1001},
    {"type": "websocket.disconnect", "code": 1012},
    {"type": "websocket.disconnect", "code": 4001, "reason": "enough"},
    {"type": "websocket.disconnect", "code": None, "reason": None},
    {"type": "websocket.disconnect"},
]

OUTCOMES = [*["done"] * 6, *["slow"] * 3, "stuck", "gone", "closed", "broken"]

# Methods of the views in views.py, or else of the socket; how often; and values of each argument.
RECEIVES = ["receive", "receive_text", "receive_bytes", "receive_json"]
CODES = [1000, 1001, 1008, 3000, 4999, 0, 1005, 65536]
REASONS = ["", "why", "x" * 124]
ACTIONS = {
    "accept": (2, [None, None, [["x-a", "b"]], [["x", "a\nb"]]]),
    "await_cancelled": (1,),
    "cancel_tasks": (1,),
    "close": (2, CODES, REASONS),
    "close_soon": (2, [None, 0, 1]),
    "fail": (2, list(ERRORS)),
    "fail_in_group": (1, list(ERRORS)),
    "join": (6, GROUPS, [None, None, None, 0, 1]),
    "leave": (2, GROUPS),
    "look_at_user": (2,),
    "publish": (4, GROUPS),
    "publish_to_others": (4, GROUPS, [False, True]),
    "read_all": (4,),
    "receive": (10, RECEIVES, [None, None, 0.1, 2]),
    "reject": (1, CODES, REASONS),
    "respond": (1, list(RESPONSES)),
    "return": (1,),
    "send": (1, [{"type": f"websocket.{kind}"} for kind in ("close", "send", "x")]),
    "send_json": (2, [1, {}, object]),
    "send_message": (4, ["text", b"bytes", "\ud800"]),
    "sleep": (6, [0, 0.5, 3, 3, 60]),
    "subscribe": (1, GROUPS, PAUSES),
    "subscribe_in_block": (2, GROUPS, PAUSES),
}
NESTING = ["start", "start_and_finally", "in_finally", "in_task_group", "in_handled_task_group"]


def make_case(random):
    """Return what a case does, as the arguments of `Case`."""
    return {
        "sockets": [make_socket(random) for _ in range(random.choice([1, 1, 2, 3]))],
        # What happens beside the sockets, each after a pause.
        "happenings": some(random, lambda: make_happening(random), 12),
        # How long each hop to a thread takes, before it runs and after.
        "hops": some(random, lambda: (random.choice(PAUSES), random.choice(PAUSES)), 4),
        "slow_client": random.choice(["close", "drop"]),
    }


def some(random, make, most):
    """Return nothing, or some of what is made."""
    return [make() for _ in range(random.choice([0, random.randrange(1, most + 1)]))]


def make_happening(random):
    name = random.choice(["publish", "apublish", "apublish", "apublish", "cancel", "log out"])
    arguments = {"cancel": [random.randrange(3)], "log out": []}
    return random.choice(PAUSES), name, *arguments.get(name, [random.choice(GROUPS)])


def make_socket(random):
    is_legal = random.random() < 0.8
    return {
        "server": {
            "events": make_legal_order(random) if is_legal else make_illegal_order(random),
            "extensions": random.choice([{"websocket.http.response": {}}] * 4 + [None]),
            # What becomes of each of the application's sends, in turn; then all are done at once.
            "sends": some(random, lambda: random.choice(OUTCOMES), 8),
            "transport": random.random() < 0.5,
        },
        "middleware": rarely(
            random, "respond", "fail before", "fail after", "set header", "set header"
        ),
        "decorator": rarely(random, "respond", "fail", "look at user", "look at user", "none"),
        "plan": make_plan(random),
    }


def rarely(random, *names):
    """Return one of the names with a response or an error for it, or mostly nothing."""
    name = random.choice([*names, *["nothing"] * 4 * len(names)])
    return name, random.choice(list(RESPONSES if name == "respond" else ERRORS))


# What a client does


def make_legal_order(random):
    messages = [make_message(random, number) for number in range(random.randrange(7))]
    ends = [random.choice(DISCONNECTS) for _ in range(random.choice([0, 0, 1, 2]))]
    pauses = [0, *(random.choice(PAUSES) for _ in [*messages, *ends])]
    return list(zip(pauses, [CONNECT, *messages, *ends], strict=True))


def make_illegal_order(random):
    def make(number):
        kinds = [make_message(random, number), random.choice(DISCONNECTS), random.choice(ODDITIES)]
        return random.choice(PAUSES), random.choice(kinds)

    return [make(number) for number in range(random.randrange(8))]


def make_message(random, number):
    text = random.choice([str(number)] * 8 + ['{"a": 1}', "[" * 900, "x" * 1001, "\ud800"])
    kinds = [{"text": text}, {"text": text, "bytes": None}, {"bytes": str(number).encode()}]
    return {"type": "websocket.receive", **random.choice(kinds)}


# What a view does


def make_plan(random):
    accept, join = (False, "accept", None), (False, "join", "group", None)
    # Long enough for the look at all sockets to find that the view does not receive.
    sleep = (True, "sleep", 3)
    beginning = random.choice(
        [[], [accept], [accept, sleep], [accept, join], [accept, join, (True, "sleep", 60)]]
    )
    # Few kinds of actions at a time: then these meet each other more often.
    weights = [weight for weight, *_ in ACTIONS.values()]
    names = random.choices(list(ACTIONS), weights, k=random.randrange(2, 7))
    return beginning + make_actions(random, names, depth=2)


def make_actions(random, names, depth):
    actions = []
    for _ in range(random.randrange(1, 7)):
        # Whether the view goes on where an action raises, as mostly it does; and the action.
        goes_on = random.random() < 0.8
        if depth and random.random() < 0.15:
            plan = make_actions(random, names, depth - 1)
            actions.append((goes_on, random.choice(NESTING), plan))
        else:
            name = random.choice(names)
            _, *arguments = ACTIONS[name]
            actions.append((goes_on, name, *map(random.choice, arguments)))
    return actions
