"""Writes a small shop's click log, its users and its ads as CSV: `python make_log.py FOLDER`.

Stands in for your own log. A click is likelier for ads whose category is among the user's interests, for
music, and on phones in the evening; the rest is chance. Beside the log there is one of each of the three days
after it, on which new ads come, the oldest end, and people like garden in place of music.
"""

from __future__ import annotations

import csv
import math
import random
import sys
from pathlib import Path
from typing import Any

ROWS, USERS, ADS = 12_000, 400, 60
CATEGORIES = ("books", "garden", "music", "shoes", "toys")
START, SECONDS_A_ROW = 1_767_225_600, 60
DAYS, NEW_ADS, SECONDS_A_DAY = ("monday", "tuesday", "wednesday"), 12, 86_400
MONDAY, SECONDS_A_ROW_OF_A_DAY = 1_768_176_000, 30

Row = dict[str, Any]


def main(folder: Path) -> None:
    """Write shop.csv, users.csv, ads.csv and a log of each of DAYS into `folder`."""
    draw = random.Random(7)
    users = [
        {
            "user_id": f"u{number}",
            "country": draw.choice(("AT", "CH", "DE")),
            "age": draw.randrange(18, 80),
            "interests": "|".join(draw.sample(CATEGORIES, draw.randrange(3))),
        }
        for number in range(USERS)
    ]
    ads = some_ads(draw, 0, ADS)
    log = impressions(draw, users, ads, range(START, START + SECONDS_A_ROW * ROWS, SECONDS_A_ROW))
    tables = {"shop": log, "users": users, "ads": ads}
    shown = ads
    for number, day in enumerate(DAYS):
        shown = [*shown[NEW_ADS:], *some_ads(draw, ADS + NEW_ADS * number, NEW_ADS)]
        midnight = MONDAY + SECONDS_A_DAY * number
        tables[day] = impressions(
            draw,
            users,
            shown,
            range(midnight, midnight + SECONDS_A_DAY, SECONDS_A_ROW_OF_A_DAY),
            liked="garden",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(f"wrote {len(log):,} rows, {len(users)} users and {len(ads)} ads to {folder}")


def some_ads(draw: random.Random, first: int, count: int) -> list[Row]:
    """Ads of random categories, numbered from `first`."""
    return [
        {"ad_id": f"ad{number}", "category": draw.choice(CATEGORIES), "advertiser": f"shop{number % 7}"}
        for number in range(first, first + count)
    ]


def impressions(
    draw: random.Random, users: list[Row], ads: list[Row], times: range, liked: str = "music"
) -> list[Row]:
    """One at each of `times`, of a random user and ad, and whether it was clicked; all like one category."""
    log = []
    for time in times:
        user, ad = draw.choice(users), draw.choice(ads)
        device = draw.choice(("phone", "desktop"))
        is_evening = time // 3600 % 24 >= 18
        logit = -2.5 + 2.5 * (ad["category"] in str(user["interests"]))
        logit += 1.0 * (ad["category"] == liked) + 1.0 * (device == "phone" and is_evening)
        clicked = int(draw.random() < 1.0 / (1.0 + math.exp(-logit)))
        log.append({"time": time, **user, "device": device, **ad, "clicked": clicked})
    return log


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/shop_log"))
