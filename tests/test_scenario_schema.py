"""The JSON Schema of scenarios, and the table of keys in the docs, come from the definition."""

from __future__ import annotations

import inspect
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

import pyalloc as pa
from pyalloc.workload.scenario import text_of
from pyalloc.workload.scenario.schema import json_schema, markdown

jsonschema = pytest.importorskip("jsonschema")

DOCS = Path(__file__).parents[1] / "docs" / "scenarios.md"
BEGIN = "<!-- keys: begin; made by tests/test_scenario_schema.py with PYALLOC_WRITE_DOCS=1 -->\n"
END = "<!-- keys: end -->\n"


@pytest.fixture(scope="module")
def validator() -> Any:
    kind = jsonschema.Draft202012Validator
    kind.check_schema(json_schema())
    return kind(json_schema())


@pytest.mark.parametrize("name", pa.scenarios())
def test_the_scenarios_that_come_with_the_package_fit_the_schema(name: str, validator: Any) -> None:
    """What runs is valid for an editor, too."""
    validator.validate(tomllib.loads(text_of(name)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"machine": {"rma": "1G"}},
        {"machine": {"ram": "1Q"}},
        {"machine": {"kernel": "2.6.12"}},
        {"duration": "3 parsecs"},
        {"process": [{"name": "a", "program": "lek"}]},
        {"process": [{"name": "a", "program": {"name": "leak", "sizze": 1}}]},
        {"process": [{"name": "a", "program": {"name": "leak", "size": "1 parsec"}}]},
        {"process": [{"name": "a b", "program": "leak"}]},
        {"cgroup": {"name": "web"}},
        {"cgroup": [{"name": "web", "memory_max": "lots"}]},
        {"change": [{"at": 1, "signal": "SIGHUP"}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_a_run_refuses(wrong: dict[str, Any], validator: Any) -> None:
    """An editor marks what would not run."""
    data = {"process": [{"name": "a", "program": "leak"}], **wrong}
    assert not validator.is_valid(data)
    with pytest.raises(pa.ScenarioError):
        pa.Scenario.from_dict(data)


@pytest.mark.parametrize(
    "right",
    [
        {"duration": 90},
        {"duration": "1h30min"},
        {"machine": {"ram": 1 << 30}},
        {"cgroup": [{"name": "web", "memory_max": "max"}]},
        {"process": [{"name": "a", "program": {"name": "larson", "threads": 2, "tick": "1s"}}]},
        {"process": [{"name": "a", "program": "lifo:count=100,live=10"}]},
        {"process": [{"name": "a", "program": "idle", "stop": "5s"}]},
    ],
    ids=str,
)
def test_the_schema_takes_what_a_run_takes(right: dict[str, Any], validator: Any) -> None:
    """An editor does not mark what runs."""
    data = {"process": [{"name": "a", "program": "leak"}], **right}
    assert validator.is_valid(data)
    pa.Scenario.from_dict(data)


def test_every_parameter_of_a_machine_is_a_key() -> None:
    """What :class:`pyalloc.Machine` takes, a scenario can say."""
    takes = set(inspect.signature(pa.Machine).parameters) - {"seed", "policy"}
    assert takes | {"oom_policy"} == set(pa.MachineSpec.__struct_fields__)


def test_the_table_of_keys_in_the_docs_is_the_definition_s() -> None:
    """docs/scenarios.md lists every key, program and parameter with its default."""
    if not DOCS.exists():
        pytest.skip("the docs are not here")
    before, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{markdown()}\n{END}{after}"
    if os.environ.get("PYALLOC_WRITE_DOCS"):
        DOCS.write_text(wanted)
    assert DOCS.read_text() == wanted


def test_every_parameter_of_a_program_is_explained() -> None:
    """Those that share a line of the docstring, too."""
    text = DOCS.read_text(encoding="utf-8").partition("### Programs")[2].partition(END)[0]
    assert [line for line in text.splitlines() if line.endswith("|  |")] == []
