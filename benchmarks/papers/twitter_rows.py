"""Makes rows in the format of the RecSys Challenge 2020: users, authors, tweets, and four kinds of answers.

The challenge's log cannot be had. Each answer is drawn from a logit of who sees the tweet, who wrote it, what
the two have in common and what the tweet holds; its level is about that of the challenge. Whoever retweets or
replies likes more often, as there. What a model reaches on these rows says nothing about the challenge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

USERS, AUTHORS, TOPICS, WORDS, TAGS = 3000, 600, 12, 2000, 150
FIRST_SECOND, SECONDS = 1_581_000_000, 7 * 86_400
LANGUAGES, TYPES, MEDIA = 8, ("TopLevel", "Retweet", "Quote"), ("Photo", "Video", "GIF")
# By answer, in the order of the columns: its level in log-odds, and how much the answers have in common.
ANSWERS = {"reply": -4.4, "retweet": -2.9, "retweet with comment": -5.6, "like": -0.7}
SEPARATOR = b"\x01"

Floats = NDArray[np.float64]


def write_rows(path: Path, rows: int, seed: int) -> None:
    """`rows` rows in the order of time, without a header."""
    draw = np.random.default_rng(seed)
    users, authors = draw.zipf(1.3, rows) % USERS, draw.zipf(1.2, rows) % AUTHORS
    activity, taste = draw.normal(0, 0.8, (USERS, len(ANSWERS))), draw.normal(0, 1, (USERS, TOPICS))
    appeal, subject = draw.normal(0, 0.7, (AUTHORS, len(ANSWERS))), draw.integers(TOPICS, size=AUTHORS)
    of_type, of_media = draw.normal(0, 0.5, (3, len(ANSWERS))), draw.normal(0, 0.5, (4, len(ANSWERS)))
    types, media = draw.integers(3, size=rows), draw.integers(4, size=rows)
    topics = np.where(draw.random(rows) < 0.7, subject[authors], draw.integers(TOPICS, size=rows))
    follows = draw.random(rows) < 0.3
    has_link = draw.random(rows) < 0.2
    match = 0.7 * taste[users, topics] + 0.8 * follows
    logits = activity[users] + appeal[authors] + of_type[types] + of_media[media] + match[:, None]
    answers = _answers(draw, logits)
    times = np.sort(draw.integers(SECONDS, size=rows)) + FIRST_SECOND
    followers, created = (
        draw.lognormal(6, 2, AUTHORS + USERS).astype(int),
        draw.integers(300_000_000, size=AUTHORS + USERS),
    )
    languages = draw.integers(LANGUAGES, size=USERS)
    with path.open("wb") as file:
        for row in range(rows):
            user, author = int(users[row]), int(authors[row])
            words = (topics[row] * 97 + draw.integers(40, size=6)) % WORDS
            cells = [
                b"\t".join(b"%d" % word for word in (101, *words, 102)),
                b"tag%d" % (topics[row] * 11 % TAGS) if draw.random() < 0.3 else b"",
                b"tweet%d" % row,
                MEDIA[media[row]].encode() if media[row] < len(MEDIA) else b"",
                b"link%d" % row if has_link[row] else b"",
                b"domain%d" % (topics[row] * 5 + author % 5) if has_link[row] else b"",
                TYPES[types[row]].encode(),
                b"language%d" % languages[user],
                b"%d" % times[row],
                *_person(b"author", author, followers[author], created[author]),
                *_person(b"user", user, followers[AUTHORS + user], created[AUTHORS + user]),
                b"true" if follows[row] else b"false",
                *(b"%d" % (times[row] + 60) if one else b"" for one in answers[row]),
            ]
            file.write(SEPARATOR.join(cells) + b"\n")


def _person(kind: bytes, number: int, followers: int, created: int) -> tuple[bytes, ...]:
    """Id, followers, followed, verified, when the account was made."""
    verified = b"true" if number % 37 == 0 else b"false"
    return (
        b"%s%d" % (kind, number),
        b"%d" % followers,
        b"%d" % (followers // 3),
        verified,
        b"%d" % (1_230_000_000 + created),
    )


def _answers(draw: np.random.Generator, logits: Floats) -> NDArray[np.bool_]:
    """Which answers each row has, [rows, answers]; a like is likelier beside another answer."""
    centred = logits - logits.mean(axis=0)
    levels = np.array(list(ANSWERS.values()))
    others = draw.random((len(logits), 3)) < 1 / (1 + np.exp(-(centred[:, :3] + levels[:3])))
    like = centred[:, 3] + levels[3] + 1.2 * others.any(axis=1)
    liked = draw.random(len(logits)) < 1 / (1 + np.exp(-like))
    return np.column_stack([others, liked])
