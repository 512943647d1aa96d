"""What a network device does in place of the processor, as the kernel tells `ethtool -k`.

A ratio between TCP and UDP depends on it: a card that splits the segments of one and not those of
the other makes another race of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from .namespaces import Namespace

# linux/sockios.h and linux/ethtool.h
SIOCETHTOOL = 0x8946
GET_STRINGS, GET_SET_INFO, GET_FEATURES = 0x1B, 0x37, 0x3A
FEATURES_SET = 4
NAME_BYTES = 32
# `ethtool_get_features_block`: available, requested, active, never changed.
BLOCK_WORDS, ACTIVE_WORD, FEATURES_PER_BLOCK = 4, 2, 32
# Those of consequence for bulk transfers; the rest is about tunnels and VLANs.
TELLING = ("tx-tcp-segmentation", "tx-udp-segmentation", "tx-generic-segmentation", "tx-checksum-ip-generic",
           "rx-gro", "rx-gro-list", "rx-udp-gro-forwarding", "rx-lro")


def active(namespace: Namespace, device: str) -> list[str]:
    """The features of a device that are on, or nothing where the kernel doesn't tell."""
    with namespace.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return _active(any_socket, device)
        except OSError:
            return []


def _ask(any_socket: socket.socket, device: str, request: bytes, room: int) -> bytes:
    buffer = ctypes.create_string_buffer(request, len(request) + room)
    # An `ifreq`: the name in 16 bytes, and a pointer to the request.
    fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(buffer)))
    return buffer.raw


def _active(any_socket: socket.socket, device: str) -> list[str]:
    head = struct.pack("=IIQ", GET_SET_INFO, 0, 1 << FEATURES_SET)
    count = struct.unpack_from("=I", _ask(any_socket, device, head, 4), len(head))[0]
    head = struct.pack("=III", GET_STRINGS, FEATURES_SET, count)
    names = _ask(any_socket, device, head, count * NAME_BYTES)[len(head):]
    blocks = -(-count // FEATURES_PER_BLOCK)
    head = struct.pack("=II", GET_FEATURES, blocks)
    words = struct.unpack(f"={blocks * BLOCK_WORDS}I",
                          _ask(any_socket, device, head, blocks * BLOCK_WORDS * 4)[len(head):])
    found = []
    for index in range(count):
        block, bit = divmod(index, FEATURES_PER_BLOCK)
        if words[block * BLOCK_WORDS + ACTIVE_WORD] >> bit & 1:
            found.append(names[index * NAME_BYTES:][:NAME_BYTES].rstrip(b"\0").decode())
    return found
