//! Limits that both ends must agree on. Changing one changes the protocol.
//!
//! Values that an operator may choose are in the `Config` of each program. Constants of a single
//! file are at the bottom of that file. See PROTOCOL.md, "Limits".

/// Longest name of one path component, in bytes: `NAME_MAX` of Linux, macOS and most file systems.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path, in bytes with one separator between components: Linux's `PATH_MAX` of 4096
/// counts a closing NUL that never travels.
pub const PATH_BYTES_MAX: usize = 4095;

/// Most components of a path. A request locks each of them, so this bounds the locks of a request.
pub const PATH_COMPONENTS_MAX: usize = 255;

/// Longest request message, in bytes: two paths of full length and their framing, with room for
/// fields that a later version adds.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Longest reply with a fixed set of fields, in bytes.
pub const REPLY_BYTES_MAX: usize = 4 * 1024;

/// Longest reply that tells of a file, in bytes: one with a fixed set of fields, and with the details
/// that the request asked for. Without them it stays within [`REPLY_BYTES_MAX`].
pub const DETAILED_BYTES_MAX: usize = 16 * 1024;

/// Longest page of a listing, in bytes. The server starts a new page before it reaches this.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Longest version token, in bytes.
pub const VERSION_BYTES_MAX: usize = 64;

/// Longest target of a symbolic link that is told, in bytes: a reply with it stays within
/// [`REPLY_BYTES_MAX`].
pub const LINK_TARGET_BYTES_MAX: usize = 2048;

/// Longest identity of a file that has several names, in bytes: room for 128 bits, which are the same
/// for two files by chance only.
pub const HARD_LINK_BYTES_MAX: usize = 16;

/// Most names that aren't UTF-8 and are told beside their number, of one directory.
pub const RAW_NAMES_MAX: usize = 8;

/// Longest name of an extended attribute, in bytes: `XATTR_NAME_MAX` of Linux.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Most bytes of the names and values of a file's extended attributes: twice what ext4 stores for a
/// file, and a request with them and the longest path stays within [`REQUEST_BYTES_MAX`].
pub const XATTRS_BYTES_MAX: usize = 8 * 1024;

/// Most extended attributes of a file: far more than programs set, and it bounds the system calls for
/// a file.
pub const XATTRS_MAX: usize = 64;

/// Longest name of a user or group, in bytes: `LOGIN_NAME_MAX` of Linux, without the closing NUL.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 255;

/// Longest digest, in bytes: room for a 512-bit digest in a later version.
pub const DIGEST_BYTES_MAX: usize = 64;

/// Longest piece of a body whose size was not declared, in bytes.
pub const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// Longest file that is sent among many on one stream, in bytes. The receiver keeps it in memory
/// until its digest has arrived; a longer file gets a stream of its own.
pub const ENCLOSED_BYTES_MAX: usize = 1024 * 1024;

/// Shortest extent of a body before its last one, in bytes: it bounds what a receiver does for each
/// byte of a file. Shorter holes aren't worth the extents of their own.
pub const EXTENT_BYTES_MIN: usize = 64 * 1024;

/// Longest phrase beside an error code, in bytes.
pub const PHRASE_BYTES_MAX: usize = 200;

/// Streams that a client may have open at once: `initial_max_streams_bidi` (RFC 9000, §18.2).
pub const STREAMS_MAX: u32 = 100;

const _: () = assert!(2 * (PATH_BYTES_MAX + 2 * PATH_COMPONENTS_MAX) < REQUEST_BYTES_MAX);
// The details of a file fit beside the fields of a request with a path, and of a reply.
const _: () =
    assert!(PATH_BYTES_MAX + 2 * PATH_COMPONENTS_MAX + DETAILS_BYTES + 1024 < REQUEST_BYTES_MAX);
const _: () = assert!(REPLY_BYTES_MAX + DETAILS_BYTES < DETAILED_BYTES_MAX);
// A page holds at least some of the largest entries.
const _: () = assert!(NAME_BYTES_MAX * 8 < PAGE_BYTES_MAX);
// An entry of the cache listing carries a whole path.
const _: () = assert!(2 * (PATH_BYTES_MAX + 2 * PATH_COMPONENTS_MAX) < PAGE_BYTES_MAX);

/// Upper bound of the bytes of a file's details: all heads take less than eight bytes.
const DETAILS_BYTES: usize =
    XATTRS_BYTES_MAX + XATTRS_MAX * 8 + 2 * (ACCOUNT_NAME_BYTES_MAX + 16) + 16;
