"""Moving over to anycast under load, in the lab: what is typed, what is answered, what breaks. `python -m lab.migrate`."""
