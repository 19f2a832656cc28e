"""``/metrics`` as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support import http


class Figures:
    """Every sample of one answer. ``figures("relay_tokens_total", type="input")`` adds up those that fit."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.samples: list[Sample] = [sample for family in families for sample in family.samples]
        self.names = {sample.name for sample in self.samples}
        self.families = {family.name for family in families}

    def __call__(self, name: str, **labels: Any) -> float:
        assert name in self.names, f"no {name} among {sorted(self.names)}"
        wanted = {label: str(value) for label, value in labels.items()}.items()
        return sum(each.value for each in self.samples if each.name == name and wanted <= each.labels.items())

    def values(self, name: str, label: str) -> set[str]:
        """What a label says in the samples of this name."""
        return {each.labels[label] for each in self.samples if each.name == name}


async def figures(port: int, key: str = "") -> Figures:
    headers = [("authorization", f"Bearer {key}")] if key else []
    answer = await http.request(port, "GET", "/metrics", headers)
    assert answer.status == 200, answer
    assert (answer.headers.get("content-type") or "").startswith("text/plain")
    return Figures(answer.body.decode())
