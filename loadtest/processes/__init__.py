"""The servers under test as processes, and the machine that they run on."""
