"""Tool calls through the `openai` and the `ollama` package: `tools_client.py URL`, where `caller` calls its tool and repeats what came of it."""

import json

import ollama
import openai

from checks import PATIENCE_S, SCHEMA, run, url

MODEL = "caller"
QUESTION = {"role": "user", "content": "What is the weather in Bern?"}
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": PARAMETERS}}]
FORM = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": SCHEMA}}
ARGUMENTS = {"city": "Bern"}
RESULT = "rain"
SAID = "It says rain."

ours = openai.OpenAI(base_url=f"{url()}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
theirs = ollama.Client(host=url(), timeout=PATIENCE_S)


def asked(*more, **options):
    return ours.chat.completions.create(model=MODEL, messages=[QUESTION, *more], tools=TOOLS, **options)


def chatted(*more, **options):
    return theirs.chat(model=MODEL, messages=[QUESTION, *more], tools=TOOLS, **options)


def weather(calls):
    """The one call, which is of the tool."""
    (call,) = calls
    assert call.function.name == "weather", call
    return call


def check_openai_calls_a_tool_and_hears_its_result():
    choice = asked().choices[0]
    assert choice.finish_reason == "tool_calls" and not choice.message.content, choice
    call = weather(choice.message.tool_calls)
    assert call.id and call.type == "function" and json.loads(call.function.arguments) == ARGUMENTS, call
    choice = asked(choice.message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}).choices[0]
    assert (choice.message.content, choice.finish_reason) == (SAID, "stop"), choice


def check_openai_calls_a_tool_in_a_stream():
    chunks = [chunk for chunk in asked(stream=True) if chunk.choices]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert {delta.index for delta in deltas} == {0} and deltas[0].id and deltas[0].function.name == "weather", chunks
    assert json.loads("".join(delta.function.arguments or "" for delta in deltas)) == ARGUMENTS, chunks
    assert chunks[-1].choices[0].finish_reason == "tool_calls", chunks


def check_openai_calls_a_tool_beside_a_form():
    choice = asked(response_format=FORM).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    assert json.loads(weather(choice.message.tool_calls).function.arguments) == ARGUMENTS, choice


def check_ollama_calls_a_tool_and_hears_its_result():
    message = chatted().message
    assert weather(message.tool_calls).function.arguments == ARGUMENTS, message
    answer = chatted(message, {"role": "tool", "tool_name": "weather", "content": RESULT})
    assert answer.message.content == SAID and answer.done, answer


def check_ollama_calls_a_tool_in_a_stream():
    parts = list(chatted(stream=True))
    call = weather([call for part in parts for call in part.message.tool_calls or []])
    assert call.function.arguments == ARGUMENTS and parts[-1].done, parts


def check_ollama_calls_a_tool_beside_a_form():
    assert weather(chatted(format=SCHEMA).message.tool_calls).function.arguments == ARGUMENTS


run(globals())
