"""The generator that asks Claude on Amazon Bedrock, within a budget.

One call of the Converse API asks for a batch of messages of one intent and takes them as the input of a tool, so that
they come as JSON by a schema. Whatever does not come in that form is thrown away, never mended. What a call costs is
reckoned from the tokens that Bedrock reports; before each call its highest possible cost is held against what is left.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

import pyarrow as pa

from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.lib.messages.augmentation.generator import GeneratedMessage
from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.augmentation.recipes import slices_of
from mangaassist_assets.lib.messages.normalising import is_well_formed, normalise

PROMPT: Final = (
    "Generate a customer message to a manga store chatbot with intent={intent}. Use casual language, manga terminology, and "
    "occasionally include Japanese words.\n\n"
    "Write {count} such messages, each by another customer with a concrete situation, and record them all with the tool "
    "{tool}. Vary length, tone and wording. Write each as it would be typed into the chat, without names, addresses or numbers "
    "of real people. These customers had the same intent:\n{examples}"
)
TOOL: Final = "record_messages"
RECIPE: Final = "claude_prompt"
TOOL_CONFIG: Final = {
    "tools": [
        {
            "toolSpec": {
                "name": TOOL,
                "description": "Records the customer messages.",
                "inputSchema": {
                    "json": {
                        "type": "object",
                        "properties": {"messages": {"type": "array", "items": {"type": "string"}}},
                        "required": ["messages"],
                    }
                },
            }
        }
    ],
    "toolChoice": {"tool": {"name": TOOL}},
}
# What Anthropic adds to a request with tools, rounded up: https://docs.claude.com, "Tool use", pricing.
TOOL_OVERHEAD_TOKENS = 1000
BUSY: Final = (
    "throttlingexception",
    "serviceunavailableexception",
    "internalserverexception",
    "modelnotreadyexception",
    "modelerrorexception",
)
TIMED_OUT: Final = ("modeltimeoutexception",)

Stop = Literal["count", "budget", "busy"]


@dataclass(frozen=True)
class BedrockSettings:
    """What to ask, and what it may cost.

    Attributes:
        budget_usd: never exceeded, all calls of one generate together.
        model_id: model or inference profile.
        region: of the endpoint; None takes the one that AWS is configured with.
        usd_per_1k_input_tokens, usd_per_1k_output_tokens: the model's price.
        batch: messages to ask for in one call.
        examples: labelled messages that a prompt shows.
        max_tokens: longest answer.
        attempts: tries of one call that Bedrock is too busy for.
        first_wait_s, longest_wait_s: bounds of the wait before another try; it doubles, and a random share of it is waited.
        timeout_s: longest wait for one answer.
        max_chars: longest message that is taken.
    """

    budget_usd: float
    model_id: str = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
    region: str | None = None
    usd_per_1k_input_tokens: float = 0.001
    usd_per_1k_output_tokens: float = 0.005
    batch: int = 20
    examples: int = 6
    max_tokens: int = 2048
    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    timeout_s: float = 120.0
    max_chars: int = 600

    def __post_init__(self) -> None:
        at_least_zero = ("budget_usd", "usd_per_1k_input_tokens", "usd_per_1k_output_tokens", "first_wait_s", "longest_wait_s")
        at_least_one = ("batch", "examples", "max_tokens", "attempts", "timeout_s", "max_chars")
        for name in (*at_least_zero, *at_least_one):
            value, low = getattr(self, name), int(name in at_least_one)
            if not (math.isfinite(value) and value >= low):
                where = f"messages.bedrock.{name}"
                raise BadInput(f"{value} is below {low} or not finite", where=where, remedy="Correct it in mangaassist.toml.")


@dataclass
class BedrockReport:
    """What one generate did: calls that answered, further tries, items thrown away, money, and why it ended."""

    calls: int = 0
    retries: int = 0
    malformed: int = 0
    spent_usd: float = 0.0
    stopped: Stop = "count"


class BedrockGenerator:
    """Claude's messages for each intent in turn. Their label is what was asked for: a claim, to be reviewed.

    Args:
        settings: model, prices, budget.
        lexicon: tells the slices of what comes.
        client: a `bedrock-runtime` client; None makes one of boto3 at the first call.
        sleep: waits, in seconds.
    """

    name = "bedrock"

    def __init__(
        self, settings: BedrockSettings, lexicon: Lexicon, *, client: Any = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.settings, self.lexicon = settings, lexicon
        self.report = BedrockReport()
        self._client, self._sleep = client, sleep

    def generate(self, parents: pa.Table, *, count: int, seed: int) -> list[GeneratedMessage]:
        """Up to `count` messages; fewer where the budget ends, or where Bedrock stays too busy.

        The first example that a prompt shows is the parent of the messages it gave. The seed decides on examples and waits;
        Claude's answers are not reproducible. `report` tells what was done.

        Raises:
            Unavailable: no credentials, no region, no access, no such model; or nothing came because Bedrock was too busy.
        """
        rng = Random(f"bedrock {seed}")
        self.report = BedrockReport()
        rows = sorted(parents.select(["message_id", "text", "intent"]).to_pylist(), key=lambda row: str(row["message_id"]))
        by_intent: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            by_intent.setdefault(row["intent"], []).append(row)
        intents = sorted(by_intent)
        wanted = {intent: count // len(intents) + (n < count % len(intents)) for n, intent in enumerate(intents)}
        calls_left = {intent: 2 * math.ceil(wanted[intent] / self.settings.batch) for intent in intents}
        messages: list[GeneratedMessage] = []
        while turns := [intent for intent in intents if wanted[intent] > 0 and calls_left[intent] > 0]:
            for intent in turns:
                calls_left[intent] -= 1
                examples = rng.sample(by_intent[intent], k=min(self.settings.examples, len(by_intent[intent])))
                ask = min(self.settings.batch, wanted[intent])
                response = self._call(self._request(intent, ask, examples), rng)
                if response is None:
                    if self.report.stopped == "busy" and not messages:
                        raise Unavailable(
                            f"Bedrock, {self.settings.model_id}: too busy after {self.settings.attempts} tries. Try again later."
                        )
                    return messages
                texts = self._texts(response)[:ask]
                cost = self._cost(response["usage"]["inputTokens"], response["usage"]["outputTokens"])
                messages += [self._message(text, intent, examples[0]["message_id"], cost / len(texts)) for text in texts]
                wanted[intent] -= len(texts)
        return messages

    # ── one call ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _request(self, intent: str, count: int, examples: Sequence[dict[str, str]]) -> dict[str, Any]:
        shown = "\n".join(f"- {json.dumps(row['text'], ensure_ascii=False)}" for row in examples)
        prompt = PROMPT.format(intent=intent, count=count, tool=TOOL, examples=shown)
        return {
            "modelId": self.settings.model_id,
            "messages": [{"role": "user", "content": [{"text": prompt}]}],
            "inferenceConfig": {"maxTokens": self.settings.max_tokens},
            "toolConfig": TOOL_CONFIG,
        }

    def _call(self, request: dict[str, Any], rng: Random) -> dict[str, Any] | None:
        """An answer, or None where the budget does not allow another try or Bedrock stays too busy.

        A try that timed out may have been charged, so it counts with its highest possible cost.
        """
        from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

        highest = self._highest_cost(request)
        for attempt in range(self.settings.attempts):
            if self.report.spent_usd + highest > self.settings.budget_usd:
                self.report.stopped = "budget"
                return None
            if attempt:
                self.report.retries += 1
                wait = min(self.settings.longest_wait_s, self.settings.first_wait_s * 2 ** (attempt - 1))
                self._sleep(rng.uniform(0, wait))
            try:
                response: dict[str, Any] = self._bedrock().converse(**request)
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code.lower() in TIMED_OUT:
                    self.report.spent_usd += highest
                elif code.lower() not in BUSY:
                    reason = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
                    raise Unavailable(f"Bedrock, {self.settings.model_id}: {code}. {reason}") from error
                continue
            except ReadTimeoutError:
                self.report.spent_usd += highest
                continue
            except BotoCoreError as error:
                raise Unavailable(f"Bedrock, {self.settings.model_id}: {' '.join(str(error).split())}") from error
            self.report.calls += 1
            self.report.spent_usd += self._cost(response["usage"]["inputTokens"], response["usage"]["outputTokens"])
            return response
        self.report.stopped = "busy"
        return None

    def _bedrock(self) -> Any:
        """The client; without tries of its own, since each has to be reckoned here."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(retries={"total_max_attempts": 1}, read_timeout=self.settings.timeout_s)
            self._client = boto3.client("bedrock-runtime", region_name=self.settings.region, config=config)
        return self._client

    # ── money ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars."""
        return (input_tokens * self.settings.usd_per_1k_input_tokens + output_tokens * self.settings.usd_per_1k_output_tokens) / 1000

    def _highest_cost(self, request: dict[str, Any]) -> float:
        """US dollars that a call cannot exceed: no token is shorter than a byte, no answer longer than maxTokens."""
        sent = {key: value for key, value in request.items() if key != "modelId"}
        return self._cost(len(json.dumps(sent, ensure_ascii=False).encode()) + TOOL_OVERHEAD_TOKENS, self.settings.max_tokens)

    # ── what came ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _texts(self, response: dict[str, Any]) -> list[str]:
        """The messages of a well-formed answer; the others are counted as malformed."""
        content = response["output"].get("message", {}).get("content", [])
        uses = [block["toolUse"] for block in content if "toolUse" in block]
        given = uses[0]["input"] if response["stopReason"] == "tool_use" and len(uses) == 1 and uses[0]["name"] == TOOL else None
        listed = given.get("messages") if isinstance(given, dict) and set(given) == {"messages"} else None
        if not isinstance(listed, list):
            self.report.malformed += 1
            return []
        taken = [
            text
            for text in listed
            if isinstance(text, str) and is_well_formed(text) and 0 < len(normalise(text)) <= self.settings.max_chars
        ]
        self.report.malformed += len(listed) - len(taken)
        return taken

    def _message(self, text: str, intent: str, parent_id: str, cost_usd: float) -> GeneratedMessage:
        text = normalise(text)
        return GeneratedMessage(text, intent, None, tuple(slices_of(text, self.lexicon)), parent_id, None, RECIPE, cost_usd)
