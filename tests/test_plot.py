"""bench/plot.py: the figures of a reader's own runs."""

import json

import pytest

pytest.importorskip("matplotlib")
from bench import plot  # noqa: E402

STEP = {"accuracy": 0.5, "length": 20.0, "reward": 0.6}


@pytest.fixture
def unfinished(tmp_path):
    """A run that was killed while it wrote the line of step 4."""
    run = tmp_path / "run"
    run.mkdir()
    lines = [json.dumps({"step": i, **STEP} | ({"eval_accuracy": 0.4} if i == 2 else {}))
             for i in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "acc')
    return run


@pytest.mark.parametrize("flags, picture", [([], "curves.png"), (["--hacking"], "hacking.png")])
def test_an_unfinished_run_is_drawn_in_its_own_folder(unfinished, flags, picture, capsys):
    plot.main([str(unfinished), *flags])
    assert (unfinished / picture).stat().st_size > 1000
    assert capsys.readouterr().out.strip() == str(unfinished / picture)


def test_steps_and_evaluations_of_an_unfinished_run(unfinished):
    assert plot.steps_of(unfinished) == [1, 2, 3]
    assert plot.evaluations(unfinished) == ([2], [0.4])
    (unfinished / "summary.json").write_text('{"accuracy_before": 0.1}')
    assert plot.evaluations(unfinished) == ([0, 2], [0.1, 0.4])


@pytest.mark.parametrize("content", [
    None, "", "[1]\n", "nonsense\n", "{}\n", "[" * 10**5 + "\n", "\ufeff{}\n", "null\n",
    *(json.dumps({"step": 1, **STEP} | {name: value}) + "\n" for name in (*STEP, "eval_accuracy")
      for value in (None, "x", float("nan"), float("inf"), 10**400, [1], True))])
def test_what_is_no_run_is_refused(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert plot.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "metrics.jsonl" in said and said.startswith("plot.py: ") and said.count("\n") == 1


@pytest.mark.parametrize("summary", ["", "[]", "{}", '{"accuracy_before": null}', "\x00"])
def test_a_damaged_summary_is_refused(unfinished, summary, capsys):
    (unfinished / "summary.json").write_text(summary)
    assert plot.main([str(unfinished)]) == 2
    assert "summary.json" in capsys.readouterr().err


def test_pictures_of_the_documentation_are_drawn_only_on_request(monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plot, "draw_all", lambda: drawn.append(1))
    assert plot.main([]) == 2
    assert not drawn and "--docs" in capsys.readouterr().err
    plot.main(["--docs"])
    assert drawn
