"""The load-test room: it speaks HTTP to a service, and imports nothing of the other rooms."""
