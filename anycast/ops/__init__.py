"""What operators and their tools read: the status document, metrics, HTTP."""
