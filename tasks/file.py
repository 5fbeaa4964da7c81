"""Task file: problems from a JSONL file, or from a public data set by name.

    python train.py --task file --data FILE.jsonl     each line {"question": ..., "answer": ...}
    python train.py --task file --data gsm8k          downloaded once, kept in data/

tasks/rows.py reads the rows, under the field names of several libraries. A downloaded file with
another checksum is refused, because results on it could not be compared with published ones. Left
out on purpose: sets of many gigabytes, and data-set libraries.
"""

import hashlib
import urllib.request
from pathlib import Path

from tqdm import tqdm

import verify
from infra import files
from tasks.base import Task, is_held_out
from tasks.countdown import Countdown
from tasks.rows import read_rows

FOLDER = Path(__file__).parents[1] / "data"
GSM8K = ("https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/"
         "{}.jsonl")
SETS = {  # name -> (address, SHA-256) of the training problems, and of the held-out problems
    "gsm8k": ((GSM8K.format("train"),
               "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
              (GSM8K.format("test"),
               "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14")),
}


class File(Task):
    """The answer of a problem is a number, a text that ends in GSM8K's `#### number`, or
    mathematics as in MATH; that of a Countdown row is an expression. Held out are the problems of
    eval_path, or else one in ten. `notes` say what was left out, `left_out` counts the rows."""

    min_base_pass16 = 0.0   # a tiny model solves almost no problem of GSM8K
    default_max_new_tokens = 256

    def __init__(self, level: int = 2, path: str = "", eval_path: str = ""):
        """Raises ValueError for files that cannot be read, and where one side has no problems."""
        super().__init__(level)
        if not path:
            raise ValueError("--task file needs --data PATH, a JSONL file of question and answer, "
                             f"or one of {', '.join(SETS)}")
        if path in SETS:
            path, test_path = download_set(path)
            eval_path = eval_path or test_path
        self.paths = [p for p in (path, eval_path) if p]
        # 1. read the files
        files = [read_rows(p) for p in self.paths]
        self.left_out = sum(rows.left_out for rows in files)
        self.notes = [note for rows in files for note in rows.notes]
        # 2. the two sides, of which training loses the questions that both have
        problems = files[0].problems
        if eval_path:
            self.eval = files[1].problems
            held_out = {p.identity for p in self.eval}
            self.train = [p for p in problems if p.identity not in held_out]
            if both := len(problems) - len(self.train):
                self.notes.append(f"{path}: left out {both} of {len(problems)} problems, because "
                                  f"their questions are held out in {eval_path}")
        else:
            self.eval = [p for p in problems if is_held_out(p)]
            self.train = [p for p in problems if not is_held_out(p)]
        if not self.train or not self.eval:
            raise ValueError("; ".join([
                f"{path} has {len(self.train)} problems to train on and {len(self.eval)} held out; "
                "both are needed", *self.notes]))

    def leave_out(self, misfit) -> None:
        """Leaves out the problems for which misfit(problem) is a sentence, not "". Raises
        ValueError where one side has no others."""
        found = {p.identity: said for p in self.all_problems() if (said := misfit(p))}
        if not found:
            return
        self.train, self.eval = ([p for p in side if p.identity not in found]
                                 for side in (self.train, self.eval))
        self.left_out += len(found)
        self.notes.append(f"{self.paths[0]}: left out {len(found)} problems that do not fit the "
                          f"model, such as {next(iter(found.values()))}")
        if not self.train or not self.eval:
            raise ValueError(self.notes[-1])

    @staticmethod
    def correct(problem, text: str) -> bool:
        """Whether the answer is right, by the verifier of Countdown or by that of written answers.
        """
        verifier = Countdown.correct if problem.numbers else verify.written_correct
        return verifier(problem, text)

    def easier_task(self):
        return self

    def sample(self, rng, n, held_out=False):
        return rng.choices(self.eval if held_out else self.train, k=n)

    def held_out(self, n):
        return self.eval[:n]

    def all_problems(self):
        return self.train + self.eval

    def write_solution(self, rng, problem, style, wrong, drill=False):
        task = Countdown if problem.numbers else Task
        return task.write_solution(self, rng, problem, style, wrong, drill)


# --- public data sets

def download_set(name: str) -> list[str]:
    """The paths of the training and the test file of a set; missing files are downloaded. Raises
    ValueError without a network, and for a file with another checksum."""
    return [str(download_part(name, part, address, digest))
            for part, (address, digest) in zip(("train", "test"), SETS[name], strict=True)]


def download_part(name: str, part: str, address: str, digest: str) -> Path:
    """The path of one file of a set, whole and with the right checksum."""
    path = FOLDER / f"{name}_{part}.jsonl"
    if not path.exists():
        try:
            FOLDER.mkdir(exist_ok=True)
            content = fetch(address, path.name)
            files.atomic_write(path, lambda file: file.write(content), len(content))
        except OSError as error:  # URLError, time-outs and full disks are among them
            raise ValueError(
                f"{name} cannot be downloaded ({error}): fetch {address} by other means and put it "
                f"at {path}, or name your own files by --data and --eval-data") from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(f"{path} is not the file it should be (SHA-256 {found}, not {digest}): "
                         "delete it to download it again")
    return path


def fetch(address: str, name: str) -> bytes:
    """The bytes at an address, with a progress bar. Raises OSError."""
    with urllib.request.urlopen(address, timeout=30) as response:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            chunks = []
            while chunk := response.read(2**16):
                chunks.append(chunk)
                bar.update(len(chunk))
    content = b"".join(chunks)
    if size and len(content) != size:
        raise OSError(f"the connection ended after {len(content)} of {size} bytes")
    return content
