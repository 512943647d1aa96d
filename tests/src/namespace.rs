//! Names: listing, stat, rename, delete, copy, permissions, and requests that meet at one path.

mod changes;
mod left_behind;
mod listing;
mod locks;
mod lost_answers;
mod permissions;
mod special_files;
