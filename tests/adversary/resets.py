"""Opens streams and resets them at once, as many as the server lets it."""

import time

import peer

arguments = peer.arguments()
connections, streams, longest, codes = 0, 0, 0.0, {}
end = time.monotonic() + arguments.seconds
while time.monotonic() < end or connections == 0:
    client = peer.Peer(arguments.port, arguments.identity, peer.source(connections))
    if not client.connect():
        continue
    connections += 1
    started = time.monotonic()
    number = 0
    while time.monotonic() < started + 60 and not client.closed:
        allowed = client.quic._remote_max_streams_bidi
        due = int((time.monotonic() - started) * arguments.rate)
        new = range(number, min(allowed, due, number + 500))
        frames = []
        for number_ in new:
            frames.append(peer.stream(4 * number_, 0, b"\0"))
            frames.append(peer.frame(peer.RESET_STREAM, 4 * number_, 7, 1))
        number += len(new)
        for packet in peer.packed(frames):
            client.send(packet)
        client.pump(0)
        if not new:
            time.sleep(0.001)
    streams += number
    longest = max(longest, time.monotonic() - started)
    name = str(client.closed and client.closed["code"])
    codes[name] = codes.get(name, 0) + 1
peer.report(connections=connections, streams=streams, longest=round(longest, 2), codes=codes)
