"""What an LLM costs: numbers of tokens, and a table of prices that users can extend."""

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
CHARACTERS_PER_TOKEN = 3.0  # in our prompts, which are largely numbers
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def estimated_tokens(text: str) -> int:
    """An estimate of a text's number of tokens, whatever the LLM's tokenizer.

    It counts bytes, because letters beyond ASCII take more tokens.
    """
    return math.ceil(len(text.encode("utf-8", "replace")) / CHARACTERS_PER_TOKEN)


def tokens_in(request: Request) -> int:
    """An estimate of the number of tokens that are sent: those of the prompt and of the schema."""
    return estimated_tokens(request.prompt) + estimated_tokens(canonical_json(request.schema))


@dataclass(frozen=True)
class Prices:
    """Prices in USD per million tokens.

    `models` has a pair (input, output) for each LLM. `batch` is the share of the price that is
    paid for batch files.
    """

    models: Mapping[str, tuple[float, float]]
    batch: float

    def cost(
        self, llm: str, tokens_in: int, tokens_out: int, *, batch: bool = False
    ) -> float | None:
        """The cost in USD; None if the table does not have the LLM."""
        price = self.models.get(llm, self.models.get(_DATED.sub("", llm)))
        if price is None:
            return None
        share = self.batch if batch else 1.0
        return share * (tokens_in * price[0] + tokens_out * price[1]) / 1e6

    def with_cost(self, exchange: Exchange, *, batch: bool = False) -> Exchange:
        """The exchange with its cost, if the server counted tokens and the price is known."""
        if exchange.tokens_in is None or exchange.tokens_out is None:
            return exchange
        tokens = exchange.tokens_in, exchange.tokens_out
        return replace(exchange, cost_usd=self.cost(exchange.llm, *tokens, batch=batch))

    def charge(self, request: Request, exchange: Exchange) -> float:
        """What an exchange counts against the budget, in USD.

        Tokens that the server did not count are estimated; a lost reply counts as the longest
        one allowed.
        """
        if exchange.cost_usd is not None:
            return exchange.cost_usd
        sent, received = exchange.tokens_in, exchange.tokens_out
        if sent is None:
            sent = tokens_in(request)
        if received is None and exchange.reply is None:
            received = request.most_tokens
        elif received is None:
            received = estimated_tokens(exchange.reply or "")
        return self.cost(exchange.llm, sent, received) or 0.0

    @staticmethod
    def read(file: str | Path | None = None) -> Prices:
        """The built-in table, extended by the user's.

        Args:
            file: The user's table; by default the one that ACDC_EXPLAIN_PRICES names, if any.

        Raises:
            UserError: if the user's table cannot be read.
        """
        user_file = file or os.environ.get(VARIABLE)
        models, batch = _read_table(BUILT_IN)
        if user_file:
            user_models, batch = _read_table(Path(user_file), batch)
            models = {**models, **user_models}
        return Prices(models, batch)


def _read_table(file: Path, batch: float = 0.5) -> tuple[dict[str, tuple[float, float]], float]:
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
