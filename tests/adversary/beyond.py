"""Frames for streams beyond the limit: each must end the connection with STREAM_LIMIT_ERROR
(RFC 9000, §4.6), and open nothing on the way there."""

import peer

arguments = peer.arguments()
beyond = 4 * (1 << 40)
attacks = {
    "MAX_STREAM_DATA": peer.frame(peer.MAX_STREAM_DATA, beyond, 1 << 20),
    "RESET_STREAM": peer.frame(peer.RESET_STREAM, beyond, 0, 0),
    "STREAM": peer.stream(beyond, 0, b"x"),
    "STOP_SENDING": peer.frame(peer.STOP_SENDING, beyond, 0),
    "the next one": peer.stream(4 * 100, 0, b"x"),
    "one-way": peer.stream(2, 0, b"x"),
}
codes = {}
for name, attack in attacks.items():
    client = peer.connected(arguments)
    client.send(attack)
    client.wait_for_close(0.5 if name == "STOP_SENDING" else 60)
    codes[name] = client.closed["code"] if client.closed else None
peer.report(codes=codes)
