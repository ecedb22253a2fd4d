"""What a route takes and gives, said where the route is, for the OpenAPI document.

Flask knows paths and methods and nothing else. A second list of routes would be out of date with the first
one that is added, so each view declares its own part, and a test fails for a route under /api/ without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Response
from pydantic import BaseModel, ConfigDict

View = TypeVar("View", bound=Callable[..., Response])

_CONTRACT = "_contract"


class Query(BaseModel):
    """Base of what stands behind the `?`: a misspelt filter must not be answered as if there were none."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Contract:
    """The declared part of a route.

    Attributes:
        answer: type of the JSON that is answered; None: no content, or not JSON.
        status: of the answer when all is well.
        media_type: of the answer.
        body: model of the request's body.
        body_required: whether an empty body is a mistake.
        query: model of the query's parameters.
        problems: statuses with a problem document, besides those that every route of its kind may answer.
        problem_types: of the problem documents that say more than usual, by status.
    """

    answer: Any = None
    status: int = 200
    media_type: str = "application/json"
    body: type[BaseModel] | None = None
    body_required: bool = False
    query: type[Query] | None = None
    problems: tuple[int, ...] = ()
    problem_types: Mapping[int, Any] = field(default_factory=dict)


def contract(declared: Contract) -> Callable[[View], View]:
    """Declare what a route takes and gives. Goes below the decorator that makes the route."""

    def declare(view: View) -> View:
        setattr(view, _CONTRACT, declared)
        return view

    return declare


def contract_of(view: Callable[..., Any]) -> Contract | None:
    """What the route has declared."""
    found: Contract | None = getattr(view, _CONTRACT, None)
    return found
