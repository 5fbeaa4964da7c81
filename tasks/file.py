"""Task file: problems from a JSONL file, or from a public data set by name.

    python train.py --task file --data FILE.jsonl     each line {"question": ..., "answer": ...}
    python train.py --task file --data gsm8k          downloaded once, kept in data/

A downloaded file with another checksum is refused, because results on it could not be compared
with published ones. Left out on purpose: sets of many gigabytes, and data-set libraries.
"""

import hashlib
import json
import os
import re
import urllib.request
from pathlib import Path

from tqdm import tqdm

import verify
from tasks.base import Problem, Task, is_held_out

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
    mathematics as in MATH. Held out are the problems of eval_path, or else one in ten."""

    correct = staticmethod(verify.written_correct)
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
        problems = read_jsonl(path)
        if eval_path:
            self.eval = read_jsonl(eval_path)
            questions = {p.question for p in self.eval}
            self.train = [p for p in problems if p.question not in questions]
        else:
            self.eval = [p for p in problems if is_held_out(p)]
            self.train = [p for p in problems if not is_held_out(p)]
        if not self.train or not self.eval:
            raise ValueError(f"{path} has {len(self.train)} problems to train on and "
                             f"{len(self.eval)} held out; both are needed")

    def easier_task(self):
        return self

    def sample(self, rng, n, held_out=False):
        return rng.choices(self.eval if held_out else self.train, k=n)

    def held_out(self, n):
        return self.eval[:n]

    def all_problems(self):
        return self.train + self.eval


# --- files

def read_jsonl(path: str) -> list[Problem]:
    """The problems of a JSONL file. Raises ValueError that names the file, and the line that is
    wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or error
        raise ValueError(f"{path} cannot be read: {reason}") from None
    problems = [read_line(line, f"{path}, line {i}")
                for i, line in enumerate(lines, 1) if line.strip()]
    if not problems:
        raise ValueError(f"{path} is empty")
    return problems


def read_line(line: str, place: str) -> Problem:
    """The problem of one line, in the form of GSM8K or MATH. `place` names the line in errors."""
    try:
        row = json.loads(line)
        question = row["question"] if "question" in row else row["problem"]
        answer = row["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{place}: the line is not a JSON object with question and "
                         "answer") from None
    # the answer is a number, possibly after "####", or mathematics that the verifier can read
    gold = verify.gsm8k_gold(str(answer))
    checkable = gold is not None or (isinstance(answer, str) and "####" not in answer
                                     and verify.is_checkable(answer))
    if not isinstance(question, str) or not question.strip() or not checkable:
        raise ValueError(f"{place}: the question is empty, or the verifier cannot check the answer "
                         f"{str(answer)[-40:]!r}")
    solution = re.sub(r"<<.*?>>", "", str(answer).rpartition("####")[0]).strip()
    return Problem(question, answer if gold is None else str(gold), solution=solution)


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
            partial = path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(fetch(address, path.name))
            os.replace(partial, path)
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
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
            chunks = []
            while chunk := response.read(2**16):
                chunks.append(chunk)
                bar.update(len(chunk))
    content = b"".join(chunks)
    if size and len(content) != size:
        raise OSError(f"the connection ended after {len(content)} of {size} bytes")
    return content
