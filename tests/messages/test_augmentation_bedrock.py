import contextlib
import json
from collections import Counter

import boto3
import pytest
from botocore.exceptions import NoCredentialsError, ReadTimeoutError
from botocore.stub import ANY, Stubber
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.lib.messages.augmentation.bedrock import TOOL, BedrockGenerator, BedrockSettings
from mangaassist_assets.lib.messages.augmentation.generator import AugmentationSettings, augment

INTENTS = 10  # of the sample


@pytest.fixture
def client():
    return boto3.client("bedrock-runtime", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")


@pytest.fixture
def bedrock(client):
    with Stubber(client) as stubber:
        yield stubber


def answer(messages, *, tokens=(400, 300), stop="tool_use", name=TOOL, extra=()):
    """A response of the Converse API with one use of a tool, and the text that models like to put before it."""
    use = {
        "toolUse": {
            "toolUseId": "tooluse_kZJMlvQmRJ6eAyJE5GIl7Q",
            "name": name,
            "input": messages if isinstance(messages, dict) else {"messages": messages},
        }
    }
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": "Here they are."}, use, *extra]}},
        "stopReason": stop,
        "usage": {"inputTokens": tokens[0], "outputTokens": tokens[1], "totalTokens": sum(tokens)},
        "metrics": {"latencyMs": 1840},
    }


def made_by(client, lexicon, *, sleep=lambda seconds: None, **changed):
    return BedrockGenerator(BedrockSettings(**{"budget_usd": 1.0, "batch": 5} | changed), lexicon, client=client, sleep=sleep)


def one_intent(labelled_with):
    return labelled_with(only="faq")


def test_the_request_is_the_prompt_with_the_intent_examples_and_a_forced_tool(bedrock, client, lexicon, labelled_with):
    seen = {}
    bedrock.add_response(
        "converse",
        answer(["do u ship to malta"]),
        {"modelId": ANY, "messages": ANY, "inferenceConfig": {"maxTokens": 2048}, "toolConfig": ANY},
    )
    client.meta.events.register("provide-client-params.bedrock-runtime.Converse", lambda params, **_: seen.update(params))
    made_by(client, lexicon, model_id="some.model").generate(one_intent(labelled_with), count=1, seed=1)
    prompt = seen["messages"][0]["content"][0]["text"]
    assert prompt.startswith(
        "Generate a customer message to a manga store chatbot with intent=faq. Use casual language, manga terminology, and "
        "occasionally include Japanese words."
    )
    assert "送料はいくらですか?" in prompt and "Do you ship to Norway" in prompt
    assert seen["modelId"] == "some.model"
    assert seen["toolConfig"]["toolChoice"] == {"tool": {"name": TOOL}}


def test_each_intent_gets_its_share_in_turns_and_rows_share_the_cost_of_their_call(bedrock, client, lexicon, labelled_with):
    for n in range(INTENTS):
        bedrock.add_response("converse", answer([f"message {n} of berserk {k} 返品 📦" for k in range(5)], tokens=(1000, 200)))
    generator = made_by(client, lexicon)
    made = generator.generate(labelled_with(), count=50, seed=1)
    assert set(Counter(message.intent for message in made).values()) == {5}
    assert all(message.cost_usd == pytest.approx((1000 * 0.001 + 200 * 0.005) / 1000 / 5) for message in made)
    assert sum(message.cost_usd for message in made) == pytest.approx(generator.report.spent_usd)
    assert made[0].slices == ("manga_term", "japanese_mixed", "emoji")
    parents = {row["message_id"]: row["intent"] for row in labelled_with().to_pylist()}
    assert all(parents[message.parent_id] == message.intent and message.recipe == "claude_prompt" for message in made)
    assert (generator.report.calls, generator.report.retries, generator.report.stopped) == (INTENTS, 0, "count")


def test_a_short_batch_is_asked_for_again_but_not_for_ever(bedrock, client, lexicon, labelled_with):
    bedrock.add_response("converse", answer(["one", "two"]))
    bedrock.add_response("converse", answer(["three"]))
    generator = made_by(client, lexicon)
    made = generator.generate(one_intent(labelled_with), count=5, seed=1)
    assert [message.text for message in made] == ["one", "two", "three"]
    bedrock.assert_no_pending_responses()


