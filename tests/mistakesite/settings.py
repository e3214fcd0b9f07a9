"""The rendered project's settings, with the mistakes' URLs."""

from project.settings import *  # noqa: F403

ROOT_URLCONF = "mistakesite.urls"
