"""Sessions in a database that takes its time to end one."""

import time

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    def delete(self, session_key=None):
        time.sleep(0.5)
        super().delete(session_key)
