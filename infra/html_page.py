"""One HTML file that holds its style, its scripts and its data, and asks no network for anything.

The data may hold text of a model, which may hold anything: `</script>`, `<!--`, a line separator.
So the data are JSON inside a script element that no browser runs, with every character that HTML
could read written as an escape. The Content-Security-Policy names the hashes of the page's own
style and scripts: a browser runs nothing else, and loads nothing.
"""

import base64
import hashlib
import json
from pathlib import Path

from infra.files import atomic_write

FOLDER = Path(__file__).parent / "page"
UNSAFE = "<>&"  # in JSON they occur in strings alone
POLICY = ("default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; "
          "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'")


def escaped_json(data) -> str:
    """Data as JSON in ASCII that can stand inside a script element. Raises ValueError for a number
    that is not finite."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in UNSAFE:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def sha256_source(text: str) -> str:
    """The source expression of a Content-Security-Policy that allows this inline text alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render_page(data, scripts) -> str:
    """The page of the data. scripts: names of the files in infra/page/, in the order in which they
    run."""
    style = (FOLDER / "page.css").read_text()
    script = "\n".join((FOLDER / name).read_text() for name in scripts)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    policy = POLICY.format(script=sha256_source(script), style=sha256_source(style))
    page = (FOLDER / "page.html").read_text()
    for name, text in (("POLICY", policy), ("STYLE", style), ("SCRIPT", script),
                       ("DATA", escaped_json(data))):  # the data last: they may hold "{{SCRIPT}}"
        page = page.replace("{{" + name + "}}", text)
    return page


def write_page(path, data, scripts) -> None:
    """Writes the page in one step. Raises OSError where the disk is full."""
    content = render_page(data, scripts).encode()
    atomic_write(path, lambda file: file.write(content), len(content))
