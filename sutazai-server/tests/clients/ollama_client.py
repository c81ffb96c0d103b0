"""The `ollama` package against the server: `ollama_client.py URL`."""

import asyncio
import json
import math
import time
from typing import Literal

import ollama
from pydantic import BaseModel, ConfigDict, Field

from checks import AGENT, CHAT, EMBEDDING, PATIENCE_S, SCHEMA, fits, patience, raises, run, soon, timed, url

client = ollama.Client(host=url(), timeout=PATIENCE_S)


def question(text, tokens=16, **more):
    """A short answer that is the same each time."""
    options = {"temperature": 0, "seed": 1, "num_predict": tokens}
    return {"model": CHAT, "messages": [{"role": "user", "content": text}], "options": options, **more}


def said(text, tokens=16, **more):
    return client.chat(**question(text, tokens, **more))


def pieces(parts):
    return "".join(part.message.content or "" for part in parts)


def check_models_are_listed():
    listed = {model.model: model for model in client.list().models}
    assert {CHAT, EMBEDDING} <= set(listed) and listed[CHAT].details.format == "gguf", listed
    assert listed[CHAT].size > 0 and len(listed[CHAT].digest) == 64, listed[CHAT]
    shown = client.show(CHAT)
    assert "completion" in shown.capabilities and shown.modelinfo["llama.context_length"] == 8192, shown
    assert client.show(EMBEDDING).capabilities == ["embedding"]
    assert raises(ollama.ResponseError, client.show, "nobody").status_code == 404


def check_an_answer():
    answer = said("Name a fruit.")
    assert answer.message.role == "assistant" and answer.message.content and answer.done, answer
    assert answer.model == CHAT and answer.done_reason in ("stop", "length") and answer["eval_count"] == answer.eval_count, answer
    assert 0 < answer.eval_count <= 16 and answer.prompt_eval_count > 0 and answer.total_duration > 0, answer
    assert said("Name a fruit.").message.content == answer.message.content
    assert (cut := said("Count to one hundred.", 4)).done_reason == "length" and cut.eval_count == 4, cut


def check_a_stream():
    whole = said("Tell me about rivers.", 32)
    parts = list(said("Tell me about rivers.", 32, stream=True))
    assert pieces(parts) == whole.message.content and len(parts) > 5, parts
    assert parts[-1].done and parts[-1].eval_count == whole.eval_count and not any(part.done for part in parts[:-1]), parts


def check_a_prompt():
    ask = {"model": CHAT, "prompt": "Name a fruit.", "options": {"temperature": 0, "seed": 1, "num_predict": 8}}
    whole = client.generate(**ask, system="You are brief.")
    assert whole.response and whole.done and whole.eval_count <= 8, whole
    parts = list(client.generate(**ask, stream=True))
    assert "".join(part.response for part in parts) == client.generate(**ask).response and parts[-1].done, parts


def check_embeddings():
    texts = ["A cat sat on the mat.", "The invoice is overdue.", "A kitten rests on a rug."]
    vectors = client.embed(model=EMBEDDING, input=texts).embeddings
    assert [len(vector) for vector in vectors] == [384] * 3 and all(abs(math.hypot(*vector) - 1) < 1e-3 for vector in vectors)
    near = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert near(vectors[0], vectors[2]) > near(vectors[0], vectors[1]) + 0.2
    assert near(client.embed(EMBEDDING, texts[0]).embeddings[0], vectors[0]) > 0.9999
    older = client.embeddings(model=EMBEDDING, prompt=texts[0]).embedding
    assert near(older, vectors[0]) / math.hypot(*older) > 0.9999
    assert raises(ollama.ResponseError, client.embed, "nobody", "x").status_code == 404


class Thing(BaseModel):
    # Otherwise a small model invents fields without end.
    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "green", "blue"]
    size: int = Field(ge=0, le=9)


