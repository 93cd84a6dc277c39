"""Everyday words that most tokenizers keep whole, and helpers that build prompts from them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter

from acdc_explain.records.task import Tokenizer

FEMALE = tuple(
    "Mary Sarah Emily Anna Laura Emma Alice Kate Jane Susan Lisa Helen Julia Linda Karen Amy "
    "Rachel Rebecca Lucy Grace Claire Martha Diana Elizabeth Victoria Margaret Jennifer Jessica "
    "Michelle Nancy Maria Barbara Amanda Samantha Olivia Ellen Eva Carol".split()
)
MALE = tuple(
    "John Tom James David Peter Paul Michael Robert William Richard Daniel George Henry Jack Adam "
    "Brian Kevin Steven Andrew Simon Martin Scott Eric Joseph Thomas Charles Edward Matthew "
    "Anthony Jason Ryan Patrick Frank Carl Alan Ben Sam Luke".split()
)
PLACES = tuple(
    "store park school office garden market beach station hospital library restaurant museum "
    "house farm church hotel river bank zoo shop theater party kitchen bakery".split()
)
OBJECTS = tuple(
    "drink ring book ball gift letter flower card hat key bag coin pen map toy box snack watch "
    "lamp cup camera ticket bottle necklace".split()
)
EVENTS = tuple("war trip project conflict program plan strike tour".split())
NOUNS = tuple(
    "apple stone cloud table window chair horse bread sugar silver winter summer morning music "
    "paper garden bridge castle forest desert island ocean valley village engine metal glass "
    "cotton butter pepper salt coffee milk orange lemon grape potato rice wheat corn wool leather "
    "wood iron gold copper steel rock sand dust snow rain wind storm thunder fire smoke light "
    "shadow mirror clock phone radio screen board wall floor roof door gate fence road street "
    "train plane ship boat truck wagon wheel rope chain knife fork spoon plate bowl basket barrel "
    "bucket brush hammer needle button pocket shirt dress jacket shoe boot glove scarf blanket "
    "pillow candle torch flag drum bell piano guitar violin flute tiger lion bear wolf rabbit "
    "mouse eagle duck goose chicken sheep goat cow pig snake spider ant bee whale shark".split()
)


def whole_words(tokenizer: Tokenizer, words: Iterable[str]) -> list[str]:
    """Those of `words` that are one token after a space; returned with that space."""
    spaced = dict.fromkeys(f" {word}" for word in words)
    pieces = {word: tokenizer.pieces(word) for word in spaced}
    return [w for w, cut in pieces.items() if len(cut) == 1 and cut[0] != tokenizer.unknown]


def fill(
    tokenizer: Tokenizer, template: str, words: Mapping[str, str]
) -> tuple[str, dict[str, int]]:
    """Fill the `{NAME}` slots of a template; find the last token of each slot and of the prompt.

    Positions count the prompt's own tokens from 0 (no beginning-of-sequence token).
    """
    text, positions = "", {}
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal
        if slot is not None:
            text += words[slot]
            positions[slot] = len(tokenizer.pieces(text)) - 1
    positions["END"] = len(tokenizer.pieces(text)) - 1
    return text, positions


def after(words: Sequence[str], word: str) -> str:
    """The word after one of several, the first after the last: another one, drawn by no chance."""
    return words[(words.index(word) + 1) % len(words)]


def halves(rng: random.Random, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two random halves: one to discover on, one to hold out."""
    shuffled = rng.sample(list(words), len(words))
    middle = len(shuffled) // 2
    return shuffled[:middle], shuffled[middle:]
