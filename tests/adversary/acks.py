"""Acknowledges packets of a download that haven't arrived, to make the server send faster than
the path bears (RFC 9000, §21.4): numbers not sent yet, or all numbers up to one that was sent,
of which a careful server leaves some out."""

import os
import time

import peer

which = os.environ.get("WHICH", "unsent")
arguments = peer.arguments()
client = peer.connected(arguments)
client.pump(0.2)
client.send(peer.stream(0, 0, peer.get("big"), fin=True))
before = client.bytes_received
started = time.monotonic()
ahead = {"unsent": 1000, "all": 0, "honest": None}[which]
space = client.quic._spaces[peer.Epoch.ONE_RTT]
while time.monotonic() < started + arguments.seconds and not client.closed:
    if ahead is None:
        client.pump(0.005)
        continue
    client.receive()
    largest = max((r.stop - 1 for r in space.ack_queue), default=0)
    # One range from packet 0 on.
    client.send(peer.frame(0x02, largest + ahead, 0, 0, largest + ahead))
    client.send(peer.frame(0x10, 1 << 40) + peer.frame(peer.MAX_STREAM_DATA, 0, 1 << 40))
    time.sleep(0.002)
client.receive()
peer.report(
    received=client.bytes_received - before,
    seconds=round(time.monotonic() - started, 2),
    closed=client.closed,
)
