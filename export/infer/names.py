"""What the name of a column suggests. It sees no cell."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _in_order(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LABELS: Final = _in_order(
    "click clicked is_click isclick is_clicked label clk target y conversion converted is_conversion"
)
"""Columns that tell clicks, the likeliest first."""
RATINGS: Final = ("rating", "ratings", "stars", "score")
REQUESTS: Final = _in_order(
    "request_id requestid req_id bid_request_id auction_id search_id query_id impression_id imp_id bidid "
    "bid_id pageview_id page_view_id"
)
USERS: Final = _in_order(
    "user_id userid uid user member_id customer_id client_id visitor_id cookie_id ipinyouid "
    "ipinyou_id device_id"
)
ITEMS: Final = _in_order(
    "ad_id adid ad creative_id creative creativeid item_id itemid item video_id movie_id product_id sku "
    "article_id news_id photo_id doc_id goods_id banner_id material_id offer_id campaign_id"
)
TRUE_PCTR: Final = frozenset(("true_pctr", "true_ctr", "true_probability"))

_CANDIDATE: Final = _words_of(
    "ad ads item movie film video creative product sku campaign campaignid advertiser adv article news photo "
    "brand goods author material doc offer listing hotel title genre genres upload music"
)
_CONTEXT: Final = _words_of(
    "user site app page hour day weekday browser os ip geo country city region slot gender age occupation "
    "zip network referrer history position publisher device useragent query"
)
_ID: Final = _words_of("id ids code zip type category cat class tag is has flag hash model version")
_ENDS_IN_ID: Final = frozenset(("bid", "paid", "grid", "valid", "void"))
_MEASURE: Final = _words_of(
    "num number count cnt age price amount days duration rate ratio width height size score freq frequency "
    "seconds ms minutes hours length depth total sum avg mean share distance year temperature"
)
_TIME: Final = _words_of("time timestamp ts date at dt hour datetime day stamp created when")
_OTHER_TIMES: Final = _words_of(
    "click clicked conversion upload birth register registration release publish start end expire"
)
_AFTER_CLICK: Final = re.compile(
    r"(is_)?(like|liked|follow|comment|forward|hate|share|shared|purchase|purchased|converted|conversion|install)"
    r"|click(ed)?_(at|time|timestamp|ts)|(post|after)_click\w*|(conversion|purchase|order|install)_\w+"
    r"|dwell|(dwell|watch|play|stay|view|read|listen|comment_stay|profile_stay)_?(time|seconds|ms|duration)"
    r"|long_view|profile_enter|is_profile_enter|revenue|reward|cvr"
)
_AFTER_AUCTION: Final = re.compile(r"(pay|paying|win|winning|market|clearing)_?price|payingprice|bid_?price")
_OF_ANOTHER_MODEL: Final = re.compile(r"propensity\w*|pctr|p_?ctr|predicted_\w+|prediction")


def plain(name: str) -> str:
    """A name for comparisons: `userId:token` and `User-ID` are `user_id`."""
    return "_".join(words(name))


def words(name: str) -> list[str]:
    """The words of a name, in lower case; the type that RecBole's headers add is none."""
    return [word.lower() for word in _WORD.findall(name.partition(":")[0])]


def recbole_type(name: str) -> str:
    """`token`, `token_seq`, `float` or `float_seq`, which RecBole's headers add to a name; else empty."""
    kind = name.partition(":")[2]
    return kind if kind in ("token", "token_seq", "float", "float_seq") else ""


def first_of(known: tuple[str, ...], names: list[str]) -> str | None:
    """The name that stands first among the `known` ones."""
    by_plain = {plain(name): name for name in reversed(names)}
    return next((by_plain[one] for one in known if one in by_plain), None)


def role_of(name: str) -> str | None:
    """`candidate` or `context`, by the first word that tells it."""
    for word in words(name):
        if word in _CANDIDATE or word in _CONTEXT:
            return "candidate" if word in _CANDIDATE else "context"
    return None


def is_identifier(name: str) -> bool:
    """Whether the name is that of a code, whose order means nothing; `C1` as Criteo's challenge has it."""
    found = words(name)
    return (
        bool(re.fullmatch(r"C\d+", name))
        or not _ID.isdisjoint(found)
        or (bool(found) and found[-1].endswith("id") and found[-1] not in _ENDS_IN_ID)
    )


def is_measure(name: str) -> bool:
    """Whether the name is that of a number whose size means something; `I1` as Criteo's challenge has it."""
    return bool(re.fullmatch(r"I\d+", name)) or not _MEASURE.isdisjoint(words(name))


def is_time(name: str) -> bool:
    return not _TIME.isdisjoint(words(name))


def is_time_of_something_else(name: str) -> bool:
    """Whether the name is of the time of a click, a film's release, ..., not of an impression."""
    return not _OTHER_TIMES.isdisjoint(words(name))


def known_too_late(name: str) -> str | None:
    """Why no request has this column's value, by its name; None: nothing says so."""
    spelled = plain(name)
    if _AFTER_CLICK.fullmatch(spelled):
        return "by its name it is known only after the click"
    if _AFTER_AUCTION.fullmatch(spelled):
        return "by its name it is known only with the auction, after the bid"
    if _OF_ANOTHER_MODEL.fullmatch(spelled):
        return "by its name it is what another model or policy said of the row"
    return None
