"""Any OpenAI-compatible server: send a rendered prompt, take a JSON reply, keep what happened."""

from __future__ import annotations

import os
import time
from typing import Any

from .errors import UserError
from .exchange import Exchange
from .rendering import Templates

TIMEOUT_SECONDS = 60.0
RETRIES = 4  # on 429, 5xx and lost connections; the client waits as the server's Retry-After says
MOST_REPLY_TOKENS = 800


def key_present() -> bool:
    """Whether the environment has what it takes to ask an LLM: a key, or a server of one's own."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))


class Llm:
    """An `Ask`. The key comes from the environment and is kept nowhere else."""

    def __init__(self, name: str, templates: Templates) -> None:
        if not key_present():
            raise UserError(
                "No LLM can be asked: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your "
                "own, or use --labeler rules, which needs neither."
            )
        import openai

        self._name = name
        self._templates = templates
        self._client = openai.OpenAI(
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=TIMEOUT_SECONDS,
            max_retries=RETRIES,
        )
        self._structured = True  # until the server refuses a JSON schema

    @property
    def llm(self) -> str:
        return self._name

    def render(self, template: str, /, **variables: Any) -> str:
        return self._templates.render(template, **variables)

    def __call__(self, template: str, prompt: str, schema: dict[str, Any]) -> Exchange:
        import openai

        started = time.monotonic()

        def exchange(reply: str | None, error: str | None, usage: Any = None) -> Exchange:
            return Exchange(
                template=template,
                llm=self._name,
                prompt=prompt,
                reply=reply,
                error=error,
                tokens_in=getattr(usage, "prompt_tokens", None),
                tokens_out=getattr(usage, "completion_tokens", None),
                seconds=round(time.monotonic() - started, 3),
            )

        try:
            response = self._send(prompt, schema)
        except openai.OpenAIError as error:
            return exchange(None, self._without_key(f"{type(error).__name__}: {error}"))
        except ValueError as error:  # a reply that is no JSON at all
            return exchange(None, f"the server's reply cannot be read: {error}")
        choices, usage = getattr(response, "choices", None), getattr(response, "usage", None)
        if not choices or choices[0].message is None:
            return exchange(None, "the reply has no choices", usage)
        message = choices[0].message
        if getattr(message, "refusal", None):
            return exchange(message.refusal, "the LLM refused", usage)
        if choices[0].finish_reason == "length":
            return exchange(message.content, "the reply was cut off", usage)
        if not message.content:
            return exchange(None, "the reply is empty", usage)
        return exchange(message.content, None, usage)

    def _send(self, prompt: str, schema: dict[str, Any]) -> Any:
        import openai

        create: Any = self._client.chat.completions.create
        request: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_completion_tokens": MOST_REPLY_TOKENS,
        }
        if self._structured:
            answer = {"name": "answer", "strict": True, "schema": schema}
            form = {"type": "json_schema", "json_schema": answer}
            try:
                return create(**request, response_format=form)
            except openai.BadRequestError:  # perhaps the server knows no JSON schemas
                response = create(**request)
            self._structured = False
            return response
        return create(**request)

    def _without_key(self, text: str) -> str:
        key = os.environ.get("OPENAI_API_KEY")
        return text.replace(key, "[key]") if key else text
