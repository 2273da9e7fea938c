"""The parts of the OpenAPI document that FastAPI cannot derive: keys, and bodies that routes parse."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from smoothgate.http.access_middleware import OPEN
from smoothgate.schemas import SmoothingOptions


def complete_schema(app: FastAPI, *, asks_for_keys: bool) -> None:
    """Make an app complete its OpenAPI document when it generates one."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}] if asks_for_keys else [{}, {"key": []}]
        for path in OPEN & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
        schemas = components.setdefault("schemas", {})
        schema = SmoothingOptions.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, part in (schema.pop("$defs", {}) | {"SmoothingOptions": schema}).items():
            schemas.setdefault(name, part)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
