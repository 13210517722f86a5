"""The rows of xsDeepFwFM's table of Twitter's four labels, as data.

The log cannot be had, so the rows are made (`benchmarks.papers.twitter_rows`).
"""

from __future__ import annotations

from benchmarks.papers.cells import Build, Cell, Figures, Table

TWITTER = "Twitter"

TARGETS = {
    "like": "like_timestamp",
    "reply": "reply_timestamp",
    "retweet": "retweet_timestamp",
    "retweet with comment": "retweet_with_comment_timestamp",
}
"""The labels, and the column that each is in."""

# Epochs, LogLoss, AUC, PRAUC, RCE in %, parameters, megabytes.
RUNS: tuple[tuple[str, int, float, float, float, float, int, float], ...] = (
    ("like", 1, 0.3173, 0.9365, 0.9026, 53.29, 62_390_100, 249.596),
    ("reply", 1, 0.1018, 0.8407, 0.1279, 14.38, 62_390_100, 249.596),
    ("retweet", 1, 0.2275, 0.8641, 0.4777, 29.12, 62_390_100, 249.596),
    ("retweet with comment", 1, 0.0385, 0.8053, 0.0280, 5.18, 62_390_100, 249.596),
    ("retweet with comment", 6, 0.0372, 0.8069, 0.0293, 8.49, 62_390_100, 249.596),
    ("reply", 3, 0.0967, 0.8494, 0.1498, 18.62, 348_767_961, 1395.106),
    ("retweet", 2, 0.2176, 0.8777, 0.5306, 32.14, 348_767_961, 1395.106),
    ("like", 2, 0.3285, 0.9366, 0.9061, 51.64, 348_767_961, 1395.106),
    ("retweet with comment", 3, 0.0360, 0.8120, 0.0402, 11.45, 348_767_961, 1395.106),
)


def _cells() -> tuple[Cell, ...]:
    """A row a run, compared with its label after one epoch."""
    found = []
    for target, epochs, loss, auc, prauc, rce, parameters, size in RUNS:
        printed = Figures(logloss=loss, auc=auc, prauc=prauc, rce=rce, parameters=parameters, megabytes=size)
        build = Build(
            model="deep_fwfm",
            hyperparameters={"dim": 10, "hidden_units": [400, 400, 400]},
            training={"epochs": epochs},
            target=target,
        )
        row = f"{target}, {epochs} epoch{'s' if epochs > 1 else ''}"
        against = f"{target}, 1 epoch" if epochs > 1 else ""
        found.append(Cell(row=row, builds=(build,), paper={TWITTER: printed}, against=against))
    return tuple(found)


ROWS_DIFFER = (
    "the log of the RecSys Challenge 2020 cannot be had: rows of its format are made here, whose levels and "
    "difficulty are not the challenge's"
)

TABLE = Table(
    name="twitter",
    title="Twitter's four labels",
    where="Twitter Dataset",
    cells=_cells(),
    log=TWITTER,
    made=True,
    differs=(ROWS_DIFFER,),
)
