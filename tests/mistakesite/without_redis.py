"""The rendered project's settings, where the package redis is not installed."""

import sys

from project.settings import *  # noqa: F403

sys.modules["redis"] = None
