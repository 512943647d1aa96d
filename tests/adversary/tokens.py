"""First packets to a server that has every address proved (Retry of RFC 9000, §8.1.2): with tokens
that were changed or given to another address, and the same packets again and again, also where the
server refuses the connection that they begin."""

import time

import peer

arguments = peer.arguments()
REPEATED = 100


def begun(source, token=b""):
    """A client that has sent its first packet, with this token."""

    def adjust(quic):
        quic._peer_token = token

    client = peer.Peer(arguments.port, arguments.identity, source, adjust=adjust)
    client.flights = []
    send = client.raw

    def noted(datagram):
        client.flights.append(datagram)
        send(datagram)

    client.raw = noted
    client.begin()
    return client


def answer(client, may_be_asked=True):
    """What the server says to its last packet: it asks for a proof, lets the client in, or closes
    with a code."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        client.pump(0.002)
        if may_be_asked and client.quic._retry_count:
            return "asked"
        if client.closed:
            return f"closed {client.closed['code']:#x}"
        if client.quic._handshake_confirmed:
            client.is_connected = True
            return "let in"
    return "nothing"


def proved(source):
    """A client that was asked for a proof, and has sent it."""
    client = begun(source)
    assert answer(client) == "asked"
    return client


def changed(token):
    """The token with a byte changed, each in turn, and cut short, and others in its place."""
    for at in range(len(token)):
        yield token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
        yield token[:at]
    yield token + b"t"
    yield from (b"t" * length for length in (1, 64, 600))


def repeat(client):
    """Sends the first packet again, of those with a token if there are any."""
    token = client.quic._peer_token
    packet = next(flight for flight in client.flights if token in flight)
    for _ in range(REPEATED):
        client.raw(packet)


answers = {}
token = proved(peer.source(1)).quic._peer_token
answers["of another address"] = [answer(begun(peer.source(2), token))]
answers["changed"] = sorted({answer(begun(peer.source(1), other)) for other in changed(token)})

# Each of the first is answered, and none of the answers is longer.
client = begun(peer.source(3))
repeat(client)
asked = [answer(client)]
client.pump(0.2)
asked.append(client.bytes_received <= client.bytes_sent)
asked.append(answer(client, may_be_asked=False))
answers["none, repeated"] = asked
client = proved(peer.source(4))
repeat(client)
answers["right, repeated"] = [answer(client, may_be_asked=False)]

# As many connections as this address may have, and then more.
kept = []
while answer(client := proved(peer.source(5)), may_be_asked=False) == "let in":
    kept.append(client)
answers["right, of a full address"] = [f"closed {client.closed['code']:#x}"]
client = proved(peer.source(5))
repeat(client)
answers["right, of a full address, repeated"] = [answer(client, may_be_asked=False)]
# None of those that were let in has noticed.
for client in kept:
    client.send(peer.frame(peer.PING))
    client.pump(0.01)
answers["those let in"] = [client.closed for client in kept if client.closed]
peer.report(answers=answers, kept=len(kept))
