"""The description of a small log that the tests of reading share."""

from export.data.log_schema import LogSchema, parse_log_schema

DESCRIPTION = """
name = "small"
format = "{format}"
{options}
[label]
column = "click"
[timestamp]
column = "t"
format = "{time}"
[[field]]
name = "hour"
kind = "categorical"
role = "context"
derive = "hour_of_day"
[[field]]
name = "weekday"
kind = "categorical"
role = "context"
derive = "day_of_week"
[[field]]
name = "site"
kind = "categorical"
role = "context"
[[field]]
name = "age"
kind = "numeric"
role = "context"
[[field]]
name = "seen"
kind = "sequence"
role = "context"
max_length = 2
"""


def described(format_: str = "csv", time: str = "unix", options: str = "") -> LogSchema:
    return parse_log_schema(DESCRIPTION.format(format=format_, time=time, options=options))
