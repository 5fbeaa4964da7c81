"""infra/terminal.py: text from outside cannot break the terminal or the program."""

import io

import pytest

from infra import terminal


@pytest.mark.parametrize("text, shown", [
    ("a\tb\nc é 数 😀", "a\tb\nc é 数 😀"), ("\x1b[2J\r", "\\x1b[2J\\r"),
    ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ("\u202e\u200b\ufeff", "\\u202e\\u200b\\ufeff"), ("\ud83d", "\\ud83d")])
def test_hidden_characters_are_shown_as_escapes(text, shown):
    assert terminal.visible(text) == shown


@pytest.mark.parametrize("encoding, shown", [
    ("utf-8", "é \\ud800\n"), ("ascii", "\\xe9 \\ud800\n")])
def test_echo_writes_in_any_encoding(encoding, shown):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    terminal.echo("é", "\ud800", file=file, flush=True)
    assert file.buffer.getvalue().decode(encoding) == shown


def test_a_quote_is_one_short_line():
    assert terminal.quote("a\nb\x1b") == "'a\\nb\\x1b'"
    assert len(terminal.quote("x" * 10**6)) < 210
