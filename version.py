"""The version of the server and of its client library, as everything that states it has it."""

VERSION = "1.0.0"
