"""So many frames a second that each make the server remember or answer something, from a client
that acknowledges nothing, so that what the server answers stays in its memory."""

import os
import time

import peer

which = os.environ["WHICH"]
arguments = peer.arguments()
client = peer.connected(arguments)
client.pump(0.3)
PER_TURN = 500


def frames():
    """Frames without end."""
    number = 0
    while True:
        number += 1
        match which:
            case "new-connection-id":
                # Each retires the one before, which has to be told until it is acknowledged.
                fields = (number, number, bytes([8]), os.urandom(8), os.urandom(16))
                yield peer.frame(peer.NEW_CONNECTION_ID, *fields)
            case "retire-connection-id":
                yield peer.frame(peer.RETIRE_CONNECTION_ID, number % 4)
            case "path-challenge":
                yield peer.frame(peer.PATH_CHALLENGE, os.urandom(8))
            case "max-stream-data":
                yield peer.frame(peer.MAX_STREAM_DATA, 4 * (number % 100), 1 << 20 | number)
            case "ping":
                yield peer.frame(peer.PING)
            case "max-data":
                yield peer.frame(0x10, number << 16)
            case "stream-data-blocked":
                yield peer.frame(0x15, 4 * (number % 100), number)


supply = frames()
sent = 0
started = time.monotonic()
for _ in peer.paced(arguments.seconds, arguments.rate, PER_TURN):
    for packet in peer.packed(next(supply) for _ in range(PER_TURN)):
        client.send(packet)
    sent += PER_TURN
    client.receive()
    if client.closed:
        break
seconds = time.monotonic() - started
peer.report(frames=sent, seconds=round(seconds, 1), received=client.bytes_received, closed=client.closed)
