"""A client of QUIC for attacks: an ordinary handshake by aioquic, then any frames one likes.

Nothing here is asynchronous: an attack says itself when it reads, when it acknowledges, and what
it sends, which is the point of it.
"""

import argparse
import json
import os
import socket
import ssl
import time

from aioquic.buffer import encode_uint_var as varint
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

PADDING, PING, RESET_STREAM, STOP_SENDING, CRYPTO = 0x00, 0x01, 0x04, 0x05, 0x06
MAX_STREAM_DATA, NEW_CONNECTION_ID, RETIRE_CONNECTION_ID = 0x11, 0x18, 0x19
PATH_CHALLENGE = 0x1A

# What a handshake is closed with that takes too long (RFC 9000, §20.1).
APPLICATION_ERROR = 0x0C

# Bytes of frames in one packet, which fits every path.
ROOM = 1100


def frame(kind, *fields):
    """A frame whose fields are numbers or raw bytes."""
    parts = [field if isinstance(field, bytes) else varint(field) for field in fields]
    return b"".join([varint(kind), *parts])


def stream(number, offset, data, fin=False):
    """A STREAM frame with offset and length."""
    return frame(0x0E | fin, number, offset, len(data), data)


def message(payload):
    """A message as it travels: a length of four bytes and CBOR."""
    return len(payload).to_bytes(4, "big") + payload


def get(name):
    """A request for a file, whose name has fewer than 24 bytes."""
    return message(b"\x82\x02\xa1\x00\x81" + bytes([0x60 + len(name)]) + name.encode())


def put(name, size):
    """An offer of a file of so many bytes."""
    head = b"\x82\x03\xa2\x00\x81" + bytes([0x60 + len(name)]) + name.encode()
    return message(head + b"\x01\x1a" + size.to_bytes(4, "big"))


