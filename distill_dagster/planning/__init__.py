"""What a run would do, row by row and call by call, before anything is paid or written."""
