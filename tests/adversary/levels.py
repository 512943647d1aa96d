"""Messages of the TLS handshake where they don't belong: in packets of another level, across the
change of keys, again, or of a kind that QUIC doesn't have (RFC 9001, §4.1.3, §6 and §8.3)."""

import peer

arguments = peer.arguments()
Epoch = peer.Epoch
KEY_UPDATE = b"\x18\0\0\1\0"
FINISHED = b"\x14\0\0\x20" + b"f" * 32


def more(level, extra):
    """What the client says at one level, and this after it."""

    def change(epoch, data):
        return [(epoch, data + extra if epoch == level and data else data)]

    return change


def moved(level, other):
    """What belongs to one level, in packets of another."""
    return lambda epoch, data: [(other if epoch == level else epoch, data)]


def hooked(change):
    """Has messages changed before they are sent."""

    def adjust(quic):
        def push():
            for epoch, buffer in quic._crypto_buffers.items():
                for other, data in change(epoch, buffer.data):
                    quic._crypto_streams[other].sender.write(data)
                buffer.seek(0)

        quic._push_crypto_data = push

    return adjust


# In the handshake.
during = {
    "Finished after ClientHello": more(Epoch.INITIAL, FINISHED),
    "half a message after ClientHello": more(Epoch.INITIAL, FINISHED[:10]),
    "ClientHello of another protocol": lambda epoch, data: [
        (epoch, data.replace(b"\x07quire/1", b"\x07quire/0"))
    ],
    "the client's flight in first packets": moved(Epoch.HANDSHAKE, Epoch.INITIAL),
    "the client's flight in packets of requests": moved(Epoch.HANDSHAKE, Epoch.ONE_RTT),
    "Finished twice": more(Epoch.HANDSHAKE, FINISHED),
    "half a message after Finished": more(Epoch.HANDSHAKE, FINISHED[:10]),
    "KeyUpdate in the handshake": more(Epoch.HANDSHAKE, KEY_UPDATE),
    "a proof that is wrong": lambda epoch, data: [
        (epoch, data[:-1] + bytes([data[-1] ^ 1]) if epoch == Epoch.HANDSHAKE and data else data)
    ],
}
# When it is over.
after = {
    "KeyUpdate": KEY_UPDATE,
    "Finished": FINISHED,
    "ClientHello": b"\x01\0\0\x26" + b"h" * 38,
    "an unrequested certificate": b"\x0b\0\0\4\0\0\0\0",
    "EndOfEarlyData": b"\x05\0\0\0",
    "a session ticket from a client": b"\x04\0\0\x0e" + b"\0" * 14,
}
# What the server has no keys for is dropped, until the handshake has taken too long.
DROPPED = "the client's flight in packets of requests"
codes, connected = {}, []


def note(name, client):
    """Notes how the server takes it."""
    client.wait_for_close(60)
    codes[name] = client.closed["code"] if client.closed else None
    if not client.closed:
        connected.append(name)


for name, change in during.items():
    client = peer.attempted(arguments, hooked(change), tries=1 if name == DROPPED else 10)
    note(name, client)
for name, data in after.items():
    client = peer.connected(arguments)
    # After what the handshake may have sent at this level, which is nothing.
    client.send(peer.frame(peer.CRYPTO, 0, len(data), data))
    note(name, client)
peer.report(codes=codes, connected=connected, dropped=DROPPED)
