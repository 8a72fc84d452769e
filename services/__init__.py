"""Decide: the rules, and the order of things. Know no SQL and no Tornado handler."""
