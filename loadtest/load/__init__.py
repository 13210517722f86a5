"""How load is made: closed and open loops, Locust, and the processes under test."""
