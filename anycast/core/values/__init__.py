"""Values: valid once they exist, and nothing but values."""
