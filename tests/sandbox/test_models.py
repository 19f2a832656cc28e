"""The list of models and its pages."""

import pytest

from relay.sandbox.models import anthropic_entry, anthropic_page, openai_entry, openai_list
from relay.sandbox.reading import is_known
from relay.sandbox.refusal import Refusal

ALL = [entry["id"] for entry in openai_list()["data"]]


def test_every_listed_model_is_known() -> None:
    assert all(is_known(id) for id in ALL)


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_pages_forward_give_every_model_once(limit: int) -> None:
    seen: list[str] = []
    query = {"limit": str(limit)}
    while True:
        page = anthropic_page(query)
        seen += [entry["id"] for entry in page["data"]]
        if not page["has_more"]:
            break
        query["after_id"] = page["last_id"]
    assert seen == ALL


def test_pages_backward_give_every_model_once() -> None:
    seen: list[str] = []
    query = {"limit": "2", "before_id": ALL[-1]}
    while True:
        page = anthropic_page(query)
        seen = [entry["id"] for entry in page["data"]] + seen
        if not page["has_more"]:
            break
        query["before_id"] = page["first_id"]
    assert seen == ALL[:-1]


def test_a_page_past_the_end_is_empty() -> None:
    page = anthropic_page({"after_id": ALL[-1]})
    assert (page["data"], page["has_more"], page["first_id"]) == ([], False, None)


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"after_id": "nope"}])
def test_a_bad_page_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(Refusal):
        anthropic_page(query)


def test_one_model_in_both_forms() -> None:
    assert anthropic_entry("claude-opus-4-8")["display_name"] == "Claude Opus 4.8"
    assert openai_entry("gpt-4o")["owned_by"] == "openai"
    for entry in (anthropic_entry, openai_entry):
        with pytest.raises(Refusal) as refused:
            entry("gpt-nope")
        assert refused.value.status == 404
