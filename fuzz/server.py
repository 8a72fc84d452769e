"""``python -m fuzz.server``: the server, except that any number of bad frames is put up with."""

import sys

import handlers.socket
import server

if __name__ == "__main__":
    handlers.socket.BAD_FRAMES_WITHIN_S = 0.0
    sys.exit(server.main(["serve"]))
