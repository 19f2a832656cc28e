"""What ``relay up`` prints when all is ready: the base URL, a key, and calls to paste.

The calls carry a prompt long enough to be cached, with a breakpoint: made twice, the second shows cache reads.
"""

from __future__ import annotations

from relay.settings import Settings

_CURL = r"""curl -sN {url}/v1/messages -H 'x-api-key: {key}' -H 'content-type: application/json' -d '{{
  "model": "{model}", "max_tokens": 200, "stream": true,
  "system": [{{"type": "text", "text": "'"$(printf 'You are a careful reader. %.0s' $(seq 500))"'",
              "cache_control": {{"type": "ephemeral"}}}}],
  "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""

_PYTHON = """from anthropic import Anthropic

client = Anthropic(base_url="{url}", api_key="{key}")
prompt = [{{"type": "text", "text": "You are a careful reader. " * 500, "cache_control": {{"type": "ephemeral"}}}}]
with client.messages.stream(
    model="{model}", max_tokens=200, system=prompt, messages=[{{"role": "user", "content": "Hello"}}]
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
    print("\\n", stream.get_final_message().usage)
"""

_OPENAI = """from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
prompt = [{{"type": "text", "text": "You are a careful reader. " * 500, "cache_control": {{"type": "ephemeral"}}}}]
answer = client.chat.completions.create(
    model="{model}", messages=[{{"role": "system", "content": prompt}}, {{"role": "user", "content": "Hello"}}]
)
print(answer.choices[0].message.content, "\\n", answer.usage.prompt_tokens_details)
"""

_TYPESCRIPT = """import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({{ baseURL: "{url}", apiKey: "{key}" }});
const stream = client.messages.stream({{
  model: "{model}", max_tokens: 200, messages: [{{ role: "user", content: "Hello" }}],
  system: [{{ type: "text", text: "You are a careful reader. ".repeat(500), cache_control: {{ type: "ephemeral" }} }}],
}});
stream.on("text", (text) => process.stdout.write(text));
console.log("\\n", (await stream.finalMessage()).usage);
"""

SNIPPETS = {"curl": _CURL, "Python": _PYTHON, "OpenAI": _OPENAI, "TypeScript": _TYPESCRIPT}


def banner(settings: Settings, url: str, key: str, dashboard: str) -> str:
    """The whole text."""
    if settings.sandbox:
        served = "the sandbox; set ANTHROPIC_API_KEY (or see relay.toml in the README) for a real provider"
    else:
        served = ", ".join(settings.providers)
    head = f"\nrelay is ready\n\n  base URL   {url}\n  API key    {key}\n"
    head += f"  dashboard  {dashboard} (log in with the key)\n  provider   {served}\n"
    return head + "".join(f"\n--- {name} ---\n{text}" for name, text in snippets(settings, url, key).items())


def snippets(settings: Settings, url: str, key: str) -> dict[str, str]:
    """The calls, by language."""
    values = {"url": url, "key": key, "model": model_to_show(settings)}
    return {name: text.format(**values) for name, text in SNIPPETS.items()}


def model_to_show(settings: Settings) -> str:
    """One that works on the surface shown: the README's model if it is there, else the first of that dialect."""
    listed = settings.router().models()
    fitting = [model.id for model in listed if model.dialect == "anthropic"] or [model.id for model in listed]
    preferred = "claude-sonnet-4-6"
    return preferred if preferred in fitting or not fitting else fitting[0]
