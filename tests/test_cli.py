"""infra/cli.py: flags in groups, choices from registries, flags and runs of earlier versions."""

import io
import json
import re
import shutil
import sys
import types
from dataclasses import fields

import pytest

import config
import evaluate
import grpo
import model as gpt
import ppo
import prm
import sample
import search
import tasks
import train
import verify
from infra import checkpoint, cli, run_dir, tensors
from tokenizer import Tokenizer

SMALL = ("--base-steps 2 --steps 1 --prompts 2 --group-size 4 --eval-problems 4 --eval-samples 4 "
         "--max-new-tokens 12 --reward random --device cpu").split()


def refused(capsys, *flags) -> str:
    """The last line of a command line that argparse refuses."""
    with pytest.raises(SystemExit) as exit:
        cli.parse([*flags])
    assert exit.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_help_shows_each_flag_in_the_group_of_its_field(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--help"])
    sections = re.split(r"^(\S.*):$", capsys.readouterr().out, flags=re.MULTILINE)
    headings = [heading.partition(" (--algo ")[0] for heading in sections[1::2]]
    groups = dict(zip(headings, sections[2::2], strict=True))
    assert list(groups)[1:] == list(config.GROUPS)
    assert {"task", "PPO (--algo ppo, vapo)", "Kimi (--algo kimi)"} <= set(sections[1::2])
    for f in fields(config.Options):
        assert f.metadata["help"]
        assert re.search(rf"^  {cli.flag(f.name)}\b", groups[f.metadata["group"]], re.MULTILINE)


@pytest.mark.parametrize("old, new", cli.RENAMED.items())
@pytest.mark.parametrize("form", ["{} 1", "{}=1"])
def test_an_old_flag_is_refused_with_its_new_name(old, new, form, capsys):
    said = refused(capsys, "--algo", "ppo", *form.format(old).split())
    assert f"{old} has a new name: {new} " in said
    assert new.split()[0] in {cli.flag(f.name) for f in fields(config.Options)}


@pytest.mark.parametrize("name, registry", [
    ("algo", config.ALGORITHMS), ("task", tasks.TASKS), ("reward", verify.REWARDS), ("kl", ppo.KL),
    ("aggregate", ppo.AGGREGATIONS), ("baseline", grpo.BASELINES),
    ("sampler", config.SAMPLERS), ("size", gpt.SIZES)])
def test_each_entry_of_a_registry_is_a_choice(name, registry):
    choices = {f.name: f.metadata["choices"] for f in fields(config.Options)}
    assert set(registry) <= set(choices[name])


def test_a_new_algorithm_is_a_line(monkeypatch):
    """A module of `prepare` and `loss`, which says nothing else, has no critic and none of the
    options of PPO and DAPO."""
    new = types.ModuleType("new")
    new.prepare, new.loss = grpo.prepare, grpo.loss
    monkeypatch.setitem(config.ALGORITHMS, "new", (new, {}))
    cli.validate(cli.parse(["--algo", "new"])[0])
    assert not config.needs_critic("new") and config.needs_critic("ppo")
    for flags, readers in ((["--critic", "head"], "ppo"), (["--overlong", "soft"], "dapo")):
        with pytest.raises(run_dir.UserError, match=f"no effect with --algo new.* {readers}"):
            cli.validate(cli.parse(["--algo", "new", *flags])[0])
    new.dapo_options = True
    cli.validate(cli.parse(["--algo", "new", "--overlong", "soft"])[0])


# --- the end of a run, and files that are read before its beginning

HOSTILE = "\x1b[2J\x1b]0;title\x07 é 数 \u202e"


def test_text_of_a_file_and_of_a_model_is_printed_visibly_in_any_encoding(tmp_path, monkeypatch):
    """At the end of train.py, by sample.py and by search.py --show."""
    data, out = tmp_path / "hostile.jsonl", str(tmp_path / "run")
    data.write_text("".join(json.dumps({"question": f"{i} {HOSTILE}", "answer": f"{i}"}) + "\n"
                            for i in range(40)))

    def decode_response(self, ids):
        return HOSTILE + "\ud800<answer>1</answer>"
    monkeypatch.setattr(Tokenizer, "decode_response", decode_response)
    monkeypatch.setattr(Tokenizer, "decode_bytes", lambda self, ids: HOSTILE.encode())
    for encoding in ("ascii", "utf-8"):
        for main, argv in (
                (train.main, [*SMALL, "--task", "file", "--data", str(data), "--out", out]),
                (sample.main, ["--run", out, f"1 {HOSTILE}"]),
                (search.main, ["--run", out, "--show", "--n", "2", "--problems", str(data)])):
            said = io.TextIOWrapper(io.BytesIO(), encoding, newline="")
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", said)
                assert main(argv) == 0
            said.flush()
            printed = re.sub("\x1b\\[\\d*m", "", said.buffer.getvalue().decode(encoding))
            assert "\\x1b[2J" in printed
            assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", printed)
        shutil.rmtree(out)


@pytest.mark.parametrize("name, content, said", [
    ("prm.pt", b"x" * 99, "prm.pt"), ("checkpoint.pt", b"", "checkpoint.pt"),
    ("prm.pt", None, "has no prm.pt")])
def test_a_judge_that_cannot_be_read_is_refused_before_any_work(finished, name, content, said,
                                                               tmp_path, capsys):
    judge, out = tmp_path / "judge", tmp_path / "out"
    shutil.copytree(finished, judge)
    policy = evaluate.load_policy(str(judge), "cpu")
    scorer = prm.StepScorer(policy).state_dict()
    tensors.save(judge / "prm.pt", {"prm": scorer, "orm": scorer})
    flags = [*SMALL, "--algo", "ppo", "--reward", "process", "--judge", str(judge), "--out",
             str(out)]
    cli.validate(cli.parse(flags)[0])
    (judge / name).unlink()
    if content is not None:
        (judge / name).write_bytes(content)
    assert train.main(flags) == 2
    assert said in error_of(capsys) and not out.exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "checkpoint.pt", "config.json",
                                  "summary.json", "../base-*.pt"])
