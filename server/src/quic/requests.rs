//! Requests with more than one message in either direction, one file each.

pub(crate) mod chunks;
pub(crate) mod get;
pub(crate) mod get_many;
pub(crate) mod get_tree;
pub(crate) mod list;
pub(crate) mod list_cache;
pub(crate) mod put;
pub(crate) mod put_delta;
pub(crate) mod put_many;
pub(crate) mod uploads;
