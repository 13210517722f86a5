"""What four papers' tables ran, as data; run on a log that is given, and shown beside the papers' figures."""