def check_an_answer_keeps_to_its_schema():
    for seed in range(3):
        answer = said("Invent a thing, as JSON.", 100, format=SCHEMA, options={"temperature": 1, "seed": seed, "num_predict": 100})
        fits(json.loads(answer.message.content))
    fits(json.loads(pieces(said("Invent a thing, as JSON.", 100, format=SCHEMA, stream=True))))
    thing = said("Invent a thing, as JSON.", 60, format=Thing.model_json_schema()).message.content
    assert 0 <= Thing.model_validate_json(thing).size <= 9
    free = said("Invent a thing, as JSON.", 200, format="json")
    assert free.done_reason == "length" or isinstance(json.loads(free.message.content), dict), free
    assert raises(ollama.ResponseError, said, "x", format={"type": "nonsense"}).status_code == 400


def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The city.
    """
    return f"rain in {city}"


def check_tools_are_called_or_refused():
    # The package makes a tool of a function.
    try:
        answer = said("What is the weather in Bern?", 100, tools=[weather])
    except ollama.ResponseError as error:
        # The embedded model was not taught to call any.
        assert error.status_code == 400 and "tools" in error.error, error
        return
    for call in answer.message.tool_calls or []:
        assert call.function.name == "weather" and isinstance(call.function.arguments, dict), answer
    assert answer.message.content or answer.message.tool_calls, answer


def check_errors_are_response_errors():
    error = raises(ollama.ResponseError, said, "x", model="nobody")
    assert error.status_code == 404 and "nobody" in error.error, error
    error = raises(ollama.ResponseError, said, "x", options={"temperature": 9})
    assert error.status_code == 400 and "temperature" in error.error, error
    assert raises(ollama.ResponseError, said, "word " * 30_000).status_code == 400
    assert raises(ollama.ResponseError, lambda: list(said("x", model="nobody", stream=True))).status_code == 404
    assert raises(ollama.ResponseError, client.generate, CHAT, "x", raw=True).status_code == 400
    assert raises(ollama.ResponseError, client.pull, "nobody").status_code == 404
    raises(ConnectionError, ollama.Client(host="http://127.0.0.1:9").list)


def check_a_model_is_loaded_and_unloaded():
    loaded = lambda: [model.model for model in client.ps().models]
    assert client.generate(CHAT).done_reason == "load" and CHAT in loaded(), loaded()
    assert client.generate(CHAT, keep_alive=0).done_reason == "unload" and CHAT not in loaded(), loaded()
    said("Name a fruit.", 4)
    assert CHAT in loaded(), loaded()


def check_an_agent_is_a_model():
    ask = {"model": AGENT, "messages": [{"role": "user", "content": "hello"}]}
    whole = client.chat(**ask)
    assert whole.message.content and whole.done, whole
    assert pieces(client.chat(**ask, stream=True))
    assert raises(ollama.ResponseError, client.chat, **{**ask, "model": "agent:nobody"}).status_code == 404


def check_a_stream_that_is_closed_frees_the_model():
    short = lambda: client.generate(CHAT, "Two.", options={"num_predict": 8})
    alone = timed(short)
    for _ in range(3):
        stream = said("Write a very long story.", options={"temperature": 1, "num_predict": 7_000}, stream=True)
        for _ in zip(range(3), stream):
            pass
        stream.close()
    soon(short, alone)


async def check_asynchronously():
    client = ollama.AsyncClient(host=url(), timeout=PATIENCE_S)
    assert CHAT in [model.model for model in (await client.list()).models]
    many = [client.chat(**question(f"Say something about the number {number}.")) for number in range(4)]
    assert all(answer.message.content for answer in await asyncio.gather(*many))
    whole = await client.chat(**question("Tell me about rain."))
    parts = [part async for part in await client.chat(**question("Tell me about rain."), stream=True)]
    assert pieces(parts) == whole.message.content
    assert len((await client.embed(EMBEDDING, "A cat sat on the mat.")).embeddings[0]) == 384
    try:
        await client.chat(**question("x", model="nobody"))
        raise AssertionError("an unknown model answers")
    except ollama.ResponseError as error:
        assert error.status_code == 404, error
    # Cancelled amid its answer, and the next one has its turn soon.
    began = time.monotonic()
    await client.chat(**question("Two and two?", 4))
    alone = time.monotonic() - began
    try:
        async with asyncio.timeout(2):
            async for _ in await client.chat(**question("Write a very long story.", 7_000), stream=True):
                pass
    except TimeoutError:
        pass
    async with asyncio.timeout(patience(alone)):
        assert (await client.chat(**question("Three.", 4))).message.content


run(globals())
