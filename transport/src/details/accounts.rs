//! Names and numbers of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! The files are read once, so that a server knows the names behind its sandbox, where it can't read
//! them, and so that no request waits for a directory service. What only such a service knows goes by
//! its number.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::LazyLock;

use quire_shared::protocol::{AccountName, NamedId};

/// Users of this system.
pub static USERS: LazyLock<AccountTable> = LazyLock::new(|| AccountTable::read("/etc/passwd"));

/// Groups of this system.
pub static GROUPS: LazyLock<AccountTable> = LazyLock::new(|| AccountTable::read("/etc/group"));

/// Reads the files, if that wasn't done yet. Blocks; a server calls it before it enters its sandbox.
pub fn load() {
    LazyLock::force(&USERS);
    LazyLock::force(&GROUPS);
}

/// Names and numbers of one kind of accounts.
#[derive(Debug, Default)]
pub struct AccountTable {
    ids: HashMap<AccountName, u32>,
    names: HashMap<u32, AccountName>,
}

impl AccountTable {
    fn read(path: &str) -> Self {
        let mut text = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => Self::parse(&text),
            // A system without the file has no names, and all goes by number.
            Err(_) => Self::default(),
        }
    }

    /// Takes lines of `name:password:number:…`. Of several with one name or number, the first counts,
    /// as for the system.
    fn parse(text: &[u8]) -> Self {
        let mut table = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let name = str::from_utf8(name).ok().and_then(AccountName::new);
            let id = str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            if let Some((name, id)) = name.zip(id) {
                table.ids.entry(name.clone()).or_insert(id);
                table.names.entry(id).or_insert(name);
            }
        }
        table
    }

    /// The account with this number, by its name as well if it has one.
    pub fn account(&self, id: u32) -> NamedId {
        NamedId {
            id,
            name: self.names.get(&id).cloned(),
        }
    }

    /// The number here of an account of the other end: that of its name, if that is known here, else
    /// its own.
    pub fn id_of(&self, account: &NamedId) -> u32 {
        let known = account.name.as_ref().and_then(|name| self.ids.get(name));
        known.copied().unwrap_or(account.id)
    }
}

/// Most bytes of a file that are read: some hundred thousand accounts, and a bound of the memory.
const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_known_here_counts_before_its_number() {
        let text = b"root:x:0:0::/root:/bin/sh\nalice:x:1000:\nalso-alice:x:1000:\n\
            alice:x:7:\n# broken\n:x:5:\nbob:x:many:\n\xff:x:9:\n";
        let table = AccountTable::parse(text);
        let account = |name: &str, id| NamedId {
            id,
            name: AccountName::new(name),
        };
        assert_eq!(table.account(1000), account("alice", 1000));
        assert_eq!(table.account(5), account("", 5));
        assert_eq!(table.id_of(&account("alice", 3)), 1000);
        assert_eq!(table.id_of(&account("also-alice", 3)), 1000);
        assert_eq!(table.id_of(&account("bob", 3)), 3);
        assert_eq!(table.id_of(&account("", 0)), 0);
    }
}
