"""infra/arguments.py: flags are refused by name, failures are one sentence, and every command uses
it. What each command sets before torch is loaded."""

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evaluate
import prm
import sample
import search
import verify
from infra import arguments, openmp, verdicts

ROOT = Path(__file__).parents[1]
COMMANDS = {"sample.py": (sample, ["--run", "x", "1+1=?"]), "search.py": (search, ["--run", "x"]),
            "prm.py": (prm, ["--run", "x"])}
LOADS_TORCH = ("train.py", "sample.py", "search.py", "prm.py")


@pytest.mark.parametrize("read, text, value", [
    (arguments.integer(), "-3", -3), (arguments.integer(1), "1", 1),
    (arguments.number(), "1e-45", 1e-45), (arguments.number(above=0, most=1), "1", 1.0),
    (arguments.temperature, "0", 0.0), (arguments.temperature, "1e-4", 1e-4),
    (arguments.path, " a b", " a b")])
def test_right_values_are_read(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize("read, text", [
    *((arguments.integer(), text) for text in ("", "1.0", "x", "9" * 20, "-" + "9" * 20,
                                               "9" * 5000, "inf")),
    (arguments.integer(1), "0"), (arguments.integer(1, 5), "6"),
    *((arguments.number(), text) for text in ("", "x", "inf", "-inf", "nan", "1e400")),
    (arguments.number(above=0), "0"), (arguments.number(most=1), "1.1"),
    *((arguments.temperature, text) for text in ("-1", "1e-45", "9e-5", "inf", "nan")),
    (arguments.path, ""), (arguments.path, " ")])
def test_other_values_are_refused_by_the_name_of_the_flag(read, text, capsys):
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)
    parser = arguments.Parser("some.py")
    parser.add_argument("--flag", type=read)
    for argv in (["--flag=" + text], ["--flag=--"]):
        assert arguments.run(parser, argv, print) == 2
        said = capsys.readouterr().err
        assert said.startswith("some.py: argument --flag: ") and said.count("\n") == 1
        assert len(said) < 800


@pytest.mark.parametrize("error, code, said", [
    (ValueError("a\nb \x1b[2J"), 2, "some.py: a b \\x1b[2J"),
    (FileNotFoundError(errno.ENOENT, "No such file", "f\x1b"), 2, "some.py: f\\x1b: No such file"),
    (UnicodeEncodeError("ascii", "\ud800", 0, 1, "no"), 2, None),
    (FloatingPointError("diverged"), 1, "some.py: diverged"),
    (MemoryError(), 1, "some.py: there is not enough memory (MemoryError)"),
    (RuntimeError("CUDA out of memory. Tried"), 1, None),
    (KeyboardInterrupt(), 130, "\nstopped"), (ValueError("é" * 9999), 2, None)])
def test_a_failure_is_one_sentence(error, code, said, capsys):
    def work(args):
        raise error
    assert arguments.run(arguments.Parser("some.py"), [], work) == code
    err = capsys.readouterr().err
    assert said is None or err == said + "\n"
    assert err.count("\n") <= 2 and len(err) < 800


def test_a_reader_of_the_output_may_end_first():
    code = ("from infra import arguments; import sys; sys.exit(arguments.run(arguments.Parser('x'),"
            " [], lambda args: print('x' * 10**7)))")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


def test_a_fault_of_the_program_keeps_its_traceback():
    def work(args):
        raise RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        arguments.run(arguments.Parser("some.py"), [], work)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_is_no_text_is_refused(command, capsys):
    module, argv = COMMANDS[command]
    for value in ("a\0b", "\ud800"):
        assert module.main([*argv, "--run", value]) == 2
        assert "no file name" in capsys.readouterr().err
    assert module.main([*argv, "--run", os.fsdecode(b"\xff")]) == 2  # bytes of a file's name
    assert "has no checkpoint.pt" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_and_a_lack_of_memory_end_a_command_without_a_traceback(command, monkeypatch,
                                                                      capsys):
    for error, code in ((KeyboardInterrupt(), 130), (MemoryError(), 1), (ValueError("no"), 2)):
        def load_run(run, error=error):
            raise error
        monkeypatch.setattr(evaluate, "load_run", load_run)
        module, argv = COMMANDS[command]
        assert module.main(argv) == code
        assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_ends_verify_without_a_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(verdicts, "print_verdicts", interrupted)
    monkeypatch.setattr(verdicts, "measure", interrupted)
    for argv in (["x.jsonl"], ["--stats"]):
        assert verify.main(argv) == 130
        assert capsys.readouterr().err == "\nstopped\n"


@pytest.mark.parametrize("command", LOADS_TORCH)
@pytest.mark.parametrize("flag", ["--seed", "--temperature", "--top-p", "--lr", "--n", "--epochs"])
def test_no_number_may_be_infinite(command, flag):
    """Of each command that has the flag."""
    module = __import__(command.removesuffix(".py"))
    for value in ("inf", "nan", "1e400", "9" * 20):
        try:
            code = module.main(["--run", "x", f"{flag}={value}"])
        except SystemExit as error:
            code = error.code
        assert code == 2


# --- the environment of each command

def first_import(path: Path) -> str:
    return re.search(r"^(?:import|from) (\S+)", path.read_text(), re.M)[1]


@pytest.mark.parametrize("command", LOADS_TORCH)
def test_threads_are_told_how_to_wait_before_torch_is_loaded(command):
    assert first_import(ROOT / command) == "infra.openmp"


def test_verify_loads_no_torch():
    code = "import sys, verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("command, given, wanted", [
    ("sample.py", {}, openmp.SPINS),
    ("train.py", {"RANK": "0", "WORLD_SIZE": "1"}, openmp.SPINS),  # of torchrun
    ("train.py", {"OMP_WAIT_POLICY": "passive"}, None),
    ("search.py", {"GOMP_SPINCOUNT": "9"}, "9")])
def test_the_environment_in_which_a_command_loads_torch(command, given, wanted, tmp_path):
    """A stand-in for torch prints the environment that a real one would read."""
    (tmp_path / "torch.py").write_text(
        "import os, sys\nprint(repr(os.environ.get('GOMP_SPINCOUNT')))\nsys.exit(0)\n")
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    code = (f"import sys, runpy; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
            f"runpy.run_path({str(ROOT / command)!r}, run_name='__main__')")
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment | given,
                           capture_output=True, text=True)
    assert found.stdout.strip() == repr(wanted), found.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_while_torch_is_loaded_prints_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint(1, flush=True)\ntime.sleep(60)\n")
    code = (f"import sys, signal; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
            "signal.signal(signal.SIGINT, signal.default_int_handler); import sample")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "\nstopped\n" and process.returncode == -signal.SIGINT
