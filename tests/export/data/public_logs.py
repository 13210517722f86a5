"""Small logs in the exact formats of public ones: iPinYou (joined and as features) and RecSys 2020."""

HEADER = """
click weekday hour bidid timestamp logtype ipinyouid useragent IP region city adexchange domain url urlid
slotid slotwidth slotheight slotvisibility slotformat slotprice creative bidprice payprice keypage advertiser
usertag
"""
IPINYOU_COLUMNS = HEADER.split()
ROWS = """
0 4 00 4f3cae2c 20130606000104008 1 null windows_ie 115.45.195.* 216 217 3 dd4270 2be9cd null
Digital_F_Width1 1000 90 0 0 70 00fccc 238 202 null 1458 10006,10063,11278

1 5 13 7a1c0d55 20130607132233999 1 DFBAc android_safari 58.243.1.* 106 107 2 9f4e27 77c5c8 null
2147689_8764813 300 250 1 1 5 44966c 300 77 null 1458 null
"""
IPINYOU_ROWS = tuple(row.split() for row in ROWS.split("\n\n"))
FEATURES = """
weekday hour IP region city adexchange domain slotid slotwidth slotheight slotvisibility slotformat creative
advertiser useragent slotprice
"""


def ipinyou_log() -> str:
    """train.log.txt."""
    return "".join("\t".join(row) + "\n" for row in (IPINYOU_COLUMNS, *IPINYOU_ROWS))


def ipinyou_features() -> dict[str, str]:
    """featindex.txt, train.yzx.txt and test.yzx.txt of those rows and a later one, as mkyzx.py does."""
    rows = [dict(zip(IPINYOU_COLUMNS, row, strict=True)) for row in IPINYOU_ROWS]
    for row, price in zip(rows, ("51-100", "1-10"), strict=True):
        row["slotprice"] = price
    index = {"truncate": 0}
    for position in range(1, len(IPINYOU_COLUMNS)):
        index[f"{position}:other"] = len(index)

    def features(row: dict[str, str]) -> list[str]:
        pairs = [(name, row[name]) for name in FEATURES.split()]
        pairs += [("usertag", tag) for tag in row["usertag"].split(",")]
        return [f"{IPINYOU_COLUMNS.index(name)}:{value}" for name, value in pairs]

    lines = []
    for row in rows:
        for feature in features(row):
            index.setdefault(feature, len(index))
        ids = [0, *(index[feature] for feature in features(row))]
        lines.append(f"{row['click']} {row['payprice']} " + " ".join(f"{each}:1" for each in ids))
    unseen = rows[0] | {"city": "999", "click": "0"}
    known = [
        feature if feature in index else feature.split(":")[0] + ":other" for feature in features(unseen)
    ]
    later = "0 12 " + " ".join(f"{index[feature]}:1" for feature in ["truncate", *known])
    return {
        "featindex.txt": "".join(f"{feature}\t{number}\n" for feature, number in index.items()),
        "train.yzx.txt": "\n".join(lines) + "\n",
        "test.yzx.txt": later + "\n",
    }


TWITTER_ROWS = (
    (
        "101\t56898\t137\t174\t102",  # text_tokens
        "7CC1B5D6\t1BAC9F3D",
        "B9C5D8A2",
        "Photo\tPhoto",
        "",
        "",
        "TopLevel",
        "D3164C7FBCF2565DDF915B1B3AEFB1DC",
        "1581262691",
        "6D8A8F1C",
        "22467",
        "2",
        "false",
        "1370000000",
        "0000006C3074607050F1339DDCB890BB",
        "16",
        "176",
        "false",
        "1500000000",
        "true",
        "",
        "1581262800",
        "",
        "1581262900",
    ),
    (
        "101\t102",
        "",
        "5555AAAA",
        "",
        "F00D\tBEEF",
        "CAFE",
        "Retweet",
        "22C448FF81263D4BAF2A176145EE9EAD",
        "1581000000",
        "0BADF00D",
        "1000000",
        "10",
        "true",
        "1230000000",
        "00000776B07587ECA9717BFC301F2D6E",
        "0",
        "1",
        "false",
        "1580000000",
        "false",
        "1581000500",
        "",
        "",
        "",
    ),
)


def twitter_log() -> str:
    """training.tsv."""
    return "".join("\x01".join(row) + "\n" for row in TWITTER_ROWS)
