"""The contenders' servers, one program a contender, each run in its own environment with `--port PORT`."""
