"""An index of words, built and thrown away: lists, dicts and strings of a Python program."""

import json
import random

random.seed(7)


def document(number: int) -> dict[str, object]:
    words = ["".join(random.choices("etaoinshrdlu", k=random.randint(3, 12))) for _ in range(300)]
    return {"number": number, "words": words, "text": " ".join(words)}


def index(documents: list[dict[str, object]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in documents:
        for word in one["words"]:
            found.setdefault(word, []).append(one["number"])
    return found


text = json.dumps([document(n) for n in range(200)])
for _ in range(2):
    table = index(json.loads(text))
    assert len(table) > 1000
    del table
