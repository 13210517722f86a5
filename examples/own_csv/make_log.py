"""Writes a small shop's click log, its users and its ads as CSV: `python make_log.py FOLDER`.

Stands in for your own log. A click is likelier for ads whose category is among the user's interests, for
music, and on phones in the evening; the rest is chance.
"""

from __future__ import annotations

import csv
import math
import random
import sys
from pathlib import Path

ROWS, USERS, ADS = 12_000, 400, 60
CATEGORIES = ("books", "garden", "music", "shoes", "toys")
START, SECONDS_A_ROW = 1_767_225_600, 60


def main(folder: Path) -> None:
    """Write shop.csv, users.csv and ads.csv into `folder`."""
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
    ads = [
        {"ad_id": f"ad{number}", "category": draw.choice(CATEGORIES), "advertiser": f"shop{number % 7}"}
        for number in range(ADS)
    ]
    log = []
    for number in range(ROWS):
        user, ad = draw.choice(users), draw.choice(ads)
        time, device = START + SECONDS_A_ROW * number, draw.choice(("phone", "desktop"))
        is_evening = time // 3600 % 24 >= 18
        logit = -2.5 + 2.5 * (ad["category"] in str(user["interests"]))
        logit += 1.0 * (ad["category"] == "music") + 1.0 * (device == "phone" and is_evening)
        clicked = int(draw.random() < 1.0 / (1.0 + math.exp(-logit)))
        log.append({"time": time, **user, "device": device, **ad, "clicked": clicked})
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("shop", log), ("users", users), ("ads", ads)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(f"wrote {len(log):,} rows, {len(users)} users and {len(ads)} ads to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/shop_log"))
