"""The peers, each written as its own users would write it, from its own documentation."""
