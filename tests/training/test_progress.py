"""What a user sees while training."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rltool.training import progress
from rltool.training.progress import LiveProgress, PlainProgress, Progress, clock, make_progress, sparkline

ROW = {
    "time/total_timesteps": 5_000,
    "time/time_elapsed": 65.0,
    "time/fps": 1_234.5,
    "rollout/ep_rew_mean": 21.25,
    "rollout/ep_len_mean": 22.0,
}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3_599, "59:59"), (3_600, "1:00:00"), (90_061, "25:01:01")],
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def test_sparkline():
    assert sparkline(range(8), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3, 3], 8) == "▁▁▁"
    assert sparkline([0, 0, 0, 0, 8, 8, 8, 8], 2) == "▁█"  # Averaged into columns.
    assert len(sparkline(range(1_000), 40)) <= 40
    assert sparkline([-5, 5], 40) == "▁█"


def test_plain_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = PlainProgress()
    shown.start("a2c on CartPole-v1", 10_000)
    shown.update(ROW)
    shown.update({**ROW, "time/total_timesteps": 6_000})  # Too soon for another line.
    shown.update({**ROW, "time/total_timesteps": 7_000, "eval/mean_return": 99.0})  # Evaluations are always shown.
    now[0] = 6.0
    shown.update({**ROW, "time/total_timesteps": 8_000})
    shown.note("a note")
    shown.update({**ROW, "time/total_timesteps": 10_000})  # So is the end.
    shown.stop()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "a2c on CartPole-v1"
    assert lines[1].split() == [
        "5,000/10,000",
        "timesteps",
        "return",
        "21.2",
        "length",
        "22.0",
        "1,234",
        "timesteps/s",
        "1:05",
    ]
    assert "7,000/10,000" in lines[2]
    assert "evaluated 99.0" in lines[2]
    assert [line.split("/")[0].strip() for line in lines[3:]] == ["8,000", "a note", "10,000"]


def test_plain_lines_before_the_first_episode_has_ended(capsys):
    shown = PlainProgress()
    shown.start("title", 10)
    shown.update({k: v for k, v in ROW.items() if k.startswith("time/")})
    assert "return" not in capsys.readouterr().err


@pytest.fixture
def console(monkeypatch):
    """A terminal of 100 columns that remembers what is written to it."""
    recorded = Console(file=io.StringIO(), force_terminal=True, width=100, record=True, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda **_: recorded)
    return recorded


def panel_of(shown, console):
    with console.capture() as captured:
        console.print(shown._render())
    return captured.get()


def test_the_live_panel(console, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = LiveProgress()
    shown.start("ppo on CartPole-v1, default options → runs/[x]", 20_000, done=4_000)
    try:
        empty = panel_of(shown, console)
        assert "runs/[x]" in empty  # Brackets in a name are no markup.
        assert "4,000 of 20,000 timesteps" in empty
        assert "… left" in empty
        now[0] = 110.0
        for k in range(3):
            shown.update({**ROW, "time/total_timesteps": 6_000 + 1_000 * k, "rollout/ep_rew_mean": 10.0 * (k + 1)})
        shown.update({**ROW, "time/total_timesteps": 9_000, "rollout/ep_rew_mean": 40.0, "eval/mean_return": 77.5})
        shown.update({**ROW, "time/total_timesteps": 12_000, "rollout/ep_rew_mean": 20.0})
        text = panel_of(shown, console)
        assert "20.0  ▁▃▅█▃" in text
        assert "77.5" in text  # The last evaluation stays.
        assert "1,234 timesteps/s" in text
        assert "12,000 of 20,000 timesteps" in text
        assert "0:10 gone, 0:10 left" in text  # 8,000 in ten seconds, 8,000 to go.
        shown.note("see runs/[bold]x")
    finally:
        shown.stop()
    assert "see runs/[bold]x" in console.export_text()
    panel = text[text.index("╭") :]
    assert max(map(len, panel.splitlines())) <= 100


def test_the_display_fits_where_standard_error_goes(monkeypatch):
    assert type(make_progress(False)) is Progress
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    assert type(make_progress(True)) is PlainProgress
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    assert type(make_progress(True)) is LiveProgress
