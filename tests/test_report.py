"""report.py: the page of a run, its text in the terminal, and the tree page of search.py.

The page is opened in headless Chromium where there is one. Model text is data: it can become
neither markup nor script, whatever it holds.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from fake_run import write_run
from small import tiny_model
from test_init import pretrained
from test_search import PROBLEMS, Scripted, says

import infra.metrics
import report
import search
import train
from infra import html_page, text_report, tree
from infra.charts import measures_of
from infra.read_run import read_run
from tasks import Problem
from tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
HOSTILE = ("</script><script>window.pwned = 1</script><!-- <script> ]]> <img src=x onerror=pwned=1>"
           "javascript:pwned=1 \u2028\u2029 \x1b[2J\x00 \u202e\u200f {{SCRIPT}} \ud800 &lt;b&gt;")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "a", steps=12, groups=2, group_size=4)


@pytest.fixture(scope="module")
def browser():
    opened = Browser()
    yield opened
    opened.close()


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], False
        self.feed(Path(path).read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.scripts[-1] += text

    def data(self):
        return json.loads(self.scripts[0])


def data_of(*runs):
    return report.page_data([read_run(run) for run in runs])


# --- what the page holds

def test_the_page_holds_the_curves_the_groups_and_the_measurements(run):
    data = Page(report.write_report([run])).data()
    (one,) = data["runs"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert one["steps"] == [line["step"] for line in lines]
    assert one["curves"]["accuracy"] == [report.rounded(line["accuracy"]) for line in lines]
    assert one["curves"]["length_wrong"][2] is None
    assert one["measures"][0]["ci_before"] == [0.077, 0.114]
    assert len(data["groups"]) == 24 and len(data["groups"][0]["responses"]) == 4
    assert len(data["held_out"][0]["answers"]) == 3
    ids = data["groups"][0]["responses"][0]["ids"]
    assert "".join(data["tokens"][str(i)] for i in ids).startswith("<think>")


def test_a_new_metric_gets_a_chart_of_its_own(run):
    charts = data_of(run)["charts"]
    assert "novelty" not in [chart["title"] for chart in charts]
    metrics = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(metrics.replace('"step"', '"novelty": 0.5, "step"'))
    assert data_of(run)["charts"][-1]["title"] == "novelty"
    (run / "metrics.jsonl").write_text(metrics)
    rewards = next(chart for chart in charts if chart["title"] == "Reward")
    assert [series["name"] for series in rewards["series"]] == ["reward", "correct", "format"]


@pytest.mark.parametrize("room, detailed, kept", [(10**7, 8, 8), (145_000, 4, 8), (103_000, 0, 2)])
def test_a_large_run_loses_the_details_of_its_least_useful_groups_first(room, detailed, kept):
    def group(step, *rewards, dropped=""):
        return {"step": step, "question": "", "dropped": dropped, "responses": [
            {"text": "x" * 500, "reward": reward, "ids": [7] * 2000} for reward in rewards]}
    groups, notes = [], []
    for step in (1, 2):
        groups += [group(step, 1, 0, dropped="not needed"), group(step, 1, 1), group(step, 0, 1),
                   group(step, 1, 0)]
    found = report.groups_within(groups, room, notes)
    assert len(found) == kept and len(notes) == (detailed < 8) + (kept < 8)
    assert [("ids" in g["responses"][0]) for g in found] == {
        8: [True] * 8, 4: [False, False, True, True] * 2, 0: [False] * 2}[detailed]


def test_the_page_of_a_large_run_is_small(tmp_path, monkeypatch):
    """The limit is a fifth of the true one, and so is the run."""
    monkeypatch.setattr(report, "MAX_BYTES", report.MAX_BYTES // 5)
    path = report.write_report([write_run(tmp_path / "a", steps=4, groups=6, group_size=16)])
    assert 800_000 < path.stat().st_size <= report.MAX_BYTES <= 1_000_000
    assert "without their numbers per token" in Page(path).data()["notes"][0]


def test_the_command_has_the_flags_that_differ_from_the_defaults():
    options = {"algo": "dapo", "task": "wait", "level": 2, "seed": 3, "base_seed": 3, "lr": 4e-4,
               "clip_high": 0.28, "max_new_tokens": 320, "dynamic_sampling": False, "data": "a b",
               "critic_hints": True, "of_another_version": 1, "base_steps": 900}
    assert report.command(options) == ("python train.py --algo dapo --seed 3 --task wait "
                                       "--data 'a b' --no-dynamic-sampling")


def test_bytes_that_are_no_text_stay_bytes():
    assert report.piece(b" and") == " and"
    assert report.piece("é".encode()[:1]) == [0xc3]


# --- runs that are not whole

def test_a_run_that_is_going_on(run, tmp_path):
    for name in ("config.json", "metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes()[:-9])  # half-written last lines
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    data = Page(report.write_report([tmp_path])).data()
    assert data["runs"][0]["steps"] == list(range(1, 12)) and data["notes"] == []
    assert len(data["groups"]) == 23 and data["runs"][0]["measures"] == []
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "samples.jsonl").unlink()
    assert Page(report.write_report([tmp_path])).data()["groups"] == []


def test_damaged_lines_are_left_out_and_counted(run, tmp_path):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN, "kl": Infinity}\n[]\n'
                                            '{"step": "x"}\n\xff\n{"step": 2, "loss": 1}\n')
    (tmp_path / "samples.jsonl").write_text(
        '{"step": 1, "kind": "group", "question": 7, "responses": []}\n'
        '{"step": 1, "kind": "group", "question": "", "responses": [{"text": "", "reward": []}]}\n'
        '{"step": 1, "kind": "of another version"}\n')
    data = Page(report.write_report([tmp_path])).data()
    assert data["runs"][0]["curves"]["loss"] == [None, 1] and data["groups"] == []
    assert "3 damaged lines" in data["notes"][0]


def test_runs_of_earlier_versions(capsys):
    for folder in sorted((ROOT / "bench" / "runs").glob("*-0")):
        data = data_of(folder)
        assert data["groups"] == [] and data["runs"][0]["command"].startswith("python train.py")
        assert report.main([str(folder), "--text"]) == 0
    assert "accuracy, greedy" in capsys.readouterr().out


def test_old_samples_are_groups_of_one(run, tmp_path):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    line = {"step": 5, "question": "1+1", "text": "2", "reward": 1.1, "correct": 1.0}
    (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
    (group,) = data_of(tmp_path)["groups"]
    assert group["responses"] == [{"text": "2", "reward": 1.1, "parts": {"correct": 1.0}}]


def test_a_folder_without_a_run_is_one_sentence(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert report.main([str(tmp_path / "gone")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "config.json" in said[0] and "no folder" in said[1]


def test_a_run_without_its_tokenizer_is_shown_without_pieces(run, tmp_path):
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    options = json.loads((run / "config.json").read_text()) | {"init": "a model"}
    (tmp_path / "config.json").write_text(json.dumps(options))
    data = data_of(tmp_path)
    assert data["tokens"] == {} and "prompt.json" in data["notes"][-1] and data["groups"]


# --- real runs

SMALL = ("--base-steps 5 --steps 4 --eval-every 2 --prompts 4 --group-size 4 --minibatches 1 "
         "--eval-problems 4 --eval-samples 4 --max-new-tokens 24 --device cpu").split()


@pytest.mark.parametrize("flags", [["--algo", "dapo"], ["--algo", "ppo"]], ids=lambda f: f[1])
def test_train_writes_a_page_of_a_small_run(flags, tmp_path, capsys):
    with tiny_model():
        assert train.main([*SMALL, *flags, "--out", str(tmp_path / "run")]) == 0
    assert "report.html" in capsys.readouterr().out
    data = Page(tmp_path / "run" / "report.html").data()
    assert data["runs"][0]["steps"] == [1, 2, 3, 4] and data["runs"][0]["measures"]
    assert {group["step"] for group in data["groups"]} == {1, 2, 3, 4} and data["notes"] == []
    detailed = [r for g in data["groups"] for r in g["responses"] if "ids" in r]
    tokenizer = Tokenizer.toy()
    assert detailed and all(tokenizer.decode_response(r["ids"]) == r["text"] for r in detailed)
    assert {"logp", "entropy"} <= detailed[0].keys()
    assert any("values" in r for r in detailed) == (flags[1] == "ppo")
    assert [a["step"] for a in data["held_out"][0]["answers"]] == [0, 2, 4]


def test_pages_during_training_take_a_share_of_the_time(tmp_path, monkeypatch):
    """With a share of 0, the first page is written, and the last."""
    written = []

    def write_report(folders):
        written.append(json.loads((folders[0] / "metrics.jsonl").read_text().splitlines()[-1]))
        return tmp_path / "report.html"
    monkeypatch.setattr(report, "write_report", write_report)
    monkeypatch.setattr(infra.metrics, "PAGE_SHARE", 0)
    with tiny_model():
        assert train.main([*SMALL, "--out", str(tmp_path / "run")]) == 0
    assert [line["step"] for line in written] == [2, 4]
    monkeypatch.setattr(infra.metrics, "PAGE_SHARE", 10)
    with tiny_model():
        assert train.main([*SMALL, "--out", str(tmp_path / "again")]) == 0
    assert len(written) == 5


@needs_chromium
def test_a_small_run_of_a_pretrained_model_is_shown_with_its_own_tokens(tmp_path, browser):
    folder = pretrained(tmp_path / "init", [("a", "b")])
    assert train.main([*SMALL, "--init", str(folder), "--task", "arithmetic", "--reward", "random",
                       "--out", str(tmp_path / "run")]) == 0
    browser.open(tmp_path / "run" / "report.html")
    assert browser.js("document.querySelectorAll('.tokens .token').length") == 96
    assert "\\x" in browser.js("document.querySelector('.cards').textContent")
    assert browser.errors == []

# --- text of a model is data

def hostile_run(folder) -> Path:
    """A run in which every text is hostile."""
    write_run(folder, steps=2, groups=1, group_size=2, algo=HOSTILE, task=HOSTILE, size=HOSTILE)
    lines = (folder / "samples.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    for line in lines:
        line |= {"question": HOSTILE, "answer": HOSTILE}
        if line["kind"] == "group":
            line["dropped"] = HOSTILE
            for response in line["responses"]:
                response |= {"text": HOSTILE, "ending": HOSTILE, "parts": {HOSTILE: 1.0}}
                response["ids"] = response["ids"][:3]
            line["responses"][1].pop("ids")  # shown as text
        else:
            line["text"] = HOSTILE
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(
        json.dumps(line | {HOSTILE: 0.5}) + "\n" for line in metrics))
    return folder


def test_hostile_text_becomes_no_markup(tmp_path):
    path = report.write_report([hostile_run(tmp_path / "<b>&")])
    text, page = path.read_text(), Page(path)
    assert page.tags.count("script") == 2 and not {"img", "b"} & set(page.tags)
    assert page.data()["groups"][0]["question"] == HOSTILE
    assert not re.search("[\x00\x1b\u2028\u2029\u202e]", text)
    assert "{{" not in page.scripts[1]  # a placeholder in the data was not filled in


def test_no_script_of_the_page_makes_markup_from_text():
    for path in sorted(html_page.FOLDER.glob("*.js")):
        found = re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(|"
                          r"DOMParser|\.src\b|https?://(?!www\.w3\.org)", path.read_text())
        assert not found, f"{path.name}: {found}"
        assert max(map(len, path.read_text().splitlines())) <= 100
        assert len(path.read_text().splitlines()) <= 350


def test_the_terminal_shows_hostile_text_as_escapes(tmp_path, capsys):
    assert report.main([str(hostile_run(tmp_path / "a")), "--text"]) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed and not re.search("[\x00-\x08\x0b-\x1f\u202e]", printed)


# --- the terminal

def test_the_text_has_the_essentials(run, capsys, monkeypatch):
    sentence = "every answer is cut off; " * 9
    monkeypatch.setattr(report, "diagnoses", lambda run: {"cut off": (7, sentence)})
    assert report.main([str(run), "--text"]) == 0
    printed = capsys.readouterr().out
    assert "! step 7: every answer is cut off" in printed and "9.4% [7.7%, 11.4%]" in printed
    assert re.search(r"accuracy +▁.*█ .*%", printed) and "    | <think>" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_a_curve_is_a_line_of_blocks():
    assert text_report.sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert text_report.sparkline([3.0]) == text_report.sparkline([3, 3])[0] == "▁"
    assert text_report.sparkline(list(range(400)))[::39] == "▁█"


def test_a_step_without_a_value_is_a_gap_in_the_curve(capsys):
    text_report.show_curve([{"a": 1}, {"a": None}, {}, {"a": 3}], "a", "number")
    assert "▁  █ " in capsys.readouterr().out
    assert text_report.sparkline([None, 0, None, 7, None]) == " ▁ █ "
    assert text_report.sparkline([None, 3.0]) == " ▁"
    every_tenth = [i if i % 10 == 9 else None for i in range(80)]  # two steps a block
    assert text_report.sparkline(every_tenth) == "    ▁    ▂    ▃    ▄    ▅    ▆    ▇    █"


def test_a_curve_that_equals_another_is_said_in_words_and_seconds_are_last(run, capsys):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    read = read_run(run)
    same = [line | {"correct": line["accuracy"], "zero_std_groups": 0.2} for line in lines]
    for metrics, shown in ((same, True), (lines, False)):
        text_report.show(read._replace(metrics=metrics), "python train.py", "lr 1", {})
        printed = capsys.readouterr().out
        assert ("correct                = accuracy\n" in printed) == shown
        assert ("zero_std_groups        = 1 - groups_with_gradient\n" in printed) == shown
        curves = re.findall(r"^  (\w+) +(?=[▁-█ ]{9}|=)", printed, re.M)
        assert curves[-1].startswith("seconds_") and not curves[-5].startswith("seconds_")
        rows = [line for line in printed.splitlines() if re.match("Curves|  loss ", line)]
        assert len({len(row) for row in rows}) == 1  # the columns stand under their titles


def test_a_share_of_no_samples_is_none(run, capsys):
    share = {"accuracy_given_working_before": 0.5, "accuracy_given_working_ci_before": [0.2, 0.8],
             "accuracy_given_working_after": 0.0, "accuracy_given_working_ci_after": [0, 1.0]}
    nothing = {key.replace("given", "given_no"): 0.0 for key in share if "_ci_" not in key} | {
        key.replace("given", "given_no"): [0.0, 1.0] for key in share if "_ci_" in key}
    (row,) = measures_of(share | nothing)
    assert (row["before"], row["after"], row["ci_after"]) == (0.5, None, None)
    text_report.show(read_run(run)._replace(summary=share), "", "", {})
    assert re.search(r"accuracy with working +50.0% \[20.0%, 80.0%\] +none\n",
                     capsys.readouterr().out)


def test_the_key_settings_have_their_defaults():
    options = {"algo": "grpo", "task": "arithmetic", "level": 2, "lr": 0.04, "group_size": 16,
               "temperature": 1.0, "max_new_tokens": 8, "prompts": None}
    assert report.key_settings(options) == ("lr 0.04 (default 0.0004), group size 16, "
                                            "temperature 1, max new tokens 8 (default 192)")
    assert report.key_settings({}) == ""


# --- the tree of a search

def beams() -> search.SearchResult:
    """Two samples with the same first step, and a beam that was given up after another one."""
    return search.SearchResult("a\nb\n", 9, ["a\nb\n", "a\nc\n"], [[0.9, 0.8], [0.9, 0.1]],
                               {"a\nx\n": [0.9, 0.05], "d\n": [0.2]})


def test_the_tree_knows_what_was_chosen_and_what_was_pruned():
    first, given_up = tree.tree_of(beams())
    assert (first["count"], first["chosen"], first["pruned"]) == (2, True, False)
    assert [(n["text"], n["chosen"], n["pruned"]) for n in first["below"]] == [
        ("b", True, False), ("c", False, False), ("x", False, True)]
    assert given_up["pruned"] and given_up["score"] == 0.2
    assert "x\x1b[0m  0.05  pruned" in tree.render_tree(beams())


def test_beam_search_remembers_what_it_pruned():
    end = says("1")[8:]
    completer = Scripted({"<think>a": 0.6, "<think>b": 0.7},
                         a=[f"<think>a\nc{end}", f"<think>b\nd{end}"])
    [one] = search.METHODS["beam"](completer, PROBLEMS[:1], 2, 0)
    assert one.pruned == {"<think>a\n": [0.6]} and one.text.startswith("<think>b")
    assert [(n["pruned"], n["chosen"]) for n in tree.tree_of(one)] == [(False, True), (True, False)]


# --- in a browser

@needs_chromium
def test_a_group_is_opened_coloured_filtered_and_sorted(run, browser):
    browser.open(report.write_report([run]))
    js = browser.js
    js("document.querySelectorAll('.problems button')[1].click()")
    assert js("document.querySelectorAll('.card').length") == 4
    # colours: each token by its advantage
    js("""{ const colour = [...document.querySelectorAll('#rollouts select')].at(-1);
         colour.value = 'advantage'; colour.dispatchEvent(new Event('change')); }""")
    assert js("[...document.querySelectorAll('.card')].every(card => card.querySelectorAll("
              "Number(card.querySelector('.push span').textContent.replace('\u2212', '-')) < 0"
              " ? '.token.neg' : '.token.pos').length === card.querySelectorAll('.token').length)")
    # filters
    right = js("document.querySelectorAll('.card.right').length")
    js("document.querySelector('button[data-value=right]').click()")
    assert js("document.querySelectorAll('.card').length") == right
    js("""{ const text = document.querySelector('input[type=search]');
         text.value = 'no such text'; text.dispatchEvent(new Event('input')); }""")
    assert js("document.querySelectorAll('.card').length") == 0
    js("""{ const text = document.querySelector('input[type=search]');
         text.value = ''; text.dispatchEvent(new Event('input'));
         document.querySelector('button[data-value=all]').click();
         const sort = [...document.querySelectorAll('#rollouts select')][0];
         sort.value = 'shortest'; sort.dispatchEvent(new Event('change')); }""")
    lengths = js("[...document.querySelectorAll('.facts-line')].map("
                 "(line) => Number(line.textContent.match(/(\\d+) tokens/)[1]))")
    assert len(lengths) == 4 and lengths == sorted(lengths)
    assert browser.errors == []


@needs_chromium
def test_the_keyboard_moves_through_tokens_and_curves(run, browser):
    browser.open(report.write_report([run]))
    browser.js("document.querySelector('.tokens .token').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        browser.key(key)
    assert "token 2 of" in browser.js("document.querySelector('.inspector').textContent")
    browser.js("document.querySelector('svg.chart').focus()")
    browser.key("Home")
    browser.key("ArrowRight")
    assert browser.js("document.querySelector('svg.chart').getAttribute('aria-valuetext')"
                      ).startswith("step 2: sampled")
    assert browser.errors == []


@needs_chromium
def test_runs_are_overlaid_and_seeds_are_a_band(run, tmp_path, browser):
    runs = [run, write_run(tmp_path / "b", steps=12, group_size=4, seed=1),
            write_run(tmp_path / "c", steps=12, group_size=4, critic=True)]
    browser.open(report.write_report(runs[::2]))
    lines = "document.querySelector('svg.chart').querySelectorAll('.line').length"
    assert browser.js(lines) == 2 and not browser.js("!!document.querySelector('.band')")
    browser.open(report.write_report(runs))
    assert browser.js(lines) == 2
    assert browser.js("document.querySelector('svg.chart').querySelectorAll('.band').length") == 1
    browser.js("document.querySelector('button[data-value=lines]').click()")
    assert browser.js(lines) == 3
    browser.js("document.querySelector('.legend input').click()")
    assert browser.js(lines) == 1
    assert browser.errors == []


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window_in_both_themes(run, browser, width, theme):
    browser.open(report.write_report([run]), width, theme=theme)
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.documentElement.dataset.theme") == theme
    light = browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(247, 247, 245)"
    assert light == (theme == "light")
    browser.js("document.getElementById('theme').click()")
    assert browser.js("document.documentElement.dataset.theme") != theme
    browser.js("localStorage.clear()")
    assert browser.errors == []


@needs_chromium
def test_hostile_text_runs_nothing_in_a_browser(tmp_path, browser):
    browser.open(report.write_report([hostile_run(tmp_path / "<b>&")]))
    shown = browser.js("document.querySelector('#rollouts .group-head h3').textContent")
    assert "<img src=x onerror=pwned=1>" in shown and "\\x1b[2J\\x00 \\u202e\\u200f" in shown
    assert "\\ud800" in shown and "\\u2028" in shown
    assert browser.js("document.querySelectorAll('script').length") == 2
    assert browser.js("document.querySelectorAll('img, b:not([class]) script').length") == 0
    assert browser.js("typeof window.pwned") == "undefined"
    texts = browser.js("document.querySelector('.bar').textContent + document.title + "
                       "document.getElementById('main').textContent")
    assert "<!-- <script> ]]>" in texts and not re.search("[\x00\x1b\u2028\u202e\u200f]", texts)
    assert browser.errors == []


@needs_chromium
def test_the_page_shows_none_for_a_share_of_no_samples_and_the_key_settings(tmp_path, browser):
    folder = write_run(tmp_path, steps=2, groups=1, group_size=2, lr=0.04)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"truncated_before": 0.5, "truncated_ci_before": [0.4, 0.6],
                "truncated_after": 0.0, "truncated_ci_after": [0.0, 1.0]}
    (folder / "summary.json").write_text(json.dumps(summary))
    browser.open(report.write_report([folder]))
    row = ("[...document.querySelectorAll('.measures tr')].find("
           "(row) => row.innerText.startsWith('cut off'))")
    assert browser.js(f"{row}.querySelector('td.after').textContent") == "none"
    assert browser.js(f"{row}.querySelectorAll('circle').length") == 1
    assert "lr 0.04 (default 0.0004)" in browser.js("document.getElementById('glance').innerText")
    assert browser.errors == []


@needs_chromium
def test_the_page_can_load_nothing_and_run_nothing_else(run, browser):
    browser.open(report.write_report([run]))
    assert "unsafe" not in browser.js("document.querySelector('meta[http-equiv]').content")
    assert browser.js("fetch('https://example.org/').then(() => 'loaded', () => 'refused')"
                      ) == "refused"
    assert browser.js("""(() => { try { const script = document.createElement('script');
        script.textContent = 'window.pwned = 1'; document.body.append(script);
        } catch { /* refused */ } return typeof window.pwned; })()""") == "undefined"
    assert any("Content Security Policy" in error for error in browser.errors)
    browser.errors.clear()


@needs_chromium
def test_a_masked_token_and_bytes_that_are_no_text_look_different(run, tmp_path, browser):
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    response = {"text": "\ufffd\u200b 1", "reward": 1.0, "parts": {}, "advantage": 1.0,
                "ids": [0xc3, *"\u200b".encode(), 32, 49], "mask": [1, 1, 1, 1, 0, 1]}
    (tmp_path / "samples.jsonl").write_text(json.dumps(
        {"step": 1, "kind": "group", "question": "q", "answer": "", "responses": [response]}))
    browser.open(report.write_report([tmp_path]))
    tokens = browser.js("[...document.querySelectorAll('.tokens .token')].map("
                        "(token) => [token.textContent, token.classList.contains('masked')])")
    assert tokens == [["\\xc3", False], ["\\xe2", False], ["\\x80", False], ["\\x8b", False],
                      ["·", True], ["1", False]]
    assert browser.errors == []


@needs_chromium
def test_the_tree_page_shows_steps_scores_and_what_was_pruned(tmp_path, browser):
    path = tmp_path / "tree.html"
    tree.write_tree_page(path, beams(), Problem(HOSTILE, 1), "beam", 4, True)
    browser.open(path)
    assert browser.js("[...document.querySelectorAll('.node.chosen .text')].map("
                      "(node) => node.textContent)") == ["a", "b"]
    assert browser.js("document.querySelectorAll('.node.pruned').length") == 2
    assert "0.05" in browser.js("document.querySelector('.tree').textContent")
    assert browser.errors == []
