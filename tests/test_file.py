"""tasks/file.py: a public set is downloaded once and whole, and its checksum is verified."""

import hashlib
import io
import json
import urllib.error

import pytest

import tasks
from tasks import file

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
    monkeypatch.setattr(file, "FOLDER", tmp_path / "data")
    monkeypatch.setattr(file, "SETS", {"toy": tuple(
        (address, hashlib.sha256(body).hexdigest()) for address, body in content.items())})

    def urlopen(address, timeout):
        asked.append(address)
        return Answer(content[address], str(len(content[address])))
    monkeypatch.setattr(file.urllib.request, "urlopen", urlopen)
    return asked


def test_a_download_that_is_piped_draws_no_bar(net, capfd):
    file.download_set("toy")
    assert capfd.readouterr() == ("", "")


def test_a_set_is_downloaded_once(net):
    paths = file.download_set("toy")
    assert [open(p, "rb").read() for p in paths] == [TRAIN, TEST]
    assert file.download_set("toy") == paths and len(net) == 2
    assert sorted(p.name for p in file.FOLDER.iterdir()) == ["toy_test.jsonl", "toy_train.jsonl"]


def test_a_task_takes_a_set_by_name(net):
    task = tasks.File(path="toy")
    assert len(task.train) == len(task.eval) == 9 and task.eval[0].question == "test 0?"
    assert task.paths == file.download_set("toy")


def test_another_file_is_refused(net):
    file.FOLDER.mkdir()
    (file.FOLDER / "toy_train.jsonl").write_text("other")
    with pytest.raises(ValueError, match="not the file it should be"):
        file.download_set("toy")


def test_the_error_without_a_network_says_what_to_do(net, monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError("no route")
    monkeypatch.setattr(file.urllib.request, "urlopen", urlopen)
    with pytest.raises(ValueError, match="toy cannot be downloaded.*no route.*--data"):
        file.download_set("toy")
    assert not list(file.FOLDER.iterdir())


def test_an_incomplete_download_is_refused(net, monkeypatch):
    monkeypatch.setattr(file.urllib.request, "urlopen",
                        lambda *_, **__: Answer(TRAIN[:50], str(len(TRAIN))))
    with pytest.raises(ValueError, match="ended after 50 of"):
        file.download_set("toy")
    assert not list(file.FOLDER.iterdir())


def test_the_official_checksums(request):
    folder = request.config.rootpath.parent / "shared" / "data"
    if not folder.exists():
        pytest.skip("the official files are not here")
    for part, (_, digest) in zip(("train", "test"), file.SETS["gsm8k"], strict=True):
        content = (folder / f"gsm8k_{part}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
