"""What is sent and what must come back: bid requests, their forms and files, ads known by id, answers."""
