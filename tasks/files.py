"""Files of questions and answers; and public sets by name, downloaded once, with a checksum, and
kept in `data/`.

    python train.py --task file --data gsm8k ...

A set that has another checksum than the one here is not used: figures on it would compare with
nobody's. Left out on purpose: sets of many gigabytes, and anything that needs a data-set library.
"""

import hashlib
import json
import os
import re
import urllib.request
from pathlib import Path

from tqdm import tqdm

import verify

FOLDER = Path(__file__).parent / "data"
GSM8K = ("https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/"
         "{}.jsonl")
SETS = {  # name -> (address, SHA-256) of the problems to train on and of the held-out ones
    "gsm8k": ((GSM8K.format("train"),
               "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
              (GSM8K.format("test"),
               "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14")),
}


def get(name: str) -> list[str]:
    """The paths of a set's files, downloaded where they are not there. Raises ValueError that says
    what to do where there is no network, or for a file with another checksum."""
    return [str(one(name, part, *what))
            for part, what in zip(("train", "test"), SETS[name], strict=True)]


def one(name: str, part: str, address: str, digest: str) -> Path:
    path = FOLDER / f"{name}_{part}.jsonl"
    if not path.exists():
        try:
            FOLDER.mkdir(exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(download(address, path.name))
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


def download(address: str, name: str) -> bytes:
    """The bytes at an address, with a progress bar. Raises OSError."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
            chunks = []
            while chunk := answer.read(2**16):
                chunks.append(chunk)
                bar.update(len(chunk))
    content = b"".join(chunks)
    if size and len(content) != size:
        raise OSError(f"the connection ended after {len(content)} of {size} bytes")
    return content


def rows(path: str) -> list[tuple[str, str, str]]:
    """Question, answer and solution ("" where there is none) of each line of a JSONL file, in the
    form of GSM8K or MATH. Raises ValueError that names the file, and the line of a bad one."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "") or error
        raise ValueError(f"{path} cannot be read: {why}") from None
    found = []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question = row["question"] if "question" in row else row["problem"]
            answer = row["answer"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path}, line {i}: not a JSON object with question and "
                             "answer") from None
        gold = verify.gsm8k_gold(str(answer))
        checked = gold is not None or (isinstance(answer, str) and "####" not in answer
                                       and verify.understood(answer))
        if not isinstance(question, str) or not question.strip() or not checked:
            raise ValueError(f"{path}, line {i}: the question is empty, or the answer "
                             f"{str(answer)[-40:]!r} is none that can be checked")
        solution = re.sub(r"<<.*?>>", "", str(answer).rpartition("####")[0]).strip()
        found.append((question, answer if gold is None else str(gold), solution))
    if not found:
        raise ValueError(f"{path} is empty")
    return found
