"""Remembers. The only place that knows SQL, momoko and psycopg2."""
