"""The `openai` package against the server: `openai_client.py URL`."""

import asyncio
import json
import math
import time
import urllib.request
from typing import Literal

import openai
from pydantic import BaseModel, Field

from checks import AGENT, CHAT, EMBEDDING, PATIENCE_S, SCHEMA, fits, patience, raises, run, soon, timed, url

# Whatever is refused is seen at once: without retries.
OPTIONS = {"base_url": f"{url()}/v1", "api_key": "none", "max_retries": 0, "timeout": PATIENCE_S}
client = openai.OpenAI(**OPTIONS)


def question(text, **more):
    """A short answer that is the same each time."""
    return {"model": CHAT, "messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 1, "max_tokens": 16, **more}


def said(text, **more):
    return client.chat.completions.create(**question(text, **more))


def pieces(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def check_models_are_listed():
    ids = [model.id for model in client.models.list()]
    assert {CHAT, EMBEDDING, AGENT} <= set(ids), ids
    for name in (CHAT, AGENT):
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model"), model
    error = raises(openai.NotFoundError, client.models.retrieve, "nobody")
    assert error.code == "model_not_found", error.body


def check_an_answer():
    answer = said("Name a fruit.")
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length"), answer
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and 0 < usage.completion_tokens <= 16, usage
    assert answer.object == "chat.completion" and answer.model == CHAT and answer.created > 1_700_000_000, answer
    assert said("Name a fruit.").choices[0].message.content == choice.message.content
    cut = said("Count to one hundred.", max_tokens=4)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 4), cut
    newer = said("Count to one hundred.", max_tokens=openai.omit, max_completion_tokens=4)
    assert newer.usage.completion_tokens == 4, newer
    parts = [{"type": "text", "text": "Name a fruit."}]
    assert client.chat.completions.create(**{**question(""), "messages": [{"role": "user", "content": parts}]}).choices


def check_headers_say_what_served_an_answer():
    fresh = {"cache-control": "no-store"}
    raw = client.chat.completions.with_raw_response.create(**question("Name a tree."), extra_headers=fresh)
    assert raw.headers["x-sutazai-model"] == CHAT and raw.headers["x-sutazai-cache"] == "off", raw.headers
    ask = question(f"Name a river. It is {time.time_ns()}.")
    caches = [client.chat.completions.with_raw_response.create(**ask).headers["x-sutazai-cache"] for _ in range(2)]
    assert caches == ["miss", "hit"], caches
    assert raw.parse().choices[0].message.content and raw.request_id, raw.headers


def check_a_stream():
    whole = said("Tell me about rivers.", max_tokens=32, extra_headers={"cache-control": "no-store"})
    stream = said("Tell me about rivers.", max_tokens=32, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert pieces(chunks) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 5, chunks
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "length", chunks
    assert chunks[-1].usage == whole.usage, chunks[-1]


def check_the_package_puts_a_stream_together():
    kinds = set()
    with client.chat.completions.stream(**question("Tell me about lakes.", stop=[" "])) as stream:
        kinds.update(event.type for event in stream)
        answer = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds and answer.choices[0].message.content, (kinds, answer)
    # What the limit has cut is an error of the package's own there.
    with client.chat.completions.stream(**question("Tell me about lakes.", max_tokens=4)) as stream:
        raises(openai.LengthFinishReasonError, stream.get_final_completion)


def check_a_prompt():
    text = client.completions.create(model=CHAT, prompt="Name a fruit.", max_tokens=8, temperature=0, seed=1)
    assert text.choices[0].text and text.usage.completion_tokens <= 8, text
    stream = client.completions.create(model=CHAT, prompt="Name a fruit.", max_tokens=8, temperature=0, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == text.choices[0].text


def check_embeddings():
    texts = ["A cat sat on the mat.", "The invoice is overdue.", "A kitten rests on a rug."]
    answer = client.embeddings.create(model=EMBEDDING, input=texts)
    vectors = [row.embedding for row in answer.data]
    assert [len(vector) for vector in vectors] == [384] * 3 and [row.index for row in answer.data] == [0, 1, 2], answer.usage
    assert all(abs(math.hypot(*vector) - 1) < 1e-3 for vector in vectors) and answer.usage.total_tokens > 0
    near = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert near(vectors[0], vectors[2]) > near(vectors[0], vectors[1]) + 0.2
    # By itself the package asks for base64.
    plain = client.embeddings.create(model=EMBEDDING, input=texts[0], encoding_format="float")
    assert near(plain.data[0].embedding, vectors[0]) > 0.9999
    raises(openai.NotFoundError, client.embeddings.create, model="nobody", input="x")
    raises(openai.BadRequestError, client.embeddings.create, model=EMBEDDING, input=[])


class Thing(BaseModel):
    colour: Literal["red", "green", "blue"]
    size: int = Field(ge=0, le=9)


def check_an_answer_keeps_to_its_schema():
    form = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": SCHEMA}}
    for seed in range(3):
        answer = said("Invent a thing, as JSON.", response_format=form, temperature=1, seed=seed, max_tokens=100)
        assert answer.choices[0].finish_reason == "stop", answer
        fits(json.loads(answer.choices[0].message.content))
    stream = said("Invent a thing, as JSON.", response_format=form, max_tokens=100, stream=True)
    fits(json.loads(pieces(stream)))
    parsed = client.chat.completions.parse(**question("Invent a thing, as JSON.", max_tokens=60), response_format=Thing)
    thing = parsed.choices[0].message.parsed
    assert isinstance(thing, Thing) and 0 <= thing.size <= 9, parsed
    free = said("Invent a thing, as JSON.", response_format={"type": "json_object"}, max_tokens=200).choices[0]
    assert free.finish_reason == "length" or isinstance(json.loads(free.message.content), dict), free
    nonsense = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nonsense"}}}
    raises(openai.BadRequestError, said, "x", response_format=nonsense)


def check_tools_are_called_or_refused():
    parameters = {"type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": parameters}}]
    try:
        answer = said("What is the weather in Bern?", tools=tools, max_tokens=100)
    except openai.BadRequestError as error:
        # The embedded model was not taught to call any.
        assert error.code == "unsupported", error.body
    else:
        message = answer.choices[0].message
        for call in message.tool_calls or []:
            assert call.function.name == "weather" and isinstance(json.loads(call.function.arguments), dict), answer
        assert message.content or message.tool_calls, answer
    # Those that may not be called do no harm.
    assert said("Name a fruit.", tools=tools, tool_choice="none").choices[0].message.content


def check_errors_have_their_own_types():
    error = raises(openai.NotFoundError, said, "x", model="nobody")
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model"), error.body
    assert error.type == "invalid_request_error" and error.request_id, error.body
    error = raises(openai.BadRequestError, said, "word " * 30_000)
    assert (error.code, error.param) == ("context_length_exceeded", "messages"), error.body
    for wrong in ({"temperature": -3}, {"max_tokens": 0}, {"n": 2}, {"messages": []}, {"top_p": 7}, {"tool_choice": "required"}):
        error = raises(openai.BadRequestError, said, "x", **wrong)
        assert error.param == next(iter(wrong)), (wrong, error.body)
    raises(openai.BadRequestError, said, "x", messages=[{"role": "wizard", "content": "x"}])
    error = raises(openai.APIStatusError, client.post, "/nothing", cast_to=object, body={})
    assert error.status_code == 404, error
    nobody = openai.OpenAI(**{**OPTIONS, "base_url": "http://127.0.0.1:9/v1"})
    raises(openai.APIConnectionError, nobody.models.list)


def check_an_agent_is_a_model():
    raw = client.chat.completions.with_raw_response.create(model=AGENT, messages=[{"role": "user", "content": "hello"}])
    task = raw.headers["x-sutazai-task-id"]
    assert raw.parse().choices[0].message.content, raw.text
    with urllib.request.urlopen(f"{url()}/api/v1/tasks/{task}?wait=30s", timeout=PATIENCE_S) as answer:
        stored = json.load(answer)
    assert stored["state"] == "completed" and stored["input"] == {"text": "hello"}, stored
    once = {"model": AGENT, "messages": [{"role": "user", "content": "once"}], "extra_headers": {"Idempotency-Key": "k"}}
    ids = {client.chat.completions.with_raw_response.create(**once).headers["x-sutazai-task-id"] for _ in range(2)}
    assert len(ids) == 1, ids
    stream = client.chat.completions.create(model=AGENT, messages=[{"role": "user", "content": "hello"}], stream=True)
    assert pieces(stream)
    raises(openai.NotFoundError, said, "x", model="agent:nobody")


def check_a_stream_that_is_closed_frees_the_model():
    short = lambda: said("Two.", max_tokens=8, extra_headers={"cache-control": "no-store"})
    alone = timed(short)
    for _ in range(3):
        stream = said("Write a very long story.", temperature=1, max_tokens=7_000, stream=True)
        for _ in zip(range(3), stream):
            pass
        stream.close()
    soon(short, alone)


async def check_asynchronously():
    async with openai.AsyncOpenAI(**OPTIONS) as client:
        ids = [model.id async for model in client.models.list()]
        assert CHAT in ids, ids
        many = [client.chat.completions.create(**question(f"Say something about the number {number}.")) for number in range(4)]
        assert all(answer.choices[0].message.content for answer in await asyncio.gather(*many))
        whole = await client.chat.completions.create(**question("Tell me about rain."))
        stream = await client.chat.completions.create(**question("Tell me about rain.", stream=True))
        assert pieces([chunk async for chunk in stream]) == whole.choices[0].message.content
        embedded = await client.embeddings.create(model=EMBEDDING, input="A cat sat on the mat.")
        assert len(embedded.data[0].embedding) == 384
        try:
            await client.chat.completions.create(**question("x", model="nobody"))
            raise AssertionError("an unknown model answers")
        except openai.NotFoundError as error:
            assert error.code == "model_not_found", error.body
        # Cancelled amid its answer, and the next one has its turn soon.
        began = time.monotonic()
        await client.chat.completions.create(**question("Two and two?", max_tokens=4))
        alone = time.monotonic() - began
        story = question("Write a very long story.", temperature=1, max_tokens=7_000, stream=True)
        try:
            async with asyncio.timeout(2):
                async for _ in await client.chat.completions.create(**story):
                    pass
        except TimeoutError:
            pass
        async with asyncio.timeout(patience(alone)):
            assert (await client.chat.completions.create(**question("Three.", max_tokens=4))).choices


run(globals())
