"""Systems that distil one student from one teacher, each run as a process of its own on the same batches."""
