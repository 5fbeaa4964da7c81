"""infra/progress.py: a bar of at most 100 columns on a terminal, whole lines elsewhere."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from infra import metrics
from infra.progress import Progress

ROOT = Path(__file__).parents[1]
LONG = dict(reward=-12.345, accuracy=1.0, groups_with_gradient=1.0, truncated=1.0, length=32768.0,
            entropy=10.25, kl=123.456)


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")


def test_a_bar_fits_100_columns_and_keeps_what_matters(monkeypatch):
    """In a process whose terminal has 140 columns. Each step is drawn, however short it was."""
    script = ("import sys; sys.path.insert(0, sys.argv[1])\n"
              "import time\nfrom infra import metrics\nfrom infra.progress import Progress\n"
              "for total in (1000000, None):\n"
              "  with Progress('step', total, 999997) as bar:\n"
              "    for _ in range(2):\n"
              f"        time.sleep(0.2), bar.step(metrics.shown({LONG}, 123456.7))\n"
              "    bar.write('said \\x1b[2J above')\n")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 140))
    environment = os.environ | {"TQDM_DISABLE": "0"}
    process = subprocess.Popen([sys.executable, "-c", script, ROOT], stderr=theirs,
                               stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    said, text = process.communicate()[0], b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    lines = [line for line in re.split(r"[\r\n]", text.decode()) if "reward" in line]
    assert lines and all(len(line) <= 100 for line in lines), lines
    for line in (next(line for line in lines if "/1000000" in line and "999999" in line),
                 lines[-1]):
        for words in ("999999", "reward -12.35", "acc 100%", "grad 100%", "cut 100%"):
            assert words in line, line
    assert said.count(b"said \\x1b[2J above\n") == 2


def test_piped_output_has_a_line_a_step_and_no_carriage_return(capsys):
    with Progress("step", 40, 11) as bar:
        bar.step(metrics.shown(LONG | {"reward": 0.85}, 12000.0))
        bar.write("a note")
        bar.step(metrics.shown({k: v for k, v in LONG.items() if k != "groups_with_gradient"}, 1.0))
    said = capsys.readouterr()
    first, second = said.err.splitlines()
    assert first == ("step 12/40  reward 0.85  acc 100%  grad 100%  cut 100%  len 32768  "
                     "ent 10.25  kl 1.2e+02  tok/s 12000")
    assert second.startswith("step 13/40  reward -12.35  acc 100%  cut 100%")
    assert "\r" not in said.err and said.out == "a note\n"


def test_a_loop_of_many_steps_has_a_line_now_and_then_and_a_last_one(capsys):
    with Progress("base model", 450, every=1000) as bar:
        for _ in range(450):
            bar.step({"loss": "1.234"})
    assert capsys.readouterr().err.splitlines() == ["base model 1/450  loss 1.234",
                                                    "base model 450/450  loss 1.234"]


def test_a_loop_without_a_known_end(capsys):
    with Progress("step", None, 3) as bar:
        bar.step({"reward": "1"})
    assert capsys.readouterr().err == "step 4  reward 1\n"


def test_tqdm_disable_silences_it_but_not_what_is_said(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with Progress("step", 40) as bar:
        bar.step({"reward": "1"})
        bar.write("a note")
    said = capsys.readouterr()
    assert said.err == "" and said.out == "a note\n"
