"""Many clients that each keep something open with as little as possible: a handshake that doesn't
go on, a request that comes byte by byte, a file that does, one that is taken byte by byte from the
beginning on ("shut") or after the first mebibyte ("window"), or one that is taken but never
acknowledged.

The time until each is cut off counts from its request, or from the last byte that it took: a thousand
clients in one process take their first mebibyte in some twenty seconds."""

import collections
import os
import time

import peer

which = os.environ["WHICH"]
arguments = peer.arguments()
PER_ADDRESS = 50
# What a client takes of a stream ahead.
WINDOW = 0 if which == "shut" else 1 << 20
clients = []
codes = collections.Counter()
begun = time.monotonic()


def adjust(quic):
    """Sets the window before it is told to the server."""
    quic._local_max_stream_data_bidi_local = WINDOW


for number in range(arguments.clients):
    source = peer.source(number // PER_ADDRESS)
    client = peer.Peer(arguments.port, arguments.identity, source, adjust=adjust)
    client.cut = None
    client.offset = 0
    if which == "handshake":
        client.begin()
    else:
        client.connect()
        if number % 25 == 0:
            # The first would be idle for too long otherwise.
            for other in clients:
                other.send(peer.frame(peer.PING))
                other.pump(0)
    client.since = time.monotonic()
    clients.append(client)
connected = sum(client.is_connected for client in clients)
body = peer.put("slow", 1 << 20)


def first(client):
    """What the client starts with."""
    match which:
        case "header":
            return peer.stream(0, 0, b"\0")
        case "body":
            return peer.stream(0, 0, body)
        case "window" | "shut":
            return peer.stream(0, 0, peer.get("big"), fin=True)
        case "unacknowledged":
            return peer.stream(0, 0, peer.get("small"), fin=True)


def more(client):
    """What it goes on with once a second."""
    client.offset += 1
    match which:
        case "header":
            return peer.stream(0, client.offset, b"\0") if client.offset < 3 else b""
        case "body":
            return peer.stream(0, len(body) + client.offset - 1, b"x")
        case "window" | "shut":
            return peer.frame(peer.MAX_STREAM_DATA, 0, WINDOW + client.offset)
        case "unacknowledged":
            return peer.frame(peer.PING)


def attend(client):
    """Takes in what has come for a client, and notes when it took something and when it was cut."""
    before = client.reached.get(0, 0)
    if which == "unacknowledged":
        client.receive()
    else:
        client.pump(0)
    # What comes byte by byte beyond the window is no progress.
    if which == "window" and before < WINDOW and client.reached.get(0, 0) > before:
        client.since = time.monotonic()
    ended = client.ended.get(0)
    if ended == "finished" and which == "unacknowledged":
        ended = None
    if client.cut is None and (client.closed or ended is not None):
        client.cut = time.monotonic() - client.since
        codes[str(client.closed or client.ended)] += 1


for client in clients:
    if client.is_connected:
        client.send(first(client))
        client.since = time.monotonic()
end = time.monotonic() + arguments.seconds
following = time.monotonic() + 1
connections = [client for client in clients if client.is_connected]
while time.monotonic() < end:
    if connections and all(client.cut is not None for client in connections):
        break
    for client in connections:
        attend(client)
    if time.monotonic() > following:
        following += 1
        for client in connections:
            if client.cut is None and (data := more(client)):
                client.send(data)
    time.sleep(0.01)
# A handshake that was cut off doesn't go on, though the client does.
if which == "handshake":
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for client in clients:
            client.pump(0)
    went_on = sum(client.quic._handshake_confirmed for client in clients)
    codes["went on"] = went_on
cuts = sorted(client.cut for client in clients if client.cut is not None)
peer.report(
    connected=connected,
    seconds=round(time.monotonic() - begun, 1),
    cut=len(cuts),
    first=round(cuts[0], 1) if cuts else None,
    codes=codes,
    last=round(cuts[-1], 1) if cuts else None,
)