def test_more_than_was_asked_for_is_left(bedrock, client, lexicon, labelled_with):
    bedrock.add_response("converse", answer([f"number {n}" for n in range(9)]))
    assert len(made_by(client, lexicon).generate(one_intent(labelled_with), count=3, seed=1)) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        answer({"messages": "one, two"}),
        answer({"texts": ["one"]}),
        answer({"messages": ["one"], "note": "x"}),
        answer(["one"], stop="max_tokens"),
        answer(["one"], stop="end_turn"),
        answer(["one"], name="another_tool"),
        answer(["one"], extra=[{"toolUse": {"toolUseId": "second", "name": TOOL, "input": {"messages": ["two"]}}}]),
        answer([]) | {"output": {"message": {"role": "assistant", "content": [{"text": '["one", "two"]'}]}}},
    ],
    ids=["text for list", "other key", "more keys", "cut off", "no tool stop", "other tool", "two uses", "text only"],
)
def test_an_answer_in_another_form_is_thrown_away_and_paid_for(bedrock, client, lexicon, labelled_with, wrong):
    bedrock.add_response("converse", wrong)
    bedrock.add_response("converse", answer(["well formed"]))
    generator = made_by(client, lexicon)
    made = generator.generate(one_intent(labelled_with), count=1, seed=1)
    assert [message.text for message in made] == ["well formed"]
    assert generator.report.malformed == 1
    assert generator.report.spent_usd == pytest.approx(2 * made[0].cost_usd)


def test_items_that_are_no_messages_are_thrown_away_one_by_one(bedrock, client, lexicon, labelled_with):
    bedrock.add_response("converse", answer(["fine", "  ", 7, None, "x" * 601, {"text": "no"}]))
    bedrock.add_response("converse", answer([]))
    generator = made_by(client, lexicon)
    assert [message.text for message in generator.generate(one_intent(labelled_with), count=2, seed=1)] == ["fine"]
    assert generator.report.malformed == 5


@pytest.mark.parametrize(
    "code", ["ThrottlingException", "ServiceUnavailableException", "ModelTimeoutException", "throttlingException", "ModelNotReadyException"]
)
def test_a_busy_model_is_asked_again_after_a_wait(bedrock, client, lexicon, labelled_with, code):
    bedrock.add_client_error("converse", code, "Too many requests, please wait before trying again.", 429)
    bedrock.add_response("converse", answer(["at last"]))
    waits = []
    generator = made_by(client, lexicon, sleep=waits.append)
    assert [message.text for message in generator.generate(one_intent(labelled_with), count=1, seed=1)] == ["at last"]
    assert generator.report.retries == len(waits) == 1


def test_waits_double_up_to_a_limit_with_a_random_share(bedrock, client, lexicon, labelled_with):
    for _ in range(7):
        bedrock.add_client_error("converse", "ThrottlingException", "slow down", 429)
    bedrock.add_response("converse", answer(["at last"]))
    waits = []
    made_by(client, lexicon, sleep=waits.append, attempts=8, longest_wait_s=10).generate(one_intent(labelled_with), count=1, seed=1)
    assert all(0 <= wait <= limit for wait, limit in zip(waits, (1, 2, 4, 8, 10, 10, 10), strict=True))
    assert len(set(waits)) == 7


def test_a_model_that_stays_busy_is_unavailable_but_what_was_paid_for_is_kept(bedrock, client, lexicon, labelled_with):
    for _ in range(2):
        bedrock.add_client_error("converse", "ThrottlingException", "slow down", 429)
    with pytest.raises(Unavailable, match="too busy after 2 tries"):
        made_by(client, lexicon, attempts=2).generate(labelled_with(), count=50, seed=1)
    bedrock.add_response("converse", answer(["paid for"]))
    for _ in range(2):
        bedrock.add_client_error("converse", "ThrottlingException", "slow down", 429)
    generator = made_by(client, lexicon, attempts=2)
    assert [message.text for message in generator.generate(labelled_with(), count=50, seed=1)] == ["paid for"]
    assert generator.report.stopped == "busy"


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException", "ValidationException"])
def test_an_error_that_waiting_does_not_mend_is_told_in_one_line(bedrock, client, lexicon, labelled_with, code):
    bedrock.add_client_error("converse", code, "You don't have access to\nthe model.", 403)
    with pytest.raises(Unavailable) as caught:
        made_by(client, lexicon).generate(one_intent(labelled_with), count=1, seed=1)
    assert code in str(caught.value) and "\n" not in str(caught.value)


