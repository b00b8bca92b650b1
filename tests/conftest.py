"""Fixtures that several parts of the tests use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distill_dagster.project import Distillation, Project
from distill_dagster.spec.loading import load_spec
from tests.fakes.anthropic_server import KEY, AnthropicServer, anthropic_server
from tests.tiny import make_tiny_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests may take longest come first, so that processes that share the tests end together."""
    limits: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0.0), limit.args[0] if limit else 0.0)
    items.sort(key=lambda item: -limits[item.path])


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees this machine's projects, keys or Dagster instance."""
    for name in (
        "DISTILL_PROJECT",
        "DISTILL_HOME",
        "DISTILL_STORE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnthropicServer]:
    """A local Anthropic API with its key in the environment."""
    with anthropic_server() as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., Distillation]:
    """Writes `assets/<name>/` with a defs.yaml and other files, and loads the distillation."""

    def make(attributes: str, name: str = "demo", **files: str) -> Distillation:
        root = tmp_path / "project"
        folder = root / "assets" / name
        folder.mkdir(parents=True, exist_ok=True)
        indented = "".join(f"  {line}\n" for line in attributes.strip("\n").splitlines())
        (folder / "defs.yaml").write_text(
            f"type: distill_dagster.Distillation\nattributes:\n{indented}", encoding="utf-8"
        )
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_text(content, encoding="utf-8")
        project = Project(root=root, home=root / ".distill")
        return Distillation(project=project, name=name, folder=folder, spec=load_spec(folder / "defs.yaml"))

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer language model of a few thousand parameters, with a chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
