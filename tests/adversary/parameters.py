"""Transport parameters that a client must not send (RFC 9000, §7.3, §7.4 and §18.2), one handshake
each, the rest of which is as it should be: the server must refuse every one, and go on."""

import peer
from aioquic.buffer import Buffer

arguments = peer.arguments()
varint = peer.varint


def pairs(data):
    """Parameters as they were written, in their order."""
    buffer = Buffer(data=data)
    while not buffer.eof():
        number, length = buffer.pull_uint_var(), buffer.pull_uint_var()
        yield number, buffer.pull_bytes(length)


def written(parameters):
    """Parameters as they travel."""
    return b"".join(varint(number) + varint(len(value)) + value for number, value in parameters)


def having(number, value):
    """With a parameter of this value, whatever it had before."""
    return lambda data: written([p for p in pairs(data) if p[0] != number] + [(number, value)])


def twice(number):
    """With one parameter more than once."""
    return lambda data: data + written(p for p in pairs(data) if p[0] == number)


def without(number):
    """Without a parameter."""
    return lambda data: written(p for p in pairs(data) if p[0] != number)


attacks = {
    "max_udp_payload_size of 1199": having(0x03, varint(1199)),
    "ack_delay_exponent of 21": having(0x0A, varint(21)),
    "max_ack_delay of 2^14": having(0x0B, varint(1 << 14)),
    "active_connection_id_limit of 1": having(0x0E, varint(1)),
    "initial_max_streams_bidi beyond 2^60": having(0x08, varint((1 << 60) + 1)),
    "initial_max_streams_uni beyond 2^60": having(0x09, varint((1 << 60) + 1)),
    "a number that is longer than its parameter": having(0x04, b"\xc0"),
    "a number that is shorter than its parameter": having(0x04, b"\1\1\1"),
    "disable_active_migration with a value": having(0x0C, b"\1"),
    "original_destination_connection_id of a client": having(0x00, b"i" * 8),
    "stateless_reset_token of a client": having(0x02, b"r" * 16),
    "preferred_address of a client": having(0x0D, b"\0" * 24 + b"\4iiii" + b"r" * 16),
    "retry_source_connection_id of a client": having(0x10, b"i" * 8),
    "initial_source_connection_id of another": having(0x0F, b"another one"),
    "initial_source_connection_id of 21 bytes": having(0x0F, b"i" * 21),
    "no initial_source_connection_id": without(0x0F),
    "initial_max_data twice": twice(0x04),
    "cut short": lambda data: data[:-1],
    "longer than there is": lambda data: data + varint(0x1F3) + varint(1 << 20),
    "nothing at all": lambda data: b"",
}
# What must be overlooked: numbers that are kept free for this, and an empty unknown one.
ACCEPTED = {
    "a reserved parameter": having(31 * 7 + 27, b"anything"),
    "an unknown parameter": having(0x3FFF, b""),
}
codes, connected = {}, []
for name, spoil in (attacks | ACCEPTED).items():

    def adjust(quic, spoil=spoil):
        right = quic._serialize_transport_parameters
        quic._serialize_transport_parameters = lambda: spoil(right())

    client = peer.attempted(arguments, adjust)
    codes[name] = client.closed["code"] if client.closed else None
    if client.is_connected:
        connected.append(name)
        client.send(peer.frame(0x1D, 0, 0))
peer.report(codes=codes, connected=connected, accepted=list(ACCEPTED))
