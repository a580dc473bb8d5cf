"""Loading scenarios: from a file, or by the name of one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from pyalloc.errors import ScenarioError
from pyalloc.nearest import nearest
from pyalloc.workload.scenario.files import parse, shipped
from pyalloc.workload.scenario.origin import Origin
from pyalloc.workload.scenario.scenario import Scenario


def load_scenario(source: str | Path) -> Scenario:
    """Return the scenario of a TOML file, or of a name in :func:`scenarios`.

    Raises
    ------
    ScenarioError
        There is no such file or name, or it cannot be run; the text says where it is wrong.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> load_scenario("leak-beside-a-database").title
    'A leak beside a database'
    """
    text, name, folder = _text_of(source)
    origin = Origin(name, text)
    return Scenario.from_dict(parse(text, origin), folder=folder, origin=origin)


def _text_of(source: str | Path) -> tuple[str, str, Path]:
    known = shipped()
    if isinstance(source, str) and source in known and not Path(source).exists():
        return known[source].read_text(encoding="utf-8"), f"{source}.toml", Path()
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), str(source), path.parent
    except FileNotFoundError:
        message = f"there is no file and no scenario {str(source)!r}{nearest(str(source), known)}"
        raise ScenarioError(message) from None
    except UnicodeDecodeError as error:
        message = f"{source}: not a text in UTF-8: {error}"
        raise ScenarioError(message) from None


def text_of(source: str | Path) -> str:
    """Return the text of a scenario file, or of a scenario that comes with the package.

    Raises
    ------
    ScenarioError
        There is none.
    """
    return _text_of(source)[0]


def scenarios() -> dict[str, str]:
    """Return the scenarios that come with the package: their titles by name."""
    return {
        name: str(parse(item.read_text(encoding="utf-8"), Origin(item.name)).get("title", ""))
        for name, item in shipped().items()
    }
