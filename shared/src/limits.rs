//! Limits both ends must agree on. Changing one is a change of the protocol.
//!
//! What an operator may choose lives in the `Config` of each program; what only one file
//! needs lives at the bottom of that file. See PROTOCOL.md, "Limits".

/// Longest name of one path component, in bytes: `NAME_MAX` of Linux, macOS and most file systems.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path, in bytes with one separator between components: Linux's `PATH_MAX` of 4096
/// counts a closing NUL that never travels.
pub const PATH_BYTES_MAX: usize = 4095;

/// Most components of a path. Each one is a lock that every request below it takes.
pub const PATH_COMPONENTS_MAX: usize = 255;

/// Longest request message, in bytes: two paths of full length and their framing, with room for
/// fields that a later version adds.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Longest message that answers with a fixed set of fields, in bytes.
pub const REPLY_BYTES_MAX: usize = 4 * 1024;

/// Longest message of a listing, in bytes. A sender closes a page before it gets there.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Longest version token, in bytes.
pub const VERSION_BYTES_MAX: usize = 64;

/// Longest digest, in bytes: that of the longest kind, with room for a later 512-bit one.
pub const DIGEST_BYTES_MAX: usize = 64;

/// Longest piece of a body whose size was not declared, in bytes.
pub const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// Longest content of a file among many on one stream, in bytes: its receiver has to hold it in
/// memory until its digest has come. What is longer is worth a stream of its own.
pub const ENCLOSED_BYTES_MAX: usize = 1024 * 1024;

/// Longest fixed phrase that travels beside an error code, in bytes.
pub const PHRASE_BYTES_MAX: usize = 200;

/// Streams a client may have open at once: `initial_max_streams_bidi` of RFC 9000, §18.2.
pub const STREAMS_MAX: u32 = 100;

const _: () = assert!(2 * (PATH_BYTES_MAX + 2 * PATH_COMPONENTS_MAX) < REQUEST_BYTES_MAX);
const _: () = assert!(NAME_BYTES_MAX * 8 < PAGE_BYTES_MAX);
// A cache entry carries a whole path.
const _: () = assert!(2 * (PATH_BYTES_MAX + 2 * PATH_COMPONENTS_MAX) < PAGE_BYTES_MAX);
