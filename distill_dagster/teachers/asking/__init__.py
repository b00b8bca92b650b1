"""Getting every request answered once, whoever the teacher is."""
