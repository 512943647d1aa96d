//! Changes that were made or are being made, in memory.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use quire_certs::Fingerprint;
use quire_shared::digest::Digest;
use tokio_util::sync::CancellationToken;

use super::record::{ChangeKey, ChangeRecord, HEADER, Intent, MadeChange};

/// Changes by key and identifier. Those that were made are bounded in number and age; those that are
/// being made, by what a client may ask for at once.
#[derive(Debug, Default)]
pub(super) struct OutcomeTable {
    changes: HashMap<ChangeKey, KnownChange>,
    /// Those that were made, by number, which is the order in which they were.
    order: BTreeMap<u64, (ChangeKey, u64)>,
    of_owner: HashMap<Fingerprint, BTreeSet<u64>>,
    next: u64,
    /// When something was forgotten that may have been younger than [`KEEP_SECONDS`].
    forgotten: Option<u64>,
}

#[derive(Debug)]
enum KnownChange {
    /// It is being made, or waits for its locks.
    Running {
        request: Digest,
        ended: CancellationToken,
        /// What is stored of it.
        intent: Option<Intent>,
    },
    Made {
        made: MadeChange,
        number: u64,
    },
}

/// What is known of a change that a client asks for.
#[derive(Debug)]
pub(super) enum Known {
    /// Nothing: it is for the caller to make it, and to end its entry with this token.
    Nothing(CancellationToken),
    /// It is being made until this token is cancelled.
    Running(CancellationToken),
    /// It was made.
    Made(MadeChange),
    /// Another change has this identifier.
    Other,
}

impl OutcomeTable {
    /// Looks a change up, and enters it as running if nothing is known of it.
    pub(super) fn enter(&mut self, key: ChangeKey, request: &Digest) -> Known {
        let free = match self.changes.entry(key) {
            Entry::Vacant(free) => free,
            Entry::Occupied(known) => {
                return match known.get() {
                    KnownChange::Running {
                        request: known,
                        ended,
                        ..
                    } if known == request => Known::Running(ended.clone()),
                    KnownChange::Made { made, .. } if made.request == *request => {
                        Known::Made(made.clone())
                    }
                    _ => Known::Other,
                };
            }
        };
        let ended = CancellationToken::new();
        free.insert(KnownChange::Running {
            request: request.clone(),
            ended: ended.clone(),
            intent: None,
        });
        Known::Nothing(ended)
    }

    /// Keeps what is stored of a change that begins.
    pub(super) fn begin(&mut self, begun: Intent) {
        if let Some(KnownChange::Running { intent, .. }) = self.changes.get_mut(&begun.change.key) {
            *intent = Some(begun);
        }
    }

    /// Enters a change as made.
    pub(super) fn add(&mut self, made: MadeChange) {
        self.remove(&made.key);
        let number = self.next;
        self.next += 1;
        let key = made.key;
        self.order.insert(number, (key, made.time));
        self.of_owner.entry(key.owner).or_default().insert(number);
        self.changes.insert(key, KnownChange::Made { made, number });
        let of_owner = self.of_owner.get(&key.owner);
        if of_owner.is_some_and(|numbers| numbers.len() > OWNER_MAX)
            && let Some(oldest) = of_owner.and_then(|numbers| numbers.first().copied())
        {
            self.forget(oldest);
        }
        if self.order.len() > TOTAL_MAX
            && let Some(oldest) = self.order.keys().next().copied()
        {
            self.forget(oldest);
        }
    }