class Broken:
    """A client whose connection fails."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def converse(self, **request):
        if self.errors:
            raise self.errors.pop(0)
        return answer(["after the timeout"])


def test_missing_credentials_are_told_in_one_line(lexicon, labelled_with):
    with pytest.raises(Unavailable, match="Unable to locate credentials"):
        made_by(Broken(NoCredentialsError()), lexicon).generate(one_intent(labelled_with), count=1, seed=1)


def test_a_try_that_timed_out_counts_with_its_highest_cost(lexicon, labelled_with):
    generator = made_by(Broken(ReadTimeoutError(endpoint_url="https://bedrock")), lexicon)
    made = generator.generate(one_intent(labelled_with), count=1, seed=1)
    assert generator.report.spent_usd > made[0].cost_usd + 2048 * 0.005 / 1000


def test_nothing_is_asked_when_one_call_could_exceed_the_budget(bedrock, client, lexicon, labelled_with):
    generator = made_by(client, lexicon, budget_usd=0.01)
    assert generator.generate(labelled_with(), count=50, seed=1) == []
    assert (generator.report.stopped, generator.report.spent_usd) == ("budget", 0.0)


class Priced:
    """A client that uses as many tokens as drawn, never more than a request allows, and fails now and then."""

    def __init__(self, draw):
        self.draw, self.charged = draw, 0.0

    def converse(self, **request):
        most = len(json.dumps({k: v for k, v in request.items() if k != "modelId"}, ensure_ascii=False).encode()) + 1000
        used = self.draw(st.integers(1, most)), self.draw(st.integers(1, request["inferenceConfig"]["maxTokens"]))
        self.charged += (used[0] * 0.001 + used[1] * 0.005) / 1000
        if self.draw(st.integers(0, 3)) == 0:
            raise ReadTimeoutError(endpoint_url="https://bedrock")
        return answer(["a message"] * self.draw(st.integers(0, 5)), tokens=used)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), budget=st.floats(0, 0.2), max_tokens=st.integers(1, 4096))
def test_the_budget_is_never_exceeded(lexicon, labelled_with, data, budget, max_tokens):
    client = Priced(data.draw)
    generator = made_by(client, lexicon, budget_usd=budget, max_tokens=max_tokens)
    with contextlib.suppress(Unavailable):
        generator.generate(labelled_with(), count=50, seed=1)
    assert client.charged <= generator.report.spent_usd + 1e-9
    assert generator.report.spent_usd <= budget + 1e-9


def test_claude_s_labels_wait_for_a_person(bedrock, client, lexicon, labelled_with):
    bedrock.add_response("converse", answer(["do u do gift receipts for box sets", "送料はいくらですか?"]))
    augmented, refused = augment(one_intent(labelled_with), made_by(client, lexicon), AugmentationSettings(count=2))
    assert [(row["generator"], row["review"]) for row in augmented.to_pylist()] == [("bedrock", "unreviewed")]
    assert refused["reason"].to_pylist() == ["unchanged"] or refused["reason"].to_pylist() == ["duplicate"]
    assert sum(augmented["cost_usd"].to_pylist()) + sum(refused["cost_usd"].to_pylist()) == pytest.approx(
        (400 * 0.001 + 300 * 0.005) / 1000
    )


def test_the_client_makes_no_tries_of_its_own(monkeypatch, lexicon):
    given = {}
    monkeypatch.setattr(boto3, "client", lambda service, **arguments: given.update(arguments, service=service))
    BedrockGenerator(BedrockSettings(budget_usd=1, region="eu-west-1"), lexicon)._bedrock()
    assert (given["service"], given["region_name"]) == ("bedrock-runtime", "eu-west-1")
    assert given["config"].retries == {"total_max_attempts": 1}


@pytest.mark.parametrize(("field", "value"), [("budget_usd", -1), ("batch", 0), ("usd_per_1k_input_tokens", float("nan"))])
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(BadInput, match=f"messages.bedrock.{field}"):
        BedrockSettings(**{"budget_usd": 1.0} | {field: value})
