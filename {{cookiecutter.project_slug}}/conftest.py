"""What pytest changes for the tests of all apps."""

import os

from django.conf import settings

# The tests' groups in Redis are neither the site's nor those of another worker of pytest-xdist:
# databases are kept apart in the same way.
settings.WEBSOCKET_REDIS_PREFIX += f"test{os.environ.get('PYTEST_XDIST_WORKER', '')}:"
