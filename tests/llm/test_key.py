"""The API key is masked in texts, and masking breaks no JSON."""

from __future__ import annotations

import json

import pytest

from acdc_explain.errors import UserError
from acdc_explain.llm.client import Llm, key_present
from acdc_explain.llm.exchange import Exchange, Request
from acdc_explain.llm.key import SHORTEST_SECRET, api_key, without_key
from acdc_explain.llm.reply import exchange_of_batch

KEY = "sk-Very/secret-1234567890"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")


def escaped(text: str, form: str = "\\u{:04x}") -> str:
    return "".join(form.format(ord(character)) for character in text)


def reply(content: object) -> Exchange:
    message = {"message": {"content": content}, "finish_reason": "stop"}
    return exchange_of_batch(Request("t", "llm", "?", {}), {"choices": [message]})


@pytest.mark.parametrize("key", ["x", "none", "s", ",", '"', "x" * (SHORTEST_SECRET - 1)])
def test_a_short_key_is_no_secret(key, monkeypatch):
    """Private servers accept any text as a key; masking it would spoil replies."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = json.dumps({"role": "mixed exits, none", "positions": ["x" * 15]})
    assert without_key(said) == said == reply(said).reply


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        escaped(KEY),
        escaped(KEY, "\\u{:04X}"),
        KEY[:9] + escaped(KEY[9:]),
        KEY.replace("/", "\\/"),
    ],
)
def test_a_reply_stays_json_without_the_key(written):
    said = f'{{"description": "It is {written}, \\"so\\" \\\\ {written}.", "{written}": [1, "{written}"]}}'
    json.loads(said)
    kept = reply(said).reply
    assert kept is not None
    assert json.loads(kept) == {
        "description": 'It is [key], "so" \\ [key].',
        "[key]": [1, "[key]"],
    }
    fenced = reply(f"My key is {KEY}.\n```json\n{said}\n```\n{escaped(KEY)}").reply
    assert fenced == f"My key is [key].\n```json\n{kept}\n```\n[key]"


def test_twice_escaped_is_once_escaped_in_the_text():
    said = json.dumps({"a": f"say {escaped(KEY)}"})
    assert json.loads(reply(said).reply or "") == {"a": "say [key]"}


@pytest.mark.parametrize("said", ["", "no json", '{"a": 1', '{"a": "b"}', "</think>", "\\u00"])
def test_a_text_without_the_key_stays_as_it_is(said):
    assert without_key(said) == said


def test_white_space_around_the_key_is_not_part_of_it(monkeypatch):
    assert api_key() == KEY
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    assert not key_present()


@pytest.mark.parametrize("key", ["sk-häßlich-0123456789", "sk-line\nsk-other", "sk and more"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY has a character that no key has") as said:
        Llm()
    assert key not in str(said.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://[::1", "http://", "ftp://x/v1", "http://x:y/v1"]
)
def test_a_wrong_address_is_refused(url, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UserError, match="OPENAI_BASE_URL is .* which is no address"):
        Llm()
