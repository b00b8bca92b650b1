"""What answers cost: prices and estimates."""
