"""One page that shows a run: what it learned, how, and what went wrong.

    python report.py runs/NAME                    writes runs/NAME/report.html
    python report.py runs/NAME runs/OTHER ...     the same, with the curves of other runs over it
    python report.py runs/NAME --text             prints the essentials in the terminal

The page is one HTML file without a server and without a network: curves, whole groups of responses
with their numbers per token, and the diagnoses of diagnose.py. train.py writes it at each
evaluation. It is made from the files of the run alone, so it can be made again at any time.
Left out on purpose: the rollouts of the other runs; each has a page of its own.
"""

import shlex
import sys
from dataclasses import fields
from pathlib import Path

import diagnose
import tasks
from config import ALGORITHMS, PRETRAINED_LR, Options, reads_group
from infra import arguments, html_page, text_report
from infra.charts import charts_of, is_number, measures_of
from infra.conflicts import flag
from infra.read_run import RunFiles, read_run
from infra.terminal import echo
from tokenizer import Tokenizer

MAX_BYTES = 5_000_000  # of the page
MAX_HELD_OUT = 400_000  # bytes of held-out answers in it
SCRIPTS = ("core.js", "glance.js", "chart.js", "curves.js", "tokens.js", "picture.js",
           "rollouts.js", "over_time.js", "main.js")
PER_TOKEN = ("ids", "mask", "logp", "entropy", "advantages", "ratio", "values", "scores",
             "alternatives", "attention")
KEY_SETTINGS = ("lr", "prompts", "group_size", "temperature", "max_new_tokens")
# what a run does not depend on, or what differs between the seeds of one setting
NOT_SETTINGS = ("seed", "base_seed", "digests", "checkpoints", "report", "record_mb",
                "micro_tokens", "compile")


# --- the data of the page

def page_data(runs: list[RunFiles]) -> dict:
    """All that the page shows, as one JSON object. The rollouts are those of the first run."""
    first = runs[0]
    data = {"title": str(first.folder), "runs": [run_data(run) for run in runs],
            "charts": charts_of(runs), "notes": []}
    for run in runs:
        data["notes"] += [f"{run.folder}: {note}" for note in run.notes]
    data["held_out"] = held_out_within(first.held_out, MAX_HELD_OUT, data["notes"])
    # the rollouts get the room that is left
    room = MAX_BYTES - len(html_page.render_page(data, SCRIPTS))
    data["groups"] = groups_within(first.groups, room, data["notes"])
    data["tokens"] = token_pieces(first.folder, data["groups"], data["notes"])
    return data


def run_data(run: RunFiles) -> dict:
    """A run's settings, curves, measurements and diagnoses."""
    steps = [line["step"] for line in run.metrics]
    names = dict.fromkeys(name for line in run.metrics for name in line if name != "step")
    curves = {name: [rounded(line.get(name)) for line in run.metrics] for name in names}
    settings = {k: v for k, v in run.options.items() if k not in NOT_SETTINGS}
    return {"name": str(run.folder), "command": command(run.options),
            "key_settings": key_settings(run.options), "options": run.options,
            "setting": " ".join(f"{k}={v}" for k, v in sorted(settings.items())),
            "steps": steps, "curves": curves, "summary": run.summary,
            "measures": measures_of(run.summary),
            "diagnoses": [{"name": name, "step": step, "text": text}
                          for name, (step, text) in diagnoses(run).items()]}


def rounded(value):
    """A number with five significant digits, which a curve can show; anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def diagnoses(run: RunFiles) -> dict[str, tuple[int, str]]:
    """What diagnose.py says of the run: {rule: (first step, sentence)}."""
    return diagnose.diagnoses(diagnose.Run(run.options, run.metrics, run.groups))


def default_options(options: dict) -> dict:
    """The defaults of a run's algorithm and task, by name. Some depend on other options."""
    algo = options.get("algo") if options.get("algo") in ALGORITHMS else "grpo"
    usual = {f.name: f.default for f in fields(Options) if reads_group(algo, f.metadata["group"])}
    usual |= ALGORITHMS[algo][1]
    task = tasks.TASKS.get(options.get("task"))
    pretrained = bool(options.get("init"))
    tokens = task and (task.default_max_new_tokens or 64 * (options.get("level", 0) + 1))
    return usual | {"algo": "", "base_seed": options.get("seed"), "max_new_tokens": tokens,
                    "base_steps": task and task.base_steps, "eval_problems": 1000,
                    "prompt": "r1" if pretrained else "plain",
                    "lr": PRETRAINED_LR if pretrained else usual["lr"]}


def key_settings(options: dict) -> str:
    """The settings that matter most, each with its default where that is another."""
    usual, texts = default_options(options), []
    for name in KEY_SETTINGS:
        value, default = options.get(name), usual.get(name)
        if is_number(value):
            other = is_number(default) and default != value
            texts.append(f"{name.replace('_', ' ')} {value:g}"
                         + f" (default {default})" * other)
    return ", ".join(texts)


def command(options: dict) -> str:
    """The command that starts a run with these options: the flags that differ from the defaults.
    Options of other versions of the program are left out."""
    usual = default_options(options)
    shown = [name for name in usual if name in options and options[name] != usual[name]
             and name not in ("micro_tokens", "overlong_buffer", "dtype")]
    flags = []
    for name in shown:
        value = options[name]
        if isinstance(value, bool):
            flags.append(flag(name) if value else flag(f"no_{name}"))
        else:
            flags.append(f"{flag(name)} {shlex.quote(str(value))}")
    return " ".join(["python train.py", *flags])


