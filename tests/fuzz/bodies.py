"""JSON bodies that are almost right: values swapped, keys twice, numbers and nesting without measure, and
vLLM's own parameters with values that nobody means.
"""

import base64
import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.fuzz.images import pictures
from tests.fuzz.request import FEW_TOKENS, LEAST, Json, Request, json_request

SOURCE = "bodies"

# Strings that are replaced by other text once a body is JSON: what `json.dumps` cannot write.
_LITERALS = {
    "@5000 digits": "9" * 5000,
    "@400 digits": "9" * 400,
    "@1e999": "1e999",
    "@-0.0": "-0.0",
    "@1E-400": "1E-400",
    "@lists": "[" * 200 + "]" * 200,
    "@more lists": "[" * 900 + "]" * 900,
    "@too many lists": "[" * 60_000,
    "@objects": '{"a":' * 450 + "0" + "}" * 450,
    "@more objects": '{"a":' * 900 + "0" + "}" * 900,
    "@broken": "nul",
}
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"),
    "", " ", "0", "NaN", "x" * 20_000, "\0", "\ud800", "a\udfff b", "\u2028", "<image>", "<ima", "ge>",
    "{{7*7}}", "data:image/png;base64,", "data:,", "http://127.0.0.1/", "file:///etc/passwd",
    [], {}, [None], [[]], {"": {}}, [{}] * 40, {"type": "text"},
    {"type": "image_embeds", "image_embeds": "AAAA"},
    *_LITERALS,
)  # fmt: skip
_KEYS = (
    "", "a", "\ud800", "\0", "<image>", "model", "smoothing", "messages", "images", "stream", "message",
    "type", "content", "role", "history", "image_embeds", "mode",
    "input", "source", "text", "__proto__", "x" * 5000,
)  # fmt: skip

# Where bodies go: most of vLLM's parameters are taken by chat completions.
_PATHS = (
    "/v1/certify", "/v1/chat", "/v1/chat/completions", "/v1/chat/completions", "/v1/responses",
    "/v1/messages", "/v1/embeddings",
)  # fmt: skip
_SCHEMA: Json = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
_TOOL: Json = {"type": "function", "function": {"name": "a", "parameters": _SCHEMA}}

