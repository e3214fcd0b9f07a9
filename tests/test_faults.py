"""The project's own tests of faults, which its workflow runs with all others: each can fail."""

import pytest
from conftest import Project
from services import need

# Nobody is in a group, and so told or closed; no Origin is refused, and no message comes back.
CARELESS = """

from websocket.views import origin_exempt


@origin_exempt
async def echo(socket):
    await socket.accept()
    async for _ in socket:
        await socket.send_text("What?")


async def wall(socket):
    await socket.accept()
    await socket.send_json({"here": []})
    async for _ in socket:
        pass
"""
FAULTS = "project/tests/test_faults.py"


@pytest.mark.slow
def test_each_of_the_projects_faults_fails_where_the_site_is_careless(workshop: Project) -> None:
    need("redis-server")
    with (workshop.path / "users" / "views.py").open("a") as views:
        views.write(CARELESS)
    # They wait for what never comes.
    server = workshop.path / "websocket" / "tests" / "uvicorn_server.py"
    server.write_text(server.read_text().replace("asyncio.timeout(20)", "asyncio.timeout(2)"))
    result = workshop.run("-m", "pytest", FAULTS, check=False)
    assert "5 failed" in result.stdout
