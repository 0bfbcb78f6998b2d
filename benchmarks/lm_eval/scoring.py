"""How headway_questions.yaml scores."""

from __future__ import annotations

from typing import Any


def holds_answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"holds_answer": float(doc["answer"].lower() in results[0].lower())}
