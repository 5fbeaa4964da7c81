"""data.py: a set is downloaded once, whole, and is what it should be."""

import hashlib
import io
import json
import urllib.error

import pytest

import tasks
from tasks import files

TRAIN, TEST = (b"".join(json.dumps({"question": f"{name} {i}?", "answer": f"so #### {i}"}).encode()
                        + b"\n" for i in range(9)) for name in ("train", "test"))


class Answer(io.BytesIO):
    def __init__(self, content, size):
        super().__init__(content)
        self.headers = {"Content-Length": size}


@pytest.fixture
def net(monkeypatch, tmp_path):
    """A network that holds one set; returns the addresses asked for."""
    asked, content = [], {"http://a/train": TRAIN, "http://a/test": TEST}
    monkeypatch.setattr(files, "FOLDER", tmp_path / "data")
    monkeypatch.setattr(files, "SETS", {"toy": tuple(
        (address, hashlib.sha256(body).hexdigest()) for address, body in content.items())})

    def urlopen(address, timeout):
        asked.append(address)
        return Answer(content[address], str(len(content[address])))
    monkeypatch.setattr(files.urllib.request, "urlopen", urlopen)
    return asked


def test_a_set_is_downloaded_once(net):
    paths = files.get("toy")
    assert [open(p, "rb").read() for p in paths] == [TRAIN, TEST]
    assert files.get("toy") == paths and len(net) == 2
    assert sorted(p.name for p in files.FOLDER.iterdir()) == ["toy_test.jsonl", "toy_train.jsonl"]


def test_a_task_takes_a_set_by_name(net):
    task = tasks.File(path="toy")
    assert len(task.train) == len(task.eval) == 9 and task.eval[0].question == "test 0?"
    assert task.paths == files.get("toy")


def test_another_file_is_refused(net):
    files.FOLDER.mkdir()
    (files.FOLDER / "toy_train.jsonl").write_text("other")
    with pytest.raises(ValueError, match="not the file it should be"):
        files.get("toy")


def test_without_a_network_it_says_what_to_do(net, monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError("no route")
    monkeypatch.setattr(files.urllib.request, "urlopen", urlopen)
    with pytest.raises(ValueError, match="toy cannot be downloaded.*no route.*--data"):
        files.get("toy")
    assert not list(files.FOLDER.iterdir())


def test_half_a_download_is_none(net, monkeypatch):
    monkeypatch.setattr(files.urllib.request, "urlopen",
                        lambda *_, **__: Answer(TRAIN[:50], str(len(TRAIN))))
    with pytest.raises(ValueError, match="ended after 50 of"):
        files.get("toy")
    assert not list(files.FOLDER.iterdir())


def test_the_official_checksums(request):
    folder = request.config.rootpath.parent / "shared" / "data"
    if not folder.exists():
        pytest.skip("the official files are not here")
    for part, (_, digest) in zip(("train", "test"), files.SETS["gsm8k"], strict=True):
        content = (folder / f"gsm8k_{part}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
