"""What asking an LLM costs: tokens, and a table of prices that anyone can edit."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..ids import canonical_json
from .exchange import Exchange, Request

BUILT_IN = Path(__file__).with_name("prices.toml")
VARIABLE = "ACDC_EXPLAIN_PRICES"
CHARACTERS_PER_TOKEN = 3.0  # of our prompts, much of which is numbers
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def estimated_tokens(text: str) -> int:
    """About how many tokens a prompt has, whatever the LLM's tokenizer.

    By its bytes: letters beyond ASCII take more tokens.
    """
    return math.ceil(len(text.encode("utf-8", "replace")) / CHARACTERS_PER_TOKEN)


def tokens_in(request: Request) -> int:
    """About how many tokens are sent: the prompt, and the schema that goes with it."""
    return estimated_tokens(request.prompt) + estimated_tokens(canonical_json(request.schema))


@dataclass(frozen=True)
class Prices:
    """USD per million tokens, in and out, by the LLM's name; `batch` is the share paid there."""

    models: Mapping[str, tuple[float, float]]
    batch: float

    def cost(
        self, llm: str, tokens_in: int, tokens_out: int, *, batch: bool = False
    ) -> float | None:
        """In USD; None where the table does not have the LLM."""
        price = self.models.get(llm, self.models.get(_DATED.sub("", llm)))
        if price is None:
            return None
        share = self.batch if batch else 1.0
        return share * (tokens_in * price[0] + tokens_out * price[1]) / 1e6

    def priced(self, exchange: Exchange, *, batch: bool = False) -> Exchange:
        """The exchange with what it cost, if tokens are counted and the LLM's price is known."""
        if exchange.tokens_in is None or exchange.tokens_out is None:
            return exchange
        counted = exchange.tokens_in, exchange.tokens_out
        return replace(exchange, cost_usd=self.cost(exchange.llm, *counted, batch=batch))

    def bill(self, request: Request, exchange: Exchange) -> float:
        """In USD, what must be taken to have been paid: estimated where it was not counted."""
        if exchange.cost_usd is not None:
            return exchange.cost_usd
        said = request.most_tokens if exchange.reply is None else estimated_tokens(exchange.reply)
        sent = tokens_in(request) if exchange.tokens_in is None else exchange.tokens_in
        received = said if exchange.tokens_out is None else exchange.tokens_out
        return self.cost(exchange.llm, sent, received) or 0.0

    @staticmethod
    def read(file: str | Path | None = None) -> Prices:
        """The built-in table under a user's: `file`, or ACDC_EXPLAIN_PRICES. Raises UserError."""
        own = file or os.environ.get(VARIABLE)
        models, batch = _table(BUILT_IN)
        if own:
            more, batch = _table(Path(own), batch)
            models = {**models, **more}
        return Prices(models, batch)


def _table(file: Path, batch: float = 0.5) -> tuple[dict[str, tuple[float, float]], float]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        models = {
            name: (float(entry["input"]), float(entry["output"]))
            for name, entry in document.get("models", {}).items()
        }
        share = float(document.get("batch", batch))
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; `prices=` takes a file."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is no table of prices ({type(error).__name__}: {error}); it has sections like "
            '[models."gpt-4.1-mini"] with input and output in USD per million tokens.'
        ) from error
    if not all(0 <= price < math.inf for pair in models.values() for price in (*pair, share)):
        raise UserError(f"{file} has a price that is negative or no number.")
    return models, share
