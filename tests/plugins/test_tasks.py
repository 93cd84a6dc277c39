"""The built-in tasks, on tokenizers that group digits in different ways."""

from __future__ import annotations

import re

import pytest

from acdc_explain.errors import UserError
from acdc_explain.plugins import load_plugins
from acdc_explain.records.task import Example, Task, check_examples

OF_ONE_MODEL = ("planted_", "tracr_")  # they have tests together with their models
TASKS = sorted(name for name in load_plugins().tasks() if not name.startswith(OF_ONE_MODEL))


class LetterTokenizer:
    """Words with the space before them, and digits in groups of `width` from the left."""

    unknown = None

    def __init__(self, width: int = 1) -> None:
        self.pattern = re.compile(rf" ?[A-Za-z]+|\d{{1,{width}}}|.", re.S)

    def pieces(self, text: str) -> list[str]:
        return self.pattern.findall(text)

    def piece(self, token_id: int) -> str:
        raise IndexError(token_id)


def build(name: str, tokenizer=None, examples: int = 8, seed: int = 0) -> Task:
    tokenizer = tokenizer or LetterTokenizer()
    task = load_plugins().tasks()[name](tokenizer, examples=examples, seed=seed)
    return check_examples(task, tokenizer)


def test_there_are_four_tasks():
    assert TASKS == ["gendered_pronoun", "greater_than", "induction", "ioi"]


@pytest.mark.parametrize("name", TASKS)
class TestEveryTask:
    def test_size_splits_and_description(self, name):
        task = build(name, examples=8)
        assert (len(task.discover), len(task.held_out)) == (8, 16)
        assert task.name == name
        assert len(task.description) > 30

    def test_the_seed_decides_the_examples(self, name):
        assert build(name).id == build(name).id
        assert build(name).id != build(name, seed=1).id

    def test_named_positions_lie_in_the_prompt_and_end_with_the_last_token(self, name):
        task = build(name)
        for example in task.discover + task.held_out:
            pieces = LetterTokenizer().pieces(example.clean)
            assert len(example.positions) >= 2
            assert example.positions["END"] == len(pieces) - 1

    def test_corruptions_differ_and_keep_the_clean_prompts(self, name):
        task = build(name)
        assert len(task.schemes) >= 1  # besides the corruption in each example
        for scheme in task.schemes:
            other = task.under(scheme)
            check_examples(other, LetterTokenizer())
            assert [e.clean for e in other.discover] == [e.clean for e in task.discover]
            assert all(a.corrupt != b.corrupt for a, b in zip(other.held_out, task.held_out))
        for example in task.discover + task.held_out:
            assert example.clean != example.corrupt

    def test_an_unsuitable_tokenizer_is_refused(self, name):
        class Letters(LetterTokenizer):
            def pieces(self, text: str) -> list[str]:
                return [*text[:-3], text[-3:]]

        with pytest.raises(UserError, match="Task '"):
            build(name, Letters())


def test_ioi_has_both_orders_and_other_names_and_templates_when_held_out():
    task = build("ioi", examples=16)
    orders = [e.positions["IO"] < e.positions["S1"] for e in task.discover]
    assert orders.count(True) == orders.count(False) == 8
    names = [{word for e in part for word in e.answers + e.foils}
             for part in (task.discover, task.held_out)]  # fmt: skip
    assert not names[0] & names[1]

    def skeletons(examples: tuple[Example, ...]) -> set[str]:
        return {re.sub(r" [A-Z]\w+", " N", e.clean).split(" the")[0] for e in examples}

    assert not skeletons(task.discover) & skeletons(task.held_out)


def test_ioi_positions_name_the_tokens():
    for example in build("ioi").discover:
        pieces = LetterTokenizer().pieces(example.clean)
        named = {name: pieces[place] for name, place in example.positions.items()}
        assert named["IO"] == example.answers[0]
        assert named["S1"] == named["S2"] == example.foils[0]


def test_the_induction_answer_followed_the_first_occurrence_of_the_last_word():
    for example in build("induction").discover:
        words = LetterTokenizer().pieces(example.clean)
        first = words.index(words[-1])
        assert words[first + 1] == example.answers[0]
        assert first == example.positions["A1"]
        corrupt = LetterTokenizer().pieces(example.corrupt)
        assert corrupt.index(corrupt[-1]) == len(corrupt) - 1  # no earlier occurrence
        assert words[-1] == corrupt[-1]


@pytest.mark.parametrize(("width", "answers"), [(1, 10), (2, 100)])
def test_greater_than_answers_are_the_later_years(width, answers):
    task = build("greater_than", LetterTokenizer(width))
    for example in task.discover:
        year = int(re.findall(r"\d{4}", example.clean)[0]) % 100
        start = year // 10 if width == 1 else year
        assert {int(word) for word in example.answers} == set(range(start + 1, answers))
        assert {int(word) for word in example.foils} == set(range(start))


def test_pronoun_answers_agree_with_the_name():
    from acdc_explain_plugins.tasks.words import FEMALE

    for example in build("gendered_pronoun").discover:
        pieces = LetterTokenizer().pieces(example.clean)
        female = pieces[example.positions["NAME"]].strip() in FEMALE
        assert example.answers == (" she" if female else " he",)


def test_splits_must_not_overlap():
    example = Example("a", "b", (" c",), ())
    with pytest.raises(ValueError, match="is in discover and in held_out"):
        Task("t", "", "nll", (example,), (example,))
