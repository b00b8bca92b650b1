"""What is kept of a teacher's answers: the store, claims, budgets and the batch ledger, in one database."""
