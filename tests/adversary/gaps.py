"""Pieces of one byte with holes between them, on as many streams as there may be (STREAM), or in
the handshake's stream (CRYPTO): each piece costs its receiver more than the byte that it holds.
The client comes again whenever it is sent away."""

import os
import sys
import time

import peer

which = os.environ.get("WHICH", "stream")
arguments = peer.arguments()
connections, frames, codes = 0, 0, {}
end = time.monotonic() + arguments.seconds


def pieces():
    """One byte in every two, without the first of each stream: on many streams as many as are
    accepted and fit the window, and then on one stream more than that."""
    if which == "crypto":
        yield from (peer.frame(peer.CRYPTO, offset, 1, b"x") for offset in range(1, 1 << 20, 2))
        return
    for number in range(60):
        yield from (peer.stream(4 * number, offset, b"x") for offset in range(1, 2000, 2))
    yield from (peer.stream(0, offset, b"x") for offset in range(2001, 1 << 20, 2))


while time.monotonic() < end or connections == 0:
    client = peer.Peer(arguments.port, arguments.identity, peer.source(connections))
    if not client.connect():
        continue
    connections += 1
    for count, packet in enumerate(peer.packed(pieces())):
        client.send(packet)
        frames += packet.count(b"x")
        if count % 50 == 0:
            client.receive()
            if client.closed or client.ended:
                break
    # On a busy machine the server may give up the streams, which bring no request in time, before
    # the last piece is sent; it takes no notice of what they bring from then on.
    if not client.ended:
        client.wait_for_close(60)
    closed = client.closed
    name = f"{closed['code']:#x}" if closed else "given up" if client.ended else "open"
    codes[name] = codes.get(name, 0) + 1
peer.report(connections=connections, frames=frames, codes=codes)
