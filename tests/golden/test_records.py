"""Bodies that older versions of safeguard wrote are read by this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from safeguard.audit.event_words import EVENTS
from safeguard.audit.records.registry import SCHEMAS, UPGRADES, DecisionRecord, RunOpen, parse_body, plain_body
from safeguard.core.enums import RecordKind

FILES = sorted((Path(__file__).parent / "records").glob("*.json"))


def written(file: Path) -> dict[str, Any]:
    """The record in a golden file."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def named(record: dict[str, Any]) -> dict[str, Any]:
    """The record's body with all its names and what its head says, in its own version."""
    return plain_body(RecordKind(record["kind"]), record["v"], record["body"], record["tick"], record["t"])


def read(record: dict[str, Any]) -> Any:
    """The record's body as this version sees it."""
    return parse_body(RecordKind(record["kind"]), record["v"], named(record))


def test_there_is_a_file_for_every_old_version() -> None:
    """Whoever raises a version leaves a body of the old one behind; that of an event is there from the first on."""
    files = {(RecordKind(kind), int(v)) for kind, v in (file.stem.split(".") for file in FILES)}
    events = RecordKind.SOFTWARE_CHANGE, RecordKind.CONFIG_INTERVENTION, *EVENTS
    assert files == {*UPGRADES, *((kind, 1) for kind in events)}
    assert set(UPGRADES) == {(kind, v) for kind, model in SCHEMAS.items() for v in range(1, model.version)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_body_is_read_into_the_current_schema(file: Path) -> None:
    """The body is of the current class, and what both versions know is as it was written."""
    record = written(file)
    body = read(record)
    assert type(body) is SCHEMAS[RecordKind(record["kind"])]
    now, then = body.model_dump(mode="json"), named(record)
    assert set(now) >= set(then)
    for key in then:
        if key != "decision":
            assert now[key] == _with_defaults(then[key], now[key])


def _with_defaults(then: Any, now: Any) -> object:
    """``then`` with the fields that came since, as they are by default."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return cast("object", then)
    old, new = cast("dict[str, Any]", then), cast("dict[str, Any]", now)
    return {**new, **{key: _with_defaults(value, new.get(key)) for key, value in old.items()}}


def test_version_3_says_what_version_2_says() -> None:
    """Both files hold one tick: what version 3 leaves out is found again."""
    second, third = (written(Path(__file__).parent / "records" / f"decision.{version}.json") for version in (2, 3))
    assert read(third) == read(second)
    left_out = third["body"]
    assert (left_out["decision"]["command"]["tau"], left_out["proposal"]["t_obs"]) == (None, -20_000_000)


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_decision_keeps_its_outcome(version: int) -> None:
    """Mode, causes, torque and command are those that were written; version 1 names the filter's source."""
    record = written(Path(__file__).parent / "records" / f"decision.{version}.json")
    body, then = read(record), record["body"]["decision"]
    assert isinstance(body, DecisionRecord)
    assert (int(body.decision.mode), [c.value for c in body.decision.causes]) == (then["mode"], then["causes"])
    assert body.decision.filter.torque == then["filter"]["torque"]
    assert body.decision.command.model_dump(mode="json") == then["command"]
    assert body.decision.source == then.get("source", then["filter"]["source"])
    assert ("source" in then) == (version > 1)


def test_an_old_run_open_names_no_key() -> None:
    """Version 1 was never signed, and the current schema says so."""
    body = read(written(Path(__file__).parent / "records" / "run_open.1.json"))
    assert isinstance(body, RunOpen)
    assert (body.key, body.key_purpose, body.previous) == ("", "", None)


def test_an_old_body_is_no_current_one() -> None:
    """Without its upgrader version 1 of a decision is refused, so the upgrader is what reads it."""
    record = written(Path(__file__).parent / "records" / "decision.1.json")
    with pytest.raises(ValidationError, match="source"):
        SCHEMAS[RecordKind.DECISION].model_validate_json(json.dumps(record["body"]))


@pytest.mark.parametrize("version", [0, 5])
def test_an_unknown_version_is_refused(version: int) -> None:
    """What is newer, or never was, is an error that says which versions are read."""
    record = written(Path(__file__).parent / "records" / "decision.3.json")
    with pytest.raises(ValueError, match="reads 1 to 4"):
        parse_body(RecordKind.DECISION, version, record["body"])
