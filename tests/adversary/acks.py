"""Acknowledges packets of a download that haven't arrived, to make the server send faster than
the path bears (RFC 9000, §21.4): numbers not sent yet, or all numbers up to one that was sent,
of which a careful server leaves some out.

An honest client, for comparison, acknowledges what it has. All say what had come by when, counted
from the first of the file on."""

import os
import socket
import time

import peer

which = os.environ.get("WHICH", "unsent")
arguments = peer.arguments()
client = peer.connected(arguments)
client.pump(0.2)
# As much as may come before it is looked at, so that little is lost where it is counted.
client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
windows = peer.frame(0x10, 1 << 40) + peer.frame(peer.MAX_STREAM_DATA, 0, 1 << 40)
client.send(peer.stream(0, 0, peer.get("big"), fin=True) + windows)
before = client.bytes_received
started = time.monotonic()
ahead = {"unsent": 1000, "all": 0, "honest": None}[which]
space = client.quic._spaces[peer.Epoch.ONE_RTT]
begun = None
arrived = []
while time.monotonic() < started + arguments.seconds and not client.closed:
    if ahead is None:
        client.pump(0.002)
    else:
        client.receive()
        largest = max((r.stop - 1 for r in space.ack_queue), default=0)
        # One range from packet 0 on.
        client.send(peer.frame(0x02, largest + ahead, 0, 0, largest + ahead))
        time.sleep(0.002)
    if begun is None and client.bytes_received - before > 1000:
        begun = time.monotonic()
    if begun is not None:
        arrived.append((time.monotonic() - begun, client.bytes_received - before))
client.receive()
now = time.monotonic()
peer.report(
    received=client.bytes_received - before,
    seconds=round(now - (now if begun is None else begun), 4),
    until_close=round(now - started, 4),
    arrived=arrived if ahead is None else [],
    closed=client.closed,
)
