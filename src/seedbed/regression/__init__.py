"""What the answers of servers say about each other."""