def test_a_folder_in_the_place_of_a_file_is_bad_input(finished, name, tmp_path, capsys):
    shutil.copytree(finished.parent, tmp_path / "runs")
    out = tmp_path / "runs" / "run"
    [path] = out.glob(name)
    path.unlink()
    path.mkdir()
    flags = ["--out", str(out), "--resume"] if ".." not in name else ["--out", str(out) + "2"]
    assert train.main([*SMALL, *flags]) == 2
    assert path.name in error_of(capsys)


# --- runs of earlier versions

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*SMALL, "--out", str(out)]) == 0
    return out


def error_of(capsys) -> str:
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(("train.py: ", "infra.checkpoint: "))
    return error


def test_settings_of_an_earlier_version_are_refused(finished, capsys):
    path = finished / "config.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"lam": 0.95}))
    assert train.main([*SMALL, "--out", str(finished), "--resume"]) == 2
    assert "another version of this program, which had the setting lam" in error_of(capsys)
    path.write_text(text)


@pytest.mark.parametrize("number", [None, run_dir.FORMAT - 1, run_dir.FORMAT + 1])
def test_a_checkpoint_of_another_format_is_refused(finished, number, tmp_path, capsys):
    path = finished / "checkpoint.pt"
    content = run_dir.load_checkpoint(finished)
    old = {k: v for k, v in content.items() if k != "format"}
    tensors.save(path, old if number is None else old | {"format": number})
    with pytest.raises(run_dir.UserError, match="another version"):
        run_dir.load_checkpoint(finished)
    assert train.main([*SMALL, "--out", str(finished), "--resume"]) == 2
    assert "made by another version of this program" in error_of(capsys)
    assert checkpoint.main(["--run", str(finished), "--out", str(tmp_path / "out")]) == 2
    assert "made by another version of this program" in error_of(capsys)
    tensors.save(path, content)


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(run_dir.UserError, match="has no checkpoint.pt"):
        run_dir.load_checkpoint(tmp_path)
