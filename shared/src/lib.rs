//! The protocol of quire: what a client and a server have to agree on.
//!
//! A client asks for one thing on each bidirectional QUIC stream: it sends a
//! [`Request`](protocol::Request), and the server answers with a [`Reply`](protocol::Reply). Files
//! travel between such messages as raw bytes. `docs/PROTOCOL.md` specifies all of it in words; its
//! requirements have numbers (P1, P2, …), which the comments and tests here refer to.
//!
//! | module | contents |
//! |---|---|
//! | [`protocol`] | every message, and the table of requests |
//! | [`codec`] | messages as length-prefixed CBOR (RFC 8949) |
//! | [`chunks`] | how files are cut into chunks that two versions have in common |
//! | [`path`] | names and paths, checked while they are decoded |
//! | [`digest`] | digests of file contents |
//! | [`error_code`] | the table of error codes |
//! | [`pairing`] | proof of a one-time code, to add a client's key |
//! | [`limits`] | sizes that both ends enforce |
//!
//! The crate does no input or output and knows nothing of QUIC: `quire-transport` carries its
//! messages. To add a request, add a line to the table in [`protocol`] and declare its message.
//!
//! ```
//! use quire_shared::RemotePath;
//! use quire_shared::codec::{self, PREFIX_BYTES};
//! use quire_shared::protocol::{Request, Stat};
//!
//! let path = RemotePath::parse("photos/2026").unwrap();
//! let request = Request::from(Stat::of(path));
//! let bytes = codec::encode(&request).unwrap();
//! assert_eq!(codec::decode(&bytes[PREFIX_BYTES..]), Ok(request));
//! ```

pub mod chunks;
pub mod codec;
pub mod digest;
pub mod error_chain;
pub mod error_code;
mod escaped;
pub mod limits;
mod octets;
pub mod pairing;
pub mod path;
pub mod protocol;
mod side;

pub use error_chain::ErrorChain;
pub use error_code::ErrorCode;
pub use escaped::{Escaped, EscapedBytes, EscapedPath, Printable};
pub use path::{Name, RemotePath};
pub use side::Side;
