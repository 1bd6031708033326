"""`.env.example` names every variable that the code reads, and no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

from feature_repo.database import VARIABLES
from feature_repo.paths import PROJECT_ROOT
from serving.settings import PREFIX, Settings

PACKAGES = ("feature_repo", "forecast_assets", "serving", "trainer")
# What torchrun sets for the processes that it starts.
TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"}


def example() -> dict[str, str]:
    """The variables of the file with the values shown; all of them are commented out."""
    lines = (PROJECT_ROOT / ".env.example").read_text().splitlines()
    pairs = [line.removeprefix("# ").split("=", 1) for line in lines if line.removeprefix("# ").split("=")[0].isupper()]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def read_by(source: Path) -> Iterator[str]:
    """The names in ``os.environ.get(NAME, …)`` and ``os.environ[NAME]``, constants of the module put in."""
    tree = ast.parse(source.read_text())
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=environ, attr="get"), args=[name, *_]):
                pass
            case ast.Subscript(value=environ, slice=name, ctx=ast.Load()):
                pass
            case _:
                continue
        if ast.unparse(environ) == "os.environ":
            value = constants.get(name.id) if isinstance(name, ast.Name) else name
            assert isinstance(value, ast.Constant), f"{source}: {ast.unparse(node)} reads a variable of unknown name"
            yield str(value.value)


def test_the_example_names_every_variable_that_is_read_and_no_other() -> None:
    sources = [source for package in PACKAGES for source in (PROJECT_ROOT / package).rglob("*.py")]
    read = {name for source in sources for name in read_by(source)} - TORCHRUN
    store = yaml.safe_load((PROJECT_ROOT / "feature_repo" / "feature_store.yaml").read_text())
    read |= {part.split("}")[0] for part in str(store).split("${")[1:]}
    read |= {*VARIABLES, *(f"{PREFIX}{name.upper()}" for name in Settings.__dataclass_fields__)}

    assert len(read) > 40
    assert example().keys() == read


def test_the_service_s_settings_are_shown_with_their_defaults() -> None:
    shown = {name: value for name, value in example().items() if name.startswith(PREFIX)}

    assert Settings.from_environment(shown) == Settings()
