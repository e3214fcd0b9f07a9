"""Drive sockets with arbitrary servers, clients and views, and look at what is left behind.

A case is one to three sockets, each with a server, a client, a middleware and a view of its own
that do as planned, and what happens beside them: messages to their groups, logouts, cancels. Run
in a rendered project's folder:

    python -m testsite.fuzz SEED START STOP     the cases with these numbers

The same seed and number make the same case. It reads from the outside in: `__main__.py` runs cases
and cuts down one that fails, `plans.py` makes them, `case.py` runs and checks one, `server.py` and
`views.py` do as planned.
"""

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    AUTH_USER_MODEL="users.User",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "users", "websocket"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "testsite.fuzz.case.middleware"],
    ROOT_URLCONF="testsite.fuzz.case",
    SECRET_KEY="k" * 50,
    WEBSOCKET_MAX_MESSAGE_SIZE=1000,
    WEBSOCKET_OUTBOX_SIZE=500,
)
django.setup()
