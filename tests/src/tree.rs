//! Many files on one stream, in both directions.

mod get_many;
pub(crate) mod get_trees;
mod many_operands;
pub(crate) mod put_trees;

use quire_shared::ErrorCode;

/// A name that the client reported as failed, with the server's code if it was the server's refusal.
pub(crate) type FailedEntry = (String, Option<ErrorCode>);
