"""Where a search stands follows from its events alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.run import progress
from autotune.run.progress import Standing, catch_up, long_log_end, read_events
from autotune.study.run_folder import EventLog, RunFolder
from autotune.utils.events import Event
from autotune.utils.json_text import to_json_text


def after(*events: tuple[str, dict[str, Any]], begin: dict[str, Any] | None = None) -> Standing:
    """The standing after these events, one a second."""
    begun = {"trials": 4, "left_out": ["head", "proxies", "supernet"], **(begin or {})}
    standing = Standing()
    for at, (kind, fields) in enumerate([("begin", begun), *events]):
        standing.see(Event(kind, f"{kind} {at}", float(at + 1), fields))
    return standing


def end(number: int, value: float | None, state: str = "complete") -> tuple[str, dict[str, Any]]:
    plan = f"stem=lowrank-{number}"
    return "end", {"number": number, "value": value, "state": state, "cost": 10, "plan": plan}


TRIALS = ("stage", {"stage": "trials"})


def test_the_best_is_that_of_the_largest_value():
    standing = after(TRIALS, end(0, 0.5), end(1, 0.7), end(2, 0.6), end(3, None, "failed"))
    assert standing.best["number"] == 1
    assert standing.states == {"complete": 3, "failed": 1}


def test_a_trial_runs_from_its_start_to_its_end():
    epoch = ("progress-of-trial", {"number": 1, "step": 2, "steps": 4, "value": 0.5})
    started = [TRIALS, ("start", {"number": 1}), epoch]
    assert after(*started).running == {1: (2, 4, 0.5)}
    assert after(*started, end(1, 0.6)).running == {}


def test_work_grows_to_the_whole_and_never_falls():
    epoch = ("progress-of-trial", {"number": 3, "step": 1, "steps": 2, "value": 0.5})
    events = [
        *(("stage", {"stage": "preparation"}), ("stage", {"stage": "references"})),
        *(("reference", {"name": "uniform", "value": 0.5}), TRIALS, end(0, 0.5), end(1, 0.5)),
        *(end(2, 0.5), epoch, end(3, 0.5), ("stage", {"stage": "finalists"})),
        *(("repeat-of-finalist", {}), ("stage", {"stage": "test"}), ("answer", {})),
    ]
    done = [after(*events[:n]).work()[0] for n in range(len(events) + 1)]
    assert done == sorted(done) and done[0] == 0
    assert after(*events).work()[1] == pytest.approx(0)
    assert after(*events).has_ended


def test_time_left_follows_from_what_this_session_did():
    standing = after(("stage", {"stage": "references"}), TRIALS, end(0, 0.5), end(1, 0.5))
    done, left = standing.work()
    assert standing.left(101.0) == pytest.approx(100 / done * left)
    again = after(TRIALS, end(0, 0.5), ("begin", {"trials": 4, "left_out": ["supernet"]}))
    assert again.left(again.since + 100.0) is None


def test_without_a_number_of_trials_no_share_is_shown():
    assert after(TRIALS, end(0, 0.5), begin={"trials": None}).work() is None


def test_of_two_linear_probes_the_better_one_is_shown():
    probes = [
        ("reference", {"name": f"probe with{o} x", "value": v}) for o, v in (("", 2), ("out", 1))
    ]
    assert after(*probes).baselines == {"probe": 2}


@pytest.mark.parametrize("kind", ["admitted", "proxies", "rival", "cluster", "worker", "warning"])
def test_what_no_bar_shows_is_among_the_latest_events(kind):
    standing = after(TRIALS, (kind, {"number": 0}), ("progress-of-trial", {}), end(0, 0.5))
    assert [event.kind for event in standing.latest] == [kind, "end"]


def test_what_a_backend_reports_before_a_search_begins_stays_in_view():
    """Ray describes its cluster before `begin`, also for the second of several budgets."""
    standing = Standing()
    for run in ("first", "second"):
        for kind in ("cluster", "begin", "answer"):
            standing.see(Event(kind, run, 1.0, {"run": run, "trials": 1}))
    assert [(event.kind, event.text) for event in standing.latest] == [
        ("cluster", "first"),
        ("cluster", "second"),
    ]


def test_a_log_is_read_on_from_where_it_was_left_and_no_half_line_is(tmp_path: Path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"kind": "a", "text": "A", "time": 1}\n{"kind": "b", "text": "B"')
    ((first, at),) = read_events(file)
    with file.open("a") as stream:
        stream.write(', "time": 2}\n')
    ((second, _),) = read_events(file, at)
    assert (first.kind, second.kind) == ("a", "b")
    assert list(read_events(tmp_path / "none")) == []


def test_the_run_folders_log_is_what_can_be_read(tmp_path: Path):
    from autotune.utils.events import log, tell

    handler, level = EventLog(RunFolder(tmp_path)), log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    try:
        tell("stage", "Trials", stage="trials")
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
    ((event, _),) = read_events(RunFolder(tmp_path).log)
    assert (event.kind, event.text, event.fields) == ("stage", "Trials", {"stage": "trials"})


@pytest.fixture
def long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log as it is written, of a search that was resumed once; only its end is read in full."""
    monkeypatch.setattr(progress, "LONG_LOG", 5000)
    monkeypatch.setattr(progress, "LOG_END", 1000)
    events = [("begin", {"run": "a", "trials": 99}), ("reference", {"name": "uniform", "value": 1})]
    for number in range(60):
        steps = {"number": number, "step": 1, "steps": 2, "value": 0.5}
        _, fields = end(number, None if number % 7 == 0 else 0.5 + (number * 13 % 60) / 100)
        state = {**fields, "state": "failed" if number % 7 == 0 else "complete"}
        order = ("number", "state", "value", "cost", "plan")  # that of the driver
        events += [("start", {"number": number}), ("progress-of-trial", steps)]
        events += [("end", {name: state[name] for name in order})]
        events += [("begin", {"run": "a", "trials": 99})] if number == 30 else []
    lines = [to_json_text(Event(k, k, 1.0, f).to_json(), indent=None) + "\n" for k, f in events]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    return tmp_path / "log.jsonl"


def test_a_long_log_leads_to_the_same_standing(long_log):
    whole, quick = Standing(), Standing()
    for standing, events in ((whole, read_events(long_log)), (quick, catch_up(long_log))):
        ends = []
        for event, end_of_line in events:
            standing.see(event)
            ends.append(end_of_line)
        assert ends == sorted(ends) and ends[-1] == long_log.stat().st_size
    names = ("states", "best", "baselines", "running", "total", "stage")
    for name in names:
        assert getattr(quick, name) == getattr(whole, name)
    assert len(list(catch_up(long_log))) < 20


def test_a_line_without_end_is_left_out_and_not_held(long_log, monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_LINE", 2000)
    content = long_log.read_bytes()
    long_log.write_bytes(b"x" * 10_000 + b"\n" + content)
    assert len(list(read_events(long_log))) == content.count(b"\n")
    long_log.write_bytes(content + b"x" * 10_000)
    assert [event.kind for event, _ in read_events(long_log, long_log_end(long_log))] == []
