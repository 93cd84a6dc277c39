"""Tasks from files: what is read, and that every mistake is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acdc_explain.errors import UserError
from acdc_explain.pipeline.inputs.prompt_file import read_prompts


class Words:
    """A tokenizer of whole words; token 7 is ' x7'."""

    unknown = " ???"

    def pieces(self, text: str) -> list[str]:
        return [f" {word}" if word != "zzz" else self.unknown for word in text.split()]

    def piece(self, token_id: int) -> str:
        if not 0 <= token_id < 100:
            raise IndexError(token_id)
        return f" x{token_id}"


GOOD = {"clean": "a b c", "corrupt": "a d c", "answers": [" y"], "foils": [" n"]}


def lines(*entries: object) -> str:
    return "\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries)


def read(tmp_path: Path, text: str, suffix: str = ".jsonl", most: int | None = None):
    file = tmp_path / f"prompts{suffix}"
    file.write_text(text, encoding="utf-8")
    return read_prompts(file, "mine", Words(), most)


def entry(word: str, **changes: object) -> dict[str, object]:
    return {**GOOD, "clean": f"{word} b c", **changes}


def test_every_second_line_is_held_out(tmp_path):
    task = read(tmp_path, lines(*(entry(word) for word in "pqrst")))
    assert [e.clean[0] for e in task.discover] == ["p", "r", "t"]
    assert [e.clean[0] for e in task.held_out] == ["q", "s"]
    assert task.name == "mine"
    assert task.metric == "logit_diff"


def test_split_field_and_positions(tmp_path):
    task = read(
        tmp_path,
        lines(
            entry("p", split="held_out", positions={"S": 1}),
            "",
            entry("q", split="discover", positions={"S": 1}),
        ),
    )
    assert task.discover[0].clean == "q b c"
    assert task.held_out[0].positions == {"S": 1}


def test_without_foils_the_metric_is_nll(tmp_path):
    task = read(tmp_path, lines(entry("p", foils=[]), entry("q", foils=[])))
    assert task.metric == "nll"


def test_most(tmp_path):
    task = read(tmp_path, lines(*(entry(word) for word in "pqrstu")), most=2)
    assert (len(task.discover), len(task.held_out)) == (2, 2)


def test_csv_of_eap_ig(tmp_path):
    text = 'clean,corrupted,correct_idx,incorrect_idx\na b,c d,7,8\n"e, b",g h,"[1, 2]",3\n'
    task = read(tmp_path, text, ".csv")
    assert task.discover[0].answers == (" x7",)
    assert task.held_out[0].clean == "e, b"
    assert task.held_out[0].answers == (" x1", " x2")


def test_json_of_auto_circuit(tmp_path):
    prompts = [
        {"clean": "a b", "corrupt": "c d", "answers": [" y"], "wrong_answers": [" n"]},
        {"clean": "e f", "corrupt": "c d", "answers": [" y"], "wrong_answers": [" n"]},
    ]
    document = {"seq_labels": ["x", "y"], "word_idxs": {"end": 1}, "prompts": prompts}
    task = read(tmp_path, json.dumps(document, indent=1), ".json")
    assert task.discover[0].foils == (" n",)
    assert task.held_out[0].positions == {"end": 1}


@pytest.mark.parametrize(
    ("suffix", "text", "complaint"),
    [
        (".jsonl", "", "is empty"),
        (".jsonl", " \n\n", "is empty"),
        (".jsonl", lines(entry("p")), "no held_out example"),
        (".jsonl", lines(entry("p"), "{oops"), "line 2 is no JSON"),
        (".jsonl", lines(entry("p"), "[1]"), "line 2 holds no object"),
        (".jsonl", lines(entry("p"), entry("q", clean=3)), "line 2: 'clean' must be a text"),
        (".jsonl", lines(entry("p"), entry("q", corrupt="a b")), "line 2: the clean prompt has 3 tokens and the corrupted one 2"),
        (".jsonl", lines(entry("p"), entry("q", answers=[" two words"])), "line 2: the answer ' two words' is 2 tokens"),
        (".jsonl", lines(entry("p"), entry("q", foils=[" two words"])), "line 2: the foil"),
        (".jsonl", lines(entry("p"), entry("q", answers=[])), "line 2: there is no answer"),
        (".jsonl", lines(entry("p"), entry("q", corrupt="q b c")), "line 2: the corrupted prompt is the clean one"),
        (".jsonl", lines(entry("p"), entry("q", positions={f"P{n}": 1 for n in range(51)})), "line 2: 51 positions have names; 50 are the most"),
        (".jsonl", lines(entry("p"), entry("q", answers=[" n"])), "line 2: ' n' is both"),
        (".jsonl", lines(entry("p"), entry("q", answers=[1])), "line 2: 'answers' must be a list"),
        (".jsonl", lines(entry("p"), entry("q", positions={"S": 3})), "line 2: position 'S' is 3, but the prompt has 3 tokens"),
        (".jsonl", lines(entry("p"), entry("q", positions={"S": "1"})), "line 2: 'positions' must map"),
        (".jsonl", lines(entry("p"), entry("q", split="test")), "line 2: split is 'test'"),
        (".jsonl", lines(entry("p"), entry("q", answer=" y")), "line 2 has the unknown field 'answer'"),
        (".jsonl", lines(entry("p"), entry("p")), "line 2: the clean prompt is that of"),
        (".jsonl", lines(entry("p"), entry("q", clean="", corrupt="")), "line 2: the clean prompt is empty"),
        (".jsonl", lines(entry("p"), entry("zzz")), "line 2: 'zzz b c' has words that this model does not know"),
        (".jsonl", lines(entry("p"), entry("q", answers=[" zzz"])), "line 2: ' zzz' has words"),
        (".jsonl", lines(entry("p"), entry("\ud800")), "line 2: '\\ud800 b c' holds half a character"),
        (".jsonl", lines(entry("p"), '{"clean": ' + "9" * 5000 + "}"), "line 2"),
        (".jsonl", "[" * 100_000, "is no JSON"),
        (".csv", 'clean,corrupted,correct_idx,incorrect_idx\n"' + "x" * 200_000 + '",b,1,2\n', "cannot be read as CSV"),
        (".json", '{"name": "prompts", "note": [1], "prompts": [3, 4]}', "prompt 1"),
        (".csv", "clean,corrupted,correct_idx\n", "line 1: the column 'incorrect_idx' is missing"),
        (".csv", "clean,corrupted,correct_idx,incorrect_idx\na,b,1,2\na,b,x,2\n", "line 3: correct_idx is 'x'"),
        (".csv", "clean,corrupted,correct_idx,incorrect_idx\na,b,100,2\n", "line 2: correct_idx is 100, which is no token"),
        (".csv", "clean,corrupted,correct_idx,incorrect_idx\na,b\n", "line 2 has fewer columns"),
        (".json", "{}", "has no list 'prompts'"),
        (".json", '{"prompts": [\n{"clean": "a", "corrupt": "b", "answers": [" y"]},\n3]}', "line 3 (prompt 2) is no object"),
        (".json", "nonsense", "is no JSON"),
        (".txt", "a", "prompts are read from .jsonl, .csv"),
    ],
)  # fmt: skip
def test_mistakes_name_the_line(tmp_path, suffix, text, complaint):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, suffix)
    assert complaint in str(caught.value)
    assert f"prompts{suffix}" in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        read_prompts(tmp_path / "none.jsonl", "mine", Words())


def test_not_utf8(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompts(tmp_path / "p.jsonl", "mine", Words())
