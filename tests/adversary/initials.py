"""First packets by the thousand from addresses that go no further: whole ones, and ones with
broken transport parameters, unknown frames, unknown versions, nothing but a close, or noise, each
kind a share of all."""

import os
import random
import socket

from aioquic.quic.crypto import CryptoPair

import peer

KINDS = ["whole", "parameters", "frame", "close", "version", "noise", "again"]
if os.environ.get("WHICH"):
    KINDS = [os.environ["WHICH"]]
ADDRESSES = 200
TEMPLATES = 20

arguments = peer.arguments()
dice = random.Random(7)


def hello(spoil=None):
    """A ClientHello as aioquic makes it, with transport parameters spoilt."""
    client = peer.Peer(arguments.port)
    if spoil is not None:
        parameters = client.quic._serialize_transport_parameters

        def spoilt():
            return spoil(parameters())

        client.quic._serialize_transport_parameters = spoilt
    client.quic.connect(client.server, 0.0)
    data = bytes(client.quic._crypto_streams[peer.Epoch.INITIAL].sender._buffer)
    client.socket.close()
    return data


def spoil(parameters):
    """One of the ways in which parameters can be wrong."""
    match dice.randrange(5):
        case 0:
            at = dice.randrange(len(parameters))
            return parameters[:at] + bytes([dice.randrange(256)]) + parameters[at + 1 :]
        case 1:
            return parameters[: dice.randrange(len(parameters))]
        case 2:
            return parameters + parameters
        case 3:
            # A largest datagram of 5 bytes, and a delay of 2^62 - 1.
            huge = b"\xff" * 8
            return parameters + b"\x03\x01\x05" + b"\x0b\x08" + huge
        case _:
            return bytes(dice.randrange(256) for _ in range(200))


def initial(frames, version=1, size=1200):
    """A first packet of these frames, for a connection of its own."""
    to, own = os.urandom(8), os.urandom(8)
    pair = CryptoPair()
    pair.setup_initial(cid=to, is_client=True, version=1)
    head = bytes([0xC3]) + version.to_bytes(4, "big")
    head += bytes([len(to)]) + to + bytes([len(own)]) + own + b"\0"
    length = size - len(head) - 2
    frames = frames[: length - 20].ljust(length - 4 - 16, b"\0")
    head += (0x4000 | length).to_bytes(2, "big") + bytes(4)
    return pair.encrypt_packet(head, frames, 0)


wholes = [hello() for _ in range(TEMPLATES)]
spoilts = [hello(spoil) for _ in range(TEMPLATES * 5)]


def datagram(number):
    """The datagram of this number."""
    match KINDS[number % len(KINDS)]:
        case "again" if number >= len(KINDS):
            # What a client sends that hears nothing.
            return datagrams[number - KINDS.index("again") + KINDS.index("whole")]
        case "whole" | "again":
            return initial(peer.frame(peer.CRYPTO, 0, *sized(dice.choice(wholes))))
        case "parameters":
            return initial(peer.frame(peer.CRYPTO, 0, *sized(dice.choice(spoilts))))
        case "frame":
            kind = dice.choice([0x1F, 0x20, 0x21, 0x3F, 0x40, 0x4000, 0x30, 0x08, 0x1E])
            return initial(peer.frame(kind, os.urandom(40)))
        case "close":
            return initial(peer.frame(0x1C, 0, 0, 0))
        case "version":
            return initial(b"", version=dice.choice([0x1A2A3A4A, 2, 0xFF00001D]))
        case "noise":
            return bytes([0xC0 | dice.randrange(64)]) + os.urandom(dice.randrange(30, 1400))


def sized(data):
    """Length and bytes."""
    return len(data), data


count = int(arguments.seconds * arguments.rate)
datagrams = []
for number in range(min(count, 20_000)):
    datagrams.append(datagram(number))
sockets = []
for number in range(ADDRESSES):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((peer.source(number), 0))
    one.setblocking(False)
    sockets.append(one)
server = ("127.0.0.1", arguments.port)
BATCH = 20
sent = out = received = 0
print("ready", flush=True)
for turn in peer.paced(arguments.seconds, arguments.rate, BATCH):
    for number in range(turn * BATCH, (turn + 1) * BATCH):
        data = datagrams[number % len(datagrams)]
        try:
            # An address of many, so that each kind comes from each.
            out += sockets[(number // len(KINDS)) % ADDRESSES].sendto(data, server)
            sent += 1
        except BlockingIOError:
            pass
for one in sockets:
    try:
        while True:
            received += len(one.recv(65536))
    except BlockingIOError:
        pass
peer.report(datagrams=sent, sent=out, received=received)
