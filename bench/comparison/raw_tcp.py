"""The floor: a file over a bare TCP connection, without encryption, checks or names.

Server: `raw_tcp.py serve PORT DIR`. Client: `raw_tcp.py get HOST PORT NAME FILE`.
"""

import os
import socket
import sys

PIECE = 1 << 20


def serve(port: int, directory: str) -> None:
    with socket.create_server(("0.0.0.0", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                name = connection.makefile().readline().strip()
                try:
                    with open(os.path.join(directory, name), "rb") as file:
                        connection.sendfile(file)
                except OSError as error:
                    print(error, file=sys.stderr)


def get(host: str, port: int, name: str, target: str) -> None:
    with socket.create_connection((host, port)) as connection, open(target, "wb", buffering=0) as file:
        connection.sendall(name.encode() + b"\n")
        piece = memoryview(bytearray(PIECE))
        while count := connection.recv_into(piece):
            file.write(piece[:count])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        get(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
