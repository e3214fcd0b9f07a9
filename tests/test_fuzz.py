"""Sockets under arbitrary servers, clients and views."""

from conftest import Project
from sites import TESTS


def test_no_order_of_events_and_no_view_leaves_anything_behind(project: Project) -> None:
    environment = {**project.env, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(TESTS)}
    project.run("-m", "testsite.fuzz", "0", "0", "2000", env=environment)
