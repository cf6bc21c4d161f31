"""Health of what is checked: from single outcomes to rules of several checks."""
