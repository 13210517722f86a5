"""What is sent: bid requests, their forms, ads known by id."""
