//! What each request does, one file per request.

pub(crate) mod cache;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod get_tree;
pub(crate) mod hash;
pub(crate) mod list;
pub(crate) mod make_directory;
pub(crate) mod pair;
pub(crate) mod ping;
pub(crate) mod put;
pub(crate) mod put_many;
pub(crate) mod rename;
pub(crate) mod stat;
