"""Images and files: OpenAI's data URLs and file objects, Anthropic's sources.

Called for content in both directions.  It looks at no image or file, and re-encodes nothing but plain text.
"""

from __future__ import annotations

import base64

from relay.core.cache_control import refusal
from relay.core.translate.reading import Json, no_counterpart, object_in, text_in
from relay.core.translate.translation import Notes


def image_block(part: Json, path: str, notes: Notes) -> Json:
    image, at = object_in(part, "image_url", path), f"{path}.image_url"
    url = text_in(image, "url", at)
    notes.drop_others(image, ("url",), at)
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        media_type, data = _split(url, f"{at}.url")
        return _base64("image", media_type, data)
    if scheme in ("http", "https"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise refusal(f"{at}.url", "Input should be a data, http or https URL", url)


def file_block(part: Json, path: str, notes: Notes) -> Json:
    file, at = object_in(part, "file", path), f"{path}.file"
    if file.get("file_data") is None:
        notes.drop_others(file, ("file_id",), at)
        return {"type": "document", "source": {"type": "file", "file_id": text_in(file, "file_id", at)}}
    media_type, data = _split(text_in(file, "file_data", at), f"{at}.file_data")
    title = {} if file.get("filename") is None else {"title": file["filename"]}
    kind = media_type.lower()
    if kind.startswith("image/"):
        notes.drop_others(file, ("file_data",), at)
        return _base64("image", media_type, data)
    notes.drop_others(file, ("file_data", "filename"), at)
    if kind == "application/pdf":
        return _base64("document", media_type, data) | title
    if kind == "text/plain":
        text = _decoded(data, f"{at}.file_data")
        return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}} | title
    raise no_counterpart(f"{at}.file_data", media_type)


def image_part(block: Json, path: str) -> Json:
    source, at = object_in(block, "source", path), f"{path}.source"
    if source.get("type") == "base64":
        return _image_url(_url(source, at))
    if source.get("type") == "url":
        return _image_url(text_in(source, "url", at))
    raise no_counterpart(f"{at}.type", source.get("type"))


def file_part(block: Json, path: str) -> Json:
    """Of a document whose source is anything but a list of blocks."""
    source, at = object_in(block, "source", path), f"{path}.source"
    name = {} if block.get("title") is None else {"filename": block["title"]}
    if source.get("type") == "base64":
        return {"type": "file", "file": {"file_data": _url(source, at)} | name}
    if source.get("type") == "text":
        return {"type": "file", "file": {"file_data": _text_url(text_in(source, "data", at), at)} | name}
    if source.get("type") == "file":
        return {"type": "file", "file": {"file_id": text_in(source, "file_id", at)}}
    raise no_counterpart(f"{at}.type", source.get("type"))


def _base64(kind: str, media_type: str, data: str) -> Json:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def _split(url: str, path: str) -> tuple[str, str]:
    """Media type and data of ``data:<media type>[;…];base64,<data>``."""
    head, comma, data = url.partition(",")
    scheme, _, kind = head.partition(":")
    media_type = kind.partition(";")[0]
    if scheme.lower() != "data" or not media_type or not comma or not kind.lower().endswith(";base64"):
        raise refusal(path, "Input should be a base64 data URL", url)
    return media_type, data


def _decoded(data: str, path: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError as error:
        raise refusal(path, "Input should be UTF-8 text in base64", data) from error


def _image_url(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def _url(source: Json, path: str) -> str:
    return f"data:{text_in(source, 'media_type', path)};base64,{text_in(source, 'data', path)}"


def _text_url(text: str, path: str) -> str:
    try:
        return f"data:text/plain;base64,{base64.b64encode(text.encode()).decode()}"
    except UnicodeEncodeError as error:
        raise refusal(f"{path}.data", "Input should be Unicode text", text) from error
