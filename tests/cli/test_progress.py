"""Long work is visible: a bar on a terminal, else lines on stderr; stdout has only results."""

from featherseg.cli import progress
from featherseg.cli.terminal import Console


def test_without_a_terminal_a_line_is_printed_every_ten_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with progress.progress_bar(Console()) as tell:
        for second in range(35):
            now[0] = 100.0 + second
            tell("reading [images]", second, 35)
        tell("searching", 3, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"reading [images]: {second} of 35" for second in (10, 20, 30)]


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    with progress.progress_bar(Console(stderr=True, force_terminal=True)) as tell:
        tell("reading images", 1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading images" in err
