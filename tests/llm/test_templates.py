"""Which files are templates, and that none can do harm or run without end."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from acdc_explain.errors import UserError
from acdc_explain.llm.templates import Templates

PROMPTS = Path(__file__).parent.parent.parent / "prompts"


def test_only_templates_decide_the_digest(tmp_path):
    """What an installation, an editor or a desktop leaves beside them does not."""
    shutil.copytree(PROMPTS, tmp_path / "p", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    before = Templates([tmp_path / "p"]).digest
    for name in ("__pycache__/x.pyc", ".DS_Store", "._describe.j2", ".git/x.j2", "evidence/x.png",
                 "describe.j2~", "__init__.py", "NOTES"):  # fmt: skip
        file = tmp_path / "p" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"\xa7\x00\xff")
    (tmp_path / "p" / ".#describe.j2").symlink_to("nowhere")
    assert Templates([tmp_path / "p"]).digest == before == Templates([PROMPTS]).digest
    (tmp_path / "p" / "describe.j2").write_text("other")
    assert Templates([tmp_path / "p"]).digest != before


@pytest.mark.parametrize("make", ["binary", "dangling", "folder"])
def test_a_template_that_cannot_be_read_is_named(make, tmp_path):
    file = tmp_path / "own.j2"
    if make == "binary":
        file.write_bytes(b"\xff\xfe")
    elif make == "dangling":
        file.symlink_to("nowhere")
    else:
        file.mkdir()
        assert Templates([tmp_path]).digest == Templates([]).digest
        return
    with pytest.raises(UserError, match="template own.j2 .*(UTF-8|cannot be read)"):
        _ = Templates([tmp_path]).digest
    with pytest.raises(UserError, match="template own.j2"):
        Templates([tmp_path]).render("own")


HARMFUL = {
    "line\n{{ 1 / 0 }}": "line 2: ZeroDivisionError",
    '{{ "x" * 10**11 }}': "line 1: it needs more memory",
    "\n\n{{ 'x' | center(10 ** 11) }}": "line 3: it needs more memory",
    "{{ '{:>99999999999}'.format(1) }}": "line 1: it needs more memory",
    "{{ (range(9999) | list) * 99999 }}": "line 1: it needs more memory",
    "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}":
        "line 1: it writes more than 1,000,000 characters",
    "\n{% for i in range(9999) %}{% for j in range(9999) %}{% set x = 1 %}{% endfor %}{% endfor %}":
        "line 2: it takes too long",
    "{{ lipsum(n=10 ** 8) }}": "line 1: it (takes too long|needs more memory)",
    "{{ 3 ** (10 ** 8) }}": "it takes (too long|longer than)",
    "{% include 't.j2' %}": "line 1: RecursionError",
    "{% include 'none.j2' %}": "line 1: there is no template none.j2",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "line 1: RecursionError",
    "a\n{% for %}": "line 2: Expected",
    "\n{{ 1 + 'a' }}": "line 2: TypeError",
    "{{ x.__class__.__mro__ }}": "unsafe",
}  # fmt: skip


@pytest.mark.slow_after(3)
@pytest.mark.parametrize("text", HARMFUL)
def test_harm_is_one_sentence_that_names_the_line(text, tmp_path, monkeypatch):
    """And the next template is rendered as if nothing had happened."""
    monkeypatch.setattr("acdc_explain.llm.templates.SECONDS", 1.0)
    (tmp_path / "t.j2").write_text(text)
    (tmp_path / "good.j2").write_text("Hello {{ name | json }}")
    templates, started = Templates([tmp_path]), time.monotonic()
    with pytest.raises(UserError, match=f"^The template t.j2.*{HARMFUL[text]}.*; fix it.$") as said:
        templates.render("t", x=1)
    assert "\n" not in str(said.value)
    assert time.monotonic() - started < 10
    assert templates.render("good", name="<b>é") == 'Hello "\\u003cb>é"'


def test_data_with_half_characters_becomes_text_that_can_be_sent(tmp_path):
    (tmp_path / "t.j2").write_text("{{ x }}")
    assert Templates([tmp_path]).render("t", x="a\ud800b") == "a?b"


def test_the_process_ends_with_the_templates(tmp_path):
    (tmp_path / "t.j2").write_text("x")
    templates = Templates([tmp_path])
    templates.render("t")
    process = templates._process
    assert process is not None
    assert process.poll() is None
    del templates
    assert process.poll() is not None
