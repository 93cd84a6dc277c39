"""A task from a file of prompts: JSONL, the CSV of EAP-IG, or the JSON of auto-circuit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ...errors import UserError
from ...ids import plain
from ...records.task import Example, Split, Task, Tokenizer, check_example

FIELDS = ("clean", "corrupt", "answers", "foils", "positions", "variables")
"""What an example of a JSONL file may have, besides its split."""
VARIABLE = "variable:"  # begins the name of a CSV column with the prompts of a variable

Entry = tuple[str, Example, Split | None]
"""Where it stands in the file ("prompts.jsonl, line 3"), the example, and its split if given."""


def read_prompts(
    path: str | Path, name: str, tokenizer: Tokenizer, most: int | None = None
) -> Task:
    """The task in a file, every example checked against the tokenizer.

    Without a `split` every second example is held out. `most` keeps so many of each split.
    Raises UserError naming the file and line.
    """
    file = Path(path)
    text = _text(file)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".json": _auto_circuit}
    if file.suffix not in readers:
        raise UserError(
            f"{file}: prompts are read from .jsonl, .csv (EAP-IG) and .json (auto-circuit) files."
        )
    if not text.strip():
        raise UserError(f"{file} is empty; write at least two examples, one a line.")
    splits: dict[Split, list[Example]] = {"discover": [], "held_out": []}
    first_uses: dict[str, tuple[str, Split]] = {}
    for number, (where, example, named_split) in enumerate(
        readers[file.suffix](file, text, tokenizer)
    ):
        check_example(example, tokenizer, where)
        split: Split = named_split or ("held_out" if number % 2 else "discover")
        first, other = first_uses.setdefault(example.clean, (where, split))
        if other != split:
            raise UserError(
                f"{where}: the clean prompt is that of {first}, which is in the other split; "
                "verdicts need prompts that discovery has not seen, so remove one of them."
            )
        splits[split].append(example)
    for split, examples in splits.items():
        if not examples:
            raise UserError(
                f"{file} has no {split} example; give at least one to discover on and one held out."
            )
    return Task(
        name=name,
        description=f"The model continues the prompts of {name} with their answers.",
        metric="logit_diff" if all(e.foils for part in splits.values() for e in part) else "nll",
        discover=tuple(splits["discover"][:most]),
        held_out=tuple(splits["held_out"][:most]),
    )


def write_prompts(task: Task) -> str:
    """The task's prompts as JSONL, from which `read_prompts` makes the same task.

    Raises UserError for a task with other corruptions, which such a file cannot hold.
    """
    if task.schemes:
        raise UserError(
            f"Task {task.name!r} has other corruptions ({', '.join(task.schemes)}), which a file "
            "of prompts cannot hold; `acdc-explain run` draws its prompts from the seed."
        )
    lines = [
        json.dumps({**plain(example), "split": split}, ensure_ascii=False)
        for split, examples in (("discover", task.discover), ("held_out", task.held_out))
        for example in examples
    ]
    return "\n".join(lines) + "\n"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no file {file}; `prompts=` takes the path of one.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error


def _jsonl(file: Path, text: str, tokenizer: Tokenizer) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON ({error}); write one object a line.") from error
        if not isinstance(entry, dict):
            raise UserError(f"{where} holds no object; write {{'clean': ..., 'corrupt': ...}}.")
        unknown = set(entry) - {*FIELDS, "split"}
        if unknown:
            raise UserError(
                f"{where} has the unknown field {min(unknown)!r}; there are "
                f"{', '.join(FIELDS)} and split."
            )
        split = entry.get("split")
        if split not in (None, "discover", "held_out"):
            raise UserError(f"{where}: split is {split!r}; it is 'discover' or 'held_out'.")
        yield where, _example(where, entry, entry.get("positions", {})), split


def _example(where: str, entry: Mapping[str, Any], positions: Any) -> Example:
    for key in ("clean", "corrupt"):
        if not isinstance(entry.get(key), str):
            raise UserError(f"{where}: {key!r} must be a text; it is {entry.get(key)!r:.80}.")
    lists: dict[str, tuple[str, ...]] = {}
    for key in ("answers", "foils"):
        value = entry.get(key, [])
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{where}: {key!r} must be a list of texts; it is {value!r:.80}.")
        lists[key] = tuple(words)
    if not isinstance(positions, dict) or not all(
        isinstance(place, int) and not isinstance(place, bool) for place in positions.values()
    ):
        raise UserError(f"{where}: 'positions' must map names to token numbers.")
    variables = entry.get("variables", {})
    if not isinstance(variables, dict) or not all(isinstance(x, str) for x in variables.values()):
        raise UserError(f"{where}: 'variables' must map names to prompts.")
    prompts = entry["clean"], entry["corrupt"]
    return Example(*prompts, lists["answers"], lists["foils"], positions, variables)


def _csv(file: Path, text: str, tokenizer: Tokenizer) -> Iterator[Entry]:
    """Columns clean, corrupted, correct_idx, incorrect_idx: token ids, or JSON lists of them.

    A column `variable:NAME` has the prompts in which only NAME differs.
    """
    rows = csv.DictReader(io.StringIO(text))
    columns = {"clean", "corrupted", "correct_idx", "incorrect_idx"}
    missing = columns - set(rows.fieldnames or ())
    if missing:
        raise UserError(
            f"{file}, line 1: the column {min(missing)!r} is missing; EAP-IG's files have "
            "clean,corrupted,correct_idx,incorrect_idx."
        )
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{file}, line {rows.line_num + 1} cannot be read as CSV: {error}."
            ) from error
        where = f"{file}, line {rows.line_num}"
        if any(row[column] is None for column in columns):
            raise UserError(f"{where} has fewer columns than the first line; fill them in.")
        words = {
            key: [_piece(where, column, value, tokenizer) for value in _ids(where, column, row)]
            for key, column in (("answers", "correct_idx"), ("foils", "incorrect_idx"))
        }
        variables = {
            column.removeprefix(VARIABLE): prompt
            for column, prompt in row.items()
            if column is not None and column.startswith(VARIABLE)
        }
        entry = {"clean": row["clean"], "corrupt": row["corrupted"], "variables": variables}
        entry |= words
        yield where, _example(where, entry, {}), None


def _ids(where: str, column: str, row: Mapping[str, str]) -> list[int]:
    try:
        value = json.loads(row[column])
    except (ValueError, RecursionError):
        value = None
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise UserError(f"{where}: {column} is {row[column]!r:.80}; it must be a token's number.")
    return cast(list[int], ids)


def _piece(where: str, column: str, token_id: int, tokenizer: Tokenizer) -> str:
    try:
        return tokenizer.piece(token_id)
    except (IndexError, OverflowError):
        raise UserError(
            f"{where}: {column} is {token_id}, which is no token of this model; the file was "
            "made for another tokenizer."
        ) from None


def _auto_circuit(file: Path, text: str, tokenizer: Tokenizer) -> Iterator[Entry]:
    """An object with `prompts`: clean, corrupt, answers, wrong_answers; and `word_idxs`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON ({error}).") from error
    prompts = document.get("prompts") if isinstance(document, dict) else None
    if not isinstance(prompts, list) or not prompts:
        raise UserError(f"{file} has no list 'prompts'; auto-circuit's files have one.")
    positions = document.get("word_idxs") or {}
    lines = _lines_of_entries(text, len(prompts))
    for number, entry in enumerate(prompts, start=1):
        where = f"{file}, " + (
            f"line {lines[number - 1]} (prompt {number})" if lines else f"prompt {number}"
        )
        if not isinstance(entry, dict):
            raise UserError(f"{where} is no object; write {{'clean': ..., 'corrupt': ...}}.")
        example = {**entry, "foils": entry.get("wrong_answers", [])}
        yield where, _example(where, example, positions), None


def _lines_of_entries(text: str, count: int) -> list[int]:
    """The line on which each entry of `prompts` begins; none where the file hides them."""
    decoder, lines = json.JSONDecoder(), []
    try:
        place = text.index("[", text.rindex('"prompts"')) + 1
        for _ in range(count):
            while text[place] in " \t\r\n,":
                place += 1
            lines.append(text.count("\n", 0, place) + 1)
            _, place = decoder.raw_decode(text, place)
    except (ValueError, IndexError):
        return []
    return lines
