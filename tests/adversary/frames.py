"""Frames that don't exist or can't be, one connection each: every one must end its connection
with an error of the transport, and nothing else."""

import random

import peer

arguments = peer.arguments()
dice = random.Random(11)
HUGE = (1 << 62) - 1
attacks = {
    "unknown": peer.frame(0x21),
    "unknown and long": peer.frame(0x1F3A),
    "type of two bytes for one": b"\x40\x01",
    "datagram": peer.frame(0x30, b"x" * 20),
    "HANDSHAKE_DONE": peer.frame(0x1E),
    "NEW_TOKEN": peer.frame(0x07, 3, b"abc"),
    "MAX_STREAMS beyond 2^60": peer.frame(0x12, HUGE),
    "STREAM beyond 2^62": peer.stream(0, HUGE, b"xx"),
    "STREAM beyond the window": peer.stream(0, 1 << 40, b"x"),
    "STREAM cut short": peer.frame(0x0E, 0, 0, 500, b"x"),
    "CRYPTO beyond its buffer": peer.frame(peer.CRYPTO, 1 << 20, 1, b"x"),
    "CRYPTO of no message": peer.frame(peer.CRYPTO, 0, 8, b"\xff" * 8),
    "NEW_CONNECTION_ID of no bytes": peer.frame(0x18, 9, 0, b"\0", b"r" * 16),
    "NEW_CONNECTION_ID of 30 bytes": peer.frame(0x18, 9, 0, b"\x1e", b"i" * 30, b"r" * 16),
    "NEW_CONNECTION_ID that retires later ones": peer.frame(0x18, 1, 2, b"\x04", b"i" * 4, b"r" * 16),
    "RETIRE_CONNECTION_ID never issued": peer.frame(0x19, HUGE),
    "PATH_RESPONSE never asked for": peer.frame(0x1B, b"12345678"),
    "ACK of more than there is": peer.frame(0x02, 5, 0, 0, 9),
    "ACK with ranges below zero": peer.frame(0x02, 5, 0, 2, 1, 1, 1, 1, 1),
    "ACK that promises more ranges": peer.frame(0x02, 5, 0, HUGE, 0),
    "RESET_STREAM of another size": peer.stream(0, 0, b"abc") + peer.frame(0x04, 0, 0, 1),
    "STREAM after its end": peer.stream(0, 0, b"abc", fin=True) + peer.stream(0, 3, b"d"),
    "STOP_SENDING of a one-way stream": peer.frame(0x05, 2, 0),
    "nothing": b"",
}
# May be accepted: RFC 9000 asks for no error, or leaves it to the receiver.
ACCEPTED = {
    "PATH_RESPONSE never asked for",
    "STREAM after its end",
    "STOP_SENDING of a one-way stream",
    "type of two bytes for one",
}
codes, survived = {}, []


def attack(name, frames):
    client = peer.connected(arguments)
    client.send(frames)
    client.wait_for_close(0.3 if name in ACCEPTED else 60)
    codes[name] = client.closed["code"] if client.closed else None
    if client.closed is None and name not in ACCEPTED:
        survived.append(name)
    if client.closed is None:
        client.send(peer.frame(0x1D, 0, 0))


for name, frames in attacks.items():
    attack(name, frames)
# And what no list has, for as long as there is time.
noise = 0
for _ in peer.paced(arguments.seconds, 1e9, 1):
    client = peer.Peer(arguments.port, arguments.identity)
    if client.connect():
        while not client.closed and noise % 40 != 39:
            noise += 1
            client.send(dice.randbytes(dice.randrange(1, 1000)))
            client.pump(0.002)
        noise += 1
peer.report(codes=codes, survived=survived, noise=noise)
