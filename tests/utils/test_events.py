"""Whoever listens gets every event as a value; one that raises is left out, and that is said."""

from __future__ import annotations

import json

import pytest

from autotune.utils.events import Event, listening, log, tell, warn


def test_a_callback_gets_events_with_their_fields():
    seen: list[Event] = []
    with listening([seen.append]):
        tell("end", "trial 3: complete", number=3, value=0.5)
        warn("nothing was kept")
    tell("end", "nobody listens any more")
    assert [(e.kind, e.text) for e in seen] == [
        ("end", "trial 3: complete"),
        ("warning", "nothing was kept"),
    ]
    assert seen[0].fields == {"number": 3, "value": 0.5}


def test_a_callback_that_raises_is_warned_of_and_left_out_while_others_continue():
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("no room")

    with listening([broken, seen.append]):
        tell("start", "one")
        tell("start", "two")
    assert [e.text for e in seen if e.kind == "start"] == ["one", "two"]
    (warning,) = [e.text for e in seen if e.kind == "warning"]
    assert "broken raised ValueError: no room" in warning


def test_listening_leaves_the_log_as_it_was():
    before = log.level, list(log.handlers)
    with pytest.raises(KeyError), listening([print]):
        raise KeyError
    assert (log.level, list(log.handlers)) == before


def test_an_event_survives_its_line():
    event = Event("end", "trial 1", 12.5, {"number": 1, "plan": "stem=scale"})
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event
