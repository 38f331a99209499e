"""What happens between a request and its files: queue, scheduling, execution, results."""
