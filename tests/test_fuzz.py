"""Sockets under arbitrary servers, clients and views."""

import pytest
from conftest import Project
from sites import TESTS


# With the slow ones, which CI runs as well, it takes a minute.
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 2000), pytest.param(2000, 6000, marks=pytest.mark.slow)]
)
def test_no_order_of_events_and_no_view_leaves_anything_behind(
    project: Project, start: int, stop: int
) -> None:
    environment = {**project.env, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(TESTS)}
    project.run("-m", "testsite.fuzz", "0", str(start), str(stop), env=environment)