class Peer:
    """One connection, from a socket of its own."""

    def __init__(self, port, identity=None, source="127.9.0.1", receive_buffer=None, adjust=None):
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["quire/1"], verify_mode=ssl.CERT_NONE
        )
        if identity is not None:
            configuration.load_cert_chain(identity)
        self.server = ("127.0.0.1", port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setblocking(False)
        self.quic = QuicConnection(configuration=configuration)
        if adjust is not None:
            adjust(self.quic)
        self.bytes_sent = 0
        self.bytes_received = 0
        self.is_connected = False
        # Bytes of streams that have come, how far each has got, and how it ended.
        self.arrived = {}
        self.reached = {}
        self.ended = {}
        # What the server closed the connection with.
        self.closed = None
        self.listen()

    def listen(self):
        """Has frames about streams noted and nothing else: aioquic knows of none of these."""
        handlers = self.quic._QuicConnection__frame_handlers
        close = handlers[0x1C][0]

        def ended(context, kind, buffer):
            number, code = buffer.pull_uint_var(), buffer.pull_uint_var()
            if kind == RESET_STREAM:
                buffer.pull_uint_var()
            if self.ended.get(number, "finished") == "finished":
                self.ended[number] = code

        def arrived(context, kind, buffer):
            number = buffer.pull_uint_var()
            offset = buffer.pull_uint_var() if kind & 4 else 0
            rest = buffer.capacity - buffer.tell()
            length = buffer.pull_uint_var() if kind & 2 else rest
            buffer.seek(buffer.tell() + length)
            self.arrived[number] = self.arrived.get(number, 0) + length
            self.reached[number] = max(self.reached.get(number, 0), offset + length)
            if kind & 1:
                self.ended.setdefault(number, "finished")

        def numbers(count):
            return lambda context, kind, buffer: [buffer.pull_uint_var() for _ in range(count)]

        def closed(context, kind, buffer):
            close(context, kind, buffer)
            event = self.quic._close_event
            self.closed = {"code": event.error_code, "reason": event.reason_phrase}

        def ignored(context, kind, buffer):
            numbers(2)(context, kind, buffer)
            buffer.pull_bytes(buffer.pull_uint8() + 16)

        own = {RESET_STREAM: ended, STOP_SENDING: ended, MAX_STREAM_DATA: numbers(2)}
        own |= {kind: arrived for kind in range(0x08, 0x10)}
        own |= {0x15: numbers(2), 0x1C: closed, 0x1D: closed, NEW_CONNECTION_ID: ignored}
        for kind, handler in own.items():
            handlers[kind] = (handler, handlers[kind][1])

    def begin(self):
        """Sends the first flight."""
        self.quic.connect(self.server, time.monotonic())
        self.transmit()

    def connect(self, limit=20.0):
        """Completes the handshake; says whether that succeeded."""
        self.begin()
        end = time.monotonic() + limit
        while time.monotonic() < end and not self.closed:
            self.pump(0.02)
            if self.quic._handshake_confirmed:
                self.is_connected = True
                return True
        return False

    def wait_for_close(self, limit):
        """Behaves well until the server closes the connection, or for so many seconds."""
        end = time.monotonic() + limit
        while not self.closed and time.monotonic() < end:
            self.send(frame(PING))
            self.pump(0.01)

    def transmit(self):
        """Sends what aioquic wants to be sent, acknowledgements included."""
        for datagram, _ in self.quic.datagrams_to_send(time.monotonic()):
            self.raw(datagram)

    def raw(self, datagram):
        """Sends a datagram as it is."""
        try:
            self.bytes_sent += self.socket.sendto(datagram, self.server)
        except (BlockingIOError, ConnectionRefusedError):
            pass

    def receive(self):
        """Takes in what has arrived, and answers nothing; gives the number of datagrams."""
        count = 0
        while True:
            try:
                datagram = self.socket.recv(65536)
            except (BlockingIOError, ConnectionRefusedError):
                return count
            count += 1
            self.bytes_received += len(datagram)
            if datagram[-16:] == self.quic._peer_cid.stateless_reset_token:
                # The server has forgotten the connection; its close was lost.
                self.closed = self.closed or {"code": -1, "reason": "stateless reset"}
            self.quic.receive_datagram(datagram, self.server, time.monotonic())

    def pump(self, seconds):
        """Behaves well for a while."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            timer = self.quic.get_timer()
            if timer is not None and timer <= now:
                self.quic.handle_timer(now)
            arrived = self.receive()
            self.transmit()
            if now >= end:
                return
            if not arrived:
                time.sleep(0.002)

    def send(self, frames):
        """Sends one packet of these frames, which aioquic doesn't know of, while it has keys."""
        if self.closed or not self.is_connected:
            return
        pair = self.quic._cryptos[Epoch.ONE_RTT]
        number = self.quic._packet_number
        self.quic._packet_number += 1
        header = bytes([0x43 | (pair.key_phase << 2)]) + self.quic._peer_cid.cid
        header += (number & 0xFFFFFFFF).to_bytes(4, "big")
        self.raw(pair.encrypt_packet(header, frames, number))


def connected(arguments):
    """A client that is connected: on a busy machine a handshake may take longer than it may."""
    for _ in range(10):
        client = Peer(arguments.port, arguments.identity)
        if client.connect():
            return client
    raise SystemExit(f"no connection: {client.closed}")


def attempted(arguments, adjust, tries=10):
    """A client after a handshake that was changed, whichever way that ended, but by taking longer
    than it may, as on a busy machine any handshake can."""
    for _ in range(tries):
        client = Peer(arguments.port, arguments.identity, adjust=adjust)
        client.connect()
        if not client.closed or client.closed["code"] != APPLICATION_ERROR:
            break
    return client


def packed(frames):
    """The frames, as many together as fit into a packet."""
    room = b""
    for one in frames:
        if len(room) + len(one) > ROOM:
            yield room
            room = b""
        room += one
    if room:
        yield room


def arguments():
    """What every attack is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--identity", help="certificate and key of a client that may do all")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="of what the attack counts")
    parser.add_argument("--clients", type=int, default=1)
    return parser.parse_args()


def source(number):
    """One address of many."""
    return f"127.9.{number // 250}.{number % 250 + 1}"


def paced(seconds, rate, batch):
    """Gives turns of `batch` for so long, so that `rate` of them go by in a second."""
    start = time.monotonic()
    turn = 0
    while (now := time.monotonic()) < start + seconds:
        due = start + turn * batch / rate
        if due > now:
            time.sleep(min(due - now, start + seconds - now))
            continue
        yield turn
        turn += 1


def report(**figures):
    """Says what came of it, for the test to read."""
    print(json.dumps(figures), flush=True)
    # Without waiting for what threads and destructors may still do.
    os._exit(0)