    /// Removes a change of which nothing is known any more.
    pub(super) fn remove(&mut self, key: &ChangeKey) {
        let removed = self.changes.remove(key);
        if let Some(KnownChange::Made { number, .. }) = removed {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u64) {
        let Some((key, _)) = self.order.remove(&number) else {
            return;
        };
        if let Entry::Occupied(mut numbers) = self.of_owner.entry(key.owner) {
            numbers.get_mut().remove(&number);
            if numbers.get().is_empty() {
                numbers.remove();
            }
        }
        let is_it = |known: &KnownChange| matches!(known, KnownChange::Made { number: of, .. } if *of == number);
        if self.changes.get(&key).is_some_and(is_it) {
            self.changes.remove(&key);
        }
    }

    /// Forgets what is older than it has to be.
    pub(super) fn expire(&mut self, now: u64) {
        while let Some((number, time)) = self.oldest()
            && time.saturating_add(KEEP_SECONDS) < now
        {
            self.forget(number);
        }
    }

    fn oldest(&self) -> Option<(u64, u64)> {
        let (number, (_, time)) = self.order.first_key_value()?;
        Some((*number, *time))
    }

    /// Notes that what was made before `now` may be unknown.
    pub(super) fn note_loss(&mut self, now: u64) {
        self.forgotten = Some(now);
    }

    /// For how many seconds back all changes of `owner` are known.
    pub(super) fn reach(&self, owner: &Fingerprint, now: u64) -> u64 {
        // Times are of whole seconds, and this one may have been almost over.
        let age = |time: u64| now.saturating_sub(time.saturating_add(1));
        let mut reach = KEEP_SECONDS.min(self.forgotten.map_or(KEEP_SECONDS, age));
        let numbers = self.of_owner.get(owner);
        if let Some(numbers) = numbers.filter(|numbers| numbers.len() >= OWNER_MAX)
            && let Some(oldest) = numbers.first()
            && let Some((_, time)) = self.order.get(oldest)
        {
            reach = reach.min(age(*time));
        }
        if self.order.len() >= TOTAL_MAX
            && let Some((_, time)) = self.oldest()
        {
            reach = reach.min(age(time));
        }
        reach
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The content of a file with all that has to be stored.
    pub(super) fn file(&self) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for (key, _) in self.order.values() {
            if let Some(KnownChange::Made { made, .. }) = self.changes.get(key) {
                ChangeRecord::Made(made.clone()).append(&mut bytes);
            }
        }
        for known in self.changes.values() {
            if let KnownChange::Running {
                intent: Some(intent),
                ..
            } = known
            {
                ChangeRecord::Intent(intent.clone()).append(&mut bytes);
            }
        }
        bytes
    }
}

/// How long outcomes are kept, in seconds: longer than a client tries to reach a server again.
pub(super) const KEEP_SECONDS: u64 = 60 * 60;

/// Outcomes of one key. A client that repeats a change has made few others meanwhile; some hundred
/// bytes each.
pub(super) const OWNER_MAX: usize = 1024;

/// Outcomes of all keys, which bounds memory and the file to some ten megabytes.
const TOTAL_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::super::tests::{key, made};
    use super::*;

    #[test]
    fn the_oldest_of_a_key_gives_way_and_others_stay() {
        let mut table = OutcomeTable::default();
        let other = MadeChange {
            key: key(2, 0),
            ..made(0, 1)
        };
        table.add(other.clone());
        for number in 0..=OWNER_MAX as u64 {
            table.add(made(number, 100 + number));
        }
        let mut known = |key: ChangeKey| {
            let found = table.enter(key, &made(0, 0).request);
            matches!(found, Known::Made(_))
        };
        assert!(!known(key(1, 0)), "the oldest");
        assert!(known(key(1, 1)));
        assert!(known(other.key));
        let now = 100 + OWNER_MAX as u64;
        assert_eq!(table.reach(&key(1, 0).owner, now), now - 102);
        assert_eq!(table.reach(&key(2, 0).owner, now), KEEP_SECONDS);
    }

    #[test]
    fn outcomes_are_kept_for_an_hour() {
        let mut table = OutcomeTable::default();
        table.add(made(1, 1000));
        table.add(made(2, 1001));
        table.expire(1001 + KEEP_SECONDS);
        let request = made(0, 0).request;
        assert!(matches!(
            table.enter(key(1, 1), &request),
            Known::Nothing(_)
        ));
        assert!(matches!(table.enter(key(1, 2), &request), Known::Made(_)));
    }

    #[test]
    fn after_a_loss_only_what_came_later_is_known() {
        let mut table = OutcomeTable::default();
        let owner = key(1, 0).owner;
        assert_eq!(table.reach(&owner, 5000), KEEP_SECONDS);
        table.note_loss(5000);
        assert_eq!(table.reach(&owner, 5002), 1);
        assert_eq!(table.reach(&owner, 50_000), KEEP_SECONDS);
    }

    #[test]
    fn an_identifier_names_one_request_of_one_key() {
        let mut table = OutcomeTable::default();
        table.add(made(1, 1000));
        let request = made(0, 0).request;
        let another = quire_shared::digest::DigestKind::Blake3.of(b"another");
        assert!(matches!(table.enter(key(1, 1), &another), Known::Other));
        assert!(matches!(
            table.enter(key(2, 1), &another),
            Known::Nothing(_)
        ));
        assert!(matches!(
            table.enter(key(2, 1), &another),
            Known::Running(_)
        ));
        assert!(matches!(table.enter(key(2, 1), &request), Known::Other));
        assert!(matches!(table.enter(key(1, 1), &request), Known::Made(_)));
    }
}
