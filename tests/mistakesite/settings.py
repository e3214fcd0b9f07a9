"""The rendered project's settings, with the mistakes' URLs, or those of a test."""

import os

from project.settings import *  # noqa: F403

ROOT_URLCONF = os.environ.get("MISTAKE", "mistakesite.urls")
