"""A project with a history: read as it is, or copied to be changed."""

from pathlib import Path

import pytest

from tests.catalog.world import History, make_history
from tests.fakes.anthropic_faults import Reply
from tests.fakes.anthropic_server import KEY, anthropic_server


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Made once; tests only read it."""
    with anthropic_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", KEY)
        patch.setenv("ANTHROPIC_BASE_URL", server.url)
        for name in ("DISTILL_HOME", "DISTILL_STORE_URL"):
            patch.delenv(name, raising=False)
        server.script = lambda asked, _: Reply(text=f"{asked['model']} on {asked['messages'][-1]['content']}")
        made = make_history(tmp_path_factory.mktemp("history"))
    return made


@pytest.fixture
def changing(history: History, tmp_path: Path) -> History:
    """A copy of one's own."""
    return history.copied_to(tmp_path / "project")
