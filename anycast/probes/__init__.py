"""One module per kind of check: a specification goes in, one outcome comes out. No counting here."""