# Each is wrong, strange or rare. What only costs (thousands of answers at once) is not here.
_PARAMETERS: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (False, 2),
    "add_special_tokens": (True,),
    "allowed_token_ids": ([], [0], [-1], [10**6], [2**63], list(range(300)), ["a"]),
    "bad_words": ([""], [" "], ["a"] * 200, ["\ud800"], ["<image>"], [5]),
    "best_of": (0, 5, -1),
    "cache_salt": ("", "s", "\0", 5),
    "chat_template": ("{{ 1/0 }}", "{% for x in range(10**9) %}{% endfor %}", ""),
    "chat_template_kwargs": ({"tools": 1}, {"messages": []}, {"chat_template": "x"}),
    "continue_final_message": (True,),
    "documents": ([{}], [{"a": "b"}], "x"),
    "ec_transfer_params": ({}, {"a": 1}),
    "echo": (True,),
    "frequency_penalty": (2.0, -2.0, 2.01, 1e308),
    "function_call": ("auto", {}),
    "guided_json": (_SCHEMA, "{"),
    "guided_regex": ("(", "a{100000}"),
    "ignore_eos": (True, "maybe"),
    "include_reasoning": (False,),
    "kv_transfer_params": ({}, {"do_remote_decode": True}, {"remote_block_ids": [1]}),
    "length_penalty": (0.0, -1e308),
    "logit_bias": ({}, {"0": 1e308}, {"-1": 1}, {"1000000": 1}, {"a": 1}, {"1": -100}, [1]),
    "logprob_token_ids": ([0], [-1], [10**6], []),
    "logprobs": (True, 5, -1),
    "max_completion_tokens": (0, 1, 2, -1, 2**63),
    "max_tokens": (0, -1, 2**63, 1.5, "2", True, None),
    "media_io_kwargs": ({"image": {}}, {"a": {"b": 1}}, []),
    "min_p": (0.0, 1.0, 1.01, -1),
    "min_tokens": (1, 3, -1, 2**31),
    "mm_payload": ({}, "x", [1]),
    "mm_processor_kwargs": ({}, {"a": 1}, {"num_crops": 10**9}),
    "model": ("", None, "x", 5, "smoothgate-demo\0"),
    "n": (0, -1, 2, 3, 16_385, 2**31, 2**63, 1.5),
    "parallel_tool_calls": (False, None),
    "presence_penalty": (2.0, -2.01),
    "priority": (-(2**31), 2**63, 1),
    "prompt_logprobs": (0, 1, -1, 2**31),
    "reasoning_effort": ("low", "none", "x"),
    "repetition_detection": (
        {"max_pattern_size": 1, "min_count": 2}, {"max_pattern_size": 2**31, "min_count": 2},
        {"min_count": -1},
    ),
    "repetition_penalty": (0.0, -1.0, 1e-300, 1e308, 2.0),
    "request_id": ("", "a", "x" * 5000, "\0"),
    "response_format": (
        {"type": "json_object"}, {"type": "text"}, {"type": "x"}, {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string", "pattern": "("}}},
        {"type": "structural_tag", "structures": [], "triggers": []},
    ),
    "return_mm_kwargs": (True,),
    "return_prompt_text": (True,),
    "return_token_ids": (True,),
    "return_token_offsets": (True,),
    "return_tokens_as_token_ids": (True,),
    "routed_experts_prompt_start": (-1, 2**31),
    "seed": (0, -1, 2**63 - 1, 2**63, 1.5),
    "session_id": ("", "a", 5),
    "skip_special_tokens": (False,),
    "spaces_between_special_tokens": (False,),
    "stop": ("", "a", [], [""], ["a"] * 5, ["x" * 10_000], "\ud800", [5]),
    "stop_token_ids": ([], [0], [-1], [10**6], [2**63]),
    "stream": (True, False, 1, "yes", "x", []),
    "stream_interval": (0, 1, 2**31),
    "stream_options": ({"include_usage": True}, {"continuous_usage_stats": True}, [], {"a": 1}),
    "structured_outputs": (
        {"regex": "("}, {"regex": "(a*)*b"}, {"regex": "a{1000}"}, {"regex": ""},
        {"choice": []}, {"choice": [""]}, {"choice": ["a", "b"]},
        {"json": _SCHEMA}, {"json": "{"}, {"json": {"type": "x"}}, {"json_object": True},
        {"grammar": "root ::="}, {"grammar": "root ::= root"}, {"grammar": 'root ::= "a"'},
        {"structural_tag": "{}"}, {"whitespace_pattern": "("}, {},
    ),
    "temperature": (0, 0.0, 1e-30, 2.0, 1e308, -0.1, "@1e999"),
    "thinking_token_budget": (0, -1, 5),
    "tool_choice": ("auto", "required", "none", "x", {"type": "function", "function": {"name": "a"}}),
    "tools": ([], [_TOOL], [_TOOL] * 20, [{"type": "function"}], [{}]),
    "top_k": (0, -1, -2, 1, 2**31, 2**63),
    "top_logprobs": (0, 1, 20, 21, -1, 2**31),
    "top_p": (0.0, 1.0, 1e-300, 1.01),
    "truncate_prompt_tokens": (0, 1, -1, -2, 2**63),
    "truncation_side": ("left", "x"),
    "use_beam_search": (True,),
    "user": ("a", 5),
    "vllm_xargs": ({}, {"a": 1}, {"a": {}}, {"": [1, "b"]}),
    "watermarking": (True,),
}  # fmt: skip


# Of the other APIs, what is theirs alone.
_THEIRS: dict[str, dict[str, tuple[Any, ...]]] = {
    "/v1/responses": {
        "background": (True, False),
        "include": ([], ["message.output_text.logprobs"], ["x"], "x", [5]),
        "input": ("", [], [{}], [{"type": "item_reference", "id": "a"}], [{"type": "reasoning"}], 5),
        "instructions": ("", "\ud800", 5, "<image>"),
        "max_output_tokens": (0, 1, -1, 2**63, "2", True),
        "max_tool_calls": (0, "x"),
        "metadata": ({"a": "b"}, []),
        "previous_response_id": ("", "resp_1", 5),
        "reasoning": ({}, {"effort": "low"}, {"effort": 5}, {"summary": "auto"}, []),
        "store": (True, False, 1),
        "stream": (True, "x"),
        "stream_options": ({"include_obfuscation": True}, []),
        "text": (
            {}, {"format": {"type": "text"}}, {"format": {"type": "json_object"}}, {"verbosity": "low"},
            {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA}}, {"format": {"type": []}}, [],
        ),
        "tool_choice": ("auto", "required", {"type": "function", "name": "a"}, {"type": "x"}, []),
        "tools": ([{"type": "function", "name": "a", "parameters": _SCHEMA}], [{"type": "web_search"}], [5]),
        "top_logprobs": (0, 3, -1, 2**31),
        "truncation": ("auto", "disabled", 5),
    },
    "/v1/messages": {
        "max_tokens": (0, 1, -1, 2**63, None, "2"),
        "metadata": ({"user_id": "a"}, []),
        "output_config": (
            {}, {"effort": "low"}, {"format": {"type": "json_schema", "schema": _SCHEMA}}, {"format": {}}, [],
        ),
        "service_tier": ("auto", 5),
        "stop_sequences": ([], [""], ["a"], ["\ud800"], [5], "a"),
        "stream": (True, "x"),
        "system": ("", "\ud800", [{"type": "text", "text": "a"}], [{"type": "image"}], [5], 5),
        "thinking": ({"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}, []),
        "tool_choice": ({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "a"}, {"type": []}, "x"),
        "tools": (
            [{"name": "a", "input_schema": _SCHEMA}], [{"type": "bash_20250124", "name": "bash"}], [{}], [5],
        ),
        "top_k": (0, -1, 1, 2**31),
    },
    "/v1/embeddings": {
        "dimensions": (0, 64),
        "encoding_format": ("float", "base64", "hex", 5, []),
        "input": ("text", [], ["a"], [[1]]),
        "model": ("", None, "x", 5),
        "user": ("a", 5),
    },
}  # fmt: skip


def requests(rng: Random) -> Iterator[Request]:
    """Without end."""
    while True:
        path, body = valid(rng)
        names = []
        if path.endswith("completions") and rng.random() < 0.6:
            names = _strange_parameters(rng, body, _PARAMETERS)
        elif path in _THEIRS and rng.random() < 0.5:
            names = _strange_parameters(rng, body, _THEIRS[path])
        if not names or rng.random() < 0.4:
            names += [_mutate(rng, body) for _ in range(rng.choice((1, 1, 2, 4)))]
        text, more = _written(rng, body)
        yield json_request(SOURCE, ", ".join(names + more), path, text)


def valid(rng: Random) -> tuple[str, Json]:
    """A body that is accepted, and where."""
    kind = rng.choice(("png", "jpeg", "gif"))
    data = base64.b64encode(pictures()[kind]).decode()
    uri = f"data:image/{kind};base64,{data}"
    image = {"type": "image_url", "image_url": {"url": uri}}
    smoothing: Json = dict(LEAST)
    if rng.random() < 0.3:
        smoothing |= {
            "mode": "certified", "sigma": 0.5, "alpha": 0.001, "eps": [0.25], "cosine_threshold": 0.5,
            "target": {"cosine": 0.6, "eps": 0.1}, "policy": "report",
        }  # fmt: skip
    path = rng.choice(_PATHS)
    if path == "/v1/certify":
        return path, {"images": [uri], "smoothing": smoothing}
    parts = (
        [image, {"type": "text", "text": "What?"}] if rng.random() < 0.4 else [{"type": "text", "text": "Hi"}]
    )
    earlier = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Yes."}]
    sampling = {"max_tokens": FEW_TOKENS, "temperature": 0, "stream": rng.random() < 0.2}
    has_picture, is_plain = parts[0] is image, rng.random() < 0.3
    if path == "/v1/embeddings":
        return path, {"messages": [{"role": "user", "content": [image]}], "smoothing": smoothing}
    if path == "/v1/responses":
        said: list[Json] = [{"type": "input_image", "image_url": uri}] if has_picture else []
        said.append({"type": "input_text", "text": "What?"})
        turns = [{"role": "user", "content": said}]
        sampling["max_output_tokens"] = sampling.pop("max_tokens")
        return path, {"input": "Hi" if is_plain else turns, "smoothing": smoothing, **sampling}
    if path == "/v1/messages":
        source = {"type": "base64", "media_type": f"image/{kind}", "data": data}
        blocks: list[Json] = [{"type": "image", "source": source}] if has_picture else []
        blocks.append({"type": "text", "text": "What?"})
        turns = [{"role": "user", "content": "Hi" if is_plain else blocks}]
        return path, {"messages": turns, "system": "Be short.", "smoothing": smoothing, **sampling}
    if path == "/v1/chat":
        asked: Json = {
            "message": "What?",
            "images": [uri] if rng.random() < 0.4 else [],
            "smoothing": smoothing,
        }
        return path, asked | sampling | {"history": earlier if rng.random() < 0.5 else []}
    messages = [*earlier, {"role": "user", "content": "Hi"}] if rng.random() < 0.5 else [earlier[0]]
    return path, copy.deepcopy({"messages": messages, "smoothing": smoothing, **sampling})


def _strange_parameters(rng: Random, body: Json, known: dict[str, tuple[Any, ...]]) -> list[str]:
    names = rng.sample(list(known), rng.choice((1, 1, 2, 3)))
    for name in names:
        body[name] = copy.deepcopy(rng.choice(known[name]))
    return names


def _mutate(rng: Random, body: Json) -> str:
    """Change one place, and say how and where."""
    if not body:
        body["a"] = None
    holder, key, path = rng.choice(list(_places(body)))
    value, odd = holder[key], copy.deepcopy(rng.choice(_ODD))
    change = rng.choice(("odd", "odd", "odd", "gone", "more", "wrapped", "text", "twice"))
    if change == "odd":
        holder[key] = odd
    elif change == "gone":
        del holder[key]
    elif change == "more":
        if isinstance(holder, dict):
            holder[rng.choice(_KEYS)] = odd
        else:
            holder.insert(key, odd)
    elif change == "wrapped":
        holder[key] = rng.choice(([value], {"a": value})) if isinstance(holder, dict) else [odd]
    elif change == "text":
        holder[key] = json.dumps(value)
    elif isinstance(holder, list):
        holder += [value] * rng.choice((1, 5, 50))
    else:
        holder[rng.choice(_KEYS)] = value
    return f"{change} {path}"


def _places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every key of every object and list: its holder, itself, and its path."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, item in pairs:
        where = f"{path}.{key}" if path else str(key)
        yield value, key, where[:60]
        yield from _places(item, where)


def _written(rng: Random, body: Json) -> tuple[bytes, list[str]]:
    """As JSON or nearly so, and what was done to the text."""
    text = json.dumps(body)
    for name, literal in _LITERALS.items():
        text = text.replace(json.dumps(name), literal)
    names = []
    if rng.random() < 0.05:
        names.append("a key twice")
        again = rng.choice(list(body) or ["a"])
        text = text.replace("{", "{" + f"{json.dumps(again)}: {json.dumps(rng.choice(_ODD[:12]))}, ", 1)
    data = text.encode()
    if rng.random() < 0.05:
        coding = rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7"))
        names.append(coding)
        data = text.encode(coding)
    elif rng.random() < 0.05:
        names.append("a byte")
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(1) + data[at + 1 :]
    return data, names