# --- the size of the page

def size(value) -> int:
    """Bytes of a value in the page."""
    return len(html_page.escaped_json(value)) + 1


def without_tokens(group: dict) -> dict:
    """A group without what is stored for each token."""
    return group | {"responses": [{k: v for k, v in response.items() if k not in PER_TOKEN}
                                  for response in group["responses"]]}


def groups_within(groups: list[dict], room: int, notes: list[str]) -> list[dict]:
    """The groups that fit in `room` bytes, in their order. The most useful ones keep their numbers
    per token: of each step first the groups with both right and wrong answers that were not
    dropped."""
    room -= 100_000  # for the pieces of the tokens
    sizes = [size(group) for group in groups]
    if sum(sizes) <= room:
        return groups

    # rank in the step: every step keeps its first groups before any keeps its second
    def usefulness(group):
        rewards = {response.get("reward") for response in group["responses"]}
        return bool(group.get("dropped")), len(rewards) < 2

    ranks, seen = {}, {}
    for i in sorted(range(len(groups)), key=lambda i: (*usefulness(groups[i]), i)):
        seen[groups[i]["step"]] = ranks[i] = seen.get(groups[i]["step"], 0) + 1
    order = sorted(ranks, key=lambda i: (ranks[i], -groups[i]["step"]))
    # texts first, then numbers per token
    kept, light_sizes, cut = {}, {}, 0
    for i in order:
        light = without_tokens(groups[i])
        light_sizes[i] = size(light)
        if light_sizes[i] <= room:
            kept[i], room = light, room - light_sizes[i]
    for i in order:
        more = sizes[i] - light_sizes[i] if i in kept else 0
        if 0 < more <= room:
            kept[i], room = groups[i], room - more
        cut += more > 0 and kept[i] is not groups[i]
    if cut:
        notes.append(f"{cut} of {len(groups)} groups are shown without their numbers per token, "
                     "to keep this page small; samples.jsonl holds them")
    if len(kept) < len(groups):
        notes.append(f"{len(groups) - len(kept)} of {len(groups)} groups are not on this page, "
                     "to keep it small; samples.jsonl holds them")
    return [kept[i] for i in sorted(kept)]


def held_out_within(lines: list[dict], room: int, notes: list[str]) -> list[dict]:
    """The held-out answers of the first problems that fit in `room` bytes, as {"question",
    "answer", "answers": [{"step", "text", "correct"}]}."""
    problems = {}
    for line in lines:
        if isinstance(line.get("question"), str) and isinstance(line.get("text"), str):
            image = {"image": line["image"]} if "image" in line else {}
            problem = problems.setdefault((line["question"], *image.get("image", ())), {
                "question": line["question"], "answer": line.get("answer", ""), **image,
                "answers": []})
            problem["answers"].append({k: line.get(k) for k in ("step", "text", "correct")})
    kept = []
    for problem in problems.values():
        if (room := room - size(problem)) >= 0:
            kept.append(problem)
    if len(kept) < len(problems):
        notes.append(f"{len(problems) - len(kept)} held-out problems are not on this page, to keep "
                     "it small; samples.jsonl holds them")
    return kept


def token_pieces(folder: Path, groups: list[dict], notes: list[str]) -> dict:
    """{id: piece} of all tokens in the groups. A piece is a text, or a list of bytes where these
    are no whole characters. {} where the run's tokenizer cannot be read."""
    used = set()
    for response in (r for group in groups for r in group["responses"]):
        used.update(response.get("ids") or ())
        for others in response.get("alternatives") or ():
            used.update(token for token, _ in others or ())
    if not used:
        return {}
    try:
        tokenizer = Tokenizer.of_run(folder)
        return {str(token): piece(tokenizer.decode_bytes([token])) for token in sorted(used)}
    except (ValueError, OSError, KeyError) as error:
        notes.append(f"the tokens cannot be shown as text: {error}")
        return {}


def piece(text: bytes) -> str | list[int]:
    """The bytes of a token as text, or as a list of numbers where they are no UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return list(text)


# --- the command line

def write_report(folders: list[Path]) -> Path:
    """Writes report.html into the folder of the first run and returns its path. Raises UserError
    for a folder without a run, OSError where the disk is full."""
    path = Path(folders[0], "report.html")
    html_page.write_page(path, page_data([read_run(folder) for folder in folders]), SCRIPTS)
    return path


def main(argv=None) -> int:
    """The command line. Returns the exit code."""
    parser = arguments.Parser("report.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=arguments.path, metavar="RUN",
                        help="folder of a run; the page shows the rollouts of the first one")
    parser.add_argument("--text", action="store_true", help="print the essentials, write no page")
    return arguments.run(parser, argv, work)


def work(args) -> None:
    """Writes the page and prints its path, or prints the report of each run."""
    if not args.text:
        echo(write_report(args.runs))
        return
    for run in map(read_run, args.runs):
        text_report.show(run, command(run.options), key_settings(run.options), diagnoses(run))


if __name__ == "__main__":
    sys.exit(main())
