//! Many files on one stream, in both directions.

pub(crate) mod get_trees;
pub(crate) mod put_trees;
