"""What an answer has to be, and which of several is kept."""
