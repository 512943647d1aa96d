//! Comparison of access decisions with a model that checks every path that a request affects.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const NAMES: &[&str] = &["a", "ab", "b"];

fn path() -> impl Strategy<Value = String> {
    vec(select(NAMES), 0..4).prop_map(|names| names.join("/"))
}

fn rules() -> impl Strategy<Value = String> {
    let words = &[
        "none", "list", "get", "read", "create", "put", "delete", "write", "link", "owner",
    ][..];
    let rule = (path(), vec(select(words), 1..3));
    vec(rule, 1..5).prop_map(|mut rules| {
        rules.sort();
        rules.dedup_by(|one, other| one.0 == other.0);
        let rules = rules
            .into_iter()
            .map(|(path, words)| format!("/{path}={}", words.join("+")));
        rules.collect::<Vec<_>>().join(",")
    })
}

/// Lists every path at or below `path`, one level deeper than the rules.
fn tree(path: &RemotePath) -> Vec<RemotePath> {
    let mut paths = vec![path.clone()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        if path.names().len() < 4 {
            let children = NAMES
                .iter()
                .map(|name| path.join(Name::new(*name).unwrap()));
            paths.extend(children.map(Result::unwrap));
        }
    }
    paths
}

/// Lists the verbs that a request needs, for every path that it affects. The model grants a request
/// if all of them are granted, path by path.
fn needs(rules: &Rules, request: &Request) -> Vec<(RemotePath, Verbs)> {
    let all = |path: &RemotePath, verbs: Verbs| -> Vec<_> {
        tree(path).into_iter().map(|path| (path, verbs)).collect()
    };
    let parent = |path: &RemotePath| path.parent().unwrap_or_default();
    let owned = match request {
        Request::Put(put) if put.details.is_some() => Some(&put.path),
        Request::Chmod(chmod) if chmod.details.is_some() => Some(&chmod.path),
        Request::Copy(copy) if copy.details.owner => Some(&copy.to),
        _ => None,
    };
    let mut needs = match request {
        Request::Get(get) => vec![(get.path.clone(), Verbs::GET)],
        Request::Hash(hash) => vec![(hash.path.clone(), Verbs::GET)],
        Request::Chunks(chunks) => vec![(chunks.path.clone(), Verbs::GET)],
        Request::PutDelta(PutDelta { put, .. }) => {
            let mut needs = all(&put.path, Verbs::CREATE);
            needs.push((put.path.clone(), Verbs::GET));
            needs
        }
        Request::Put(put) | Request::ResumePut(ResumePut { put, .. }) => {
            all(&put.path, Verbs::CREATE)
        }
        Request::MakeSymlink(link) => {
            let mut needs = all(&link.path, Verbs::CREATE);
            needs.push((link.path.clone(), Verbs::LINK));
            needs
        }
        Request::Chmod(chmod) => all(&chmod.path, Verbs::REPLACE),
        Request::MakeDirectory(make) => all(&make.path, Verbs::CREATE),
        Request::Delete(delete) => {
            let mut needs = all(&delete.path, Verbs::DELETE);
            needs.push((parent(&delete.path), Verbs::DELETE));
            needs
        }
        Request::Copy(copy) if copy.recursive => {
            let mut needs = all(&copy.from, Verbs::READ);
            needs.extend(all(&copy.to, Verbs::CREATE));
            needs
        }
        Request::Copy(copy) => {
            let mut needs = all(&copy.to, Verbs::CREATE);
            needs.push((copy.from.clone(), Verbs::GET));
            needs
        }
        Request::Rename(rename) => {
            let mut needs = all(&rename.from, Verbs::DELETE);
            needs.push((parent(&rename.from), Verbs::DELETE));
            needs.extend(all(&rename.to, Verbs::CREATE));
            for verb in [Verbs::LIST, Verbs::GET] {
                let is_gained = |path| rules.verbs(path).contains(verb);
                if tree(&rename.to).iter().any(is_gained) {
                    needs.extend(all(&rename.from, verb));
                }
            }
            needs
        }
        Request::Ping(_)
        | Request::List(_)
        | Request::Stat(_)
        | Request::ListCache(_)
        | Request::Uploads(_)
        | Request::GetTree(_)
        | Request::PutMany(_)
        | Request::GetMany(_)
        | Request::Pair(_) => Vec::new(),
    };
    needs.extend(owned.into_iter().flat_map(|path| all(path, Verbs::OWNER)));
    needs
}

proptest! {
    #[test]
    fn a_request_is_granted_exactly_if_every_path_that_it_affects_grants_it(
        rules in rules(),
        from in path(),
        to in path(),
    ) {
        let access = by(&rules);
        for request in [
            get(&from),
            hash(&from),
            chunks(&from),
            put(&to),
            put_delta(&to),
            make_directory(&to),
            delete(&from),
            chmod(&from),
            link(&to),
            copy(&from, &to, false),
            copy(&from, &to, true),
            rename(&from, &to),
            giving(put(&to)),
            giving(chmod(&from)),
            giving(copy(&from, &to, false)),
            giving(copy(&from, &to, true)),
        ] {
            let needs = needs(&access.rules, &request);
            let granted = needs.iter().all(|(path, verbs)| access.rules.verbs(path).contains(*verbs));
            let shown = format!("{rules}: {request:?}");
            let said = decide(&access, request);
            prop_assert_eq!(said == Decision::Granted, granted, "{}", shown);
        }
    }

    #[test]
    fn a_path_without_rights_at_or_below_it_is_hidden(
        rules in rules(),
        from in path(),
    ) {
        let access = by(&rules);
        // A client without any right may only pair.
        prop_assume!(!access.is_empty());
        let path = at(&from);
        let sees = tree(&path).iter().any(|path| access.rules.verbs(path) != Verbs::NONE);
        let sees_itself = access.rules.verbs(&path).intersects(Verbs::READ);
        for request in [get(&from), hash(&from), list(&from), stat(&from), delete(&from), chmod(&from)] {
            let shown = format!("{rules}: {request:?}");
            match decide(&access, request) {
                Decision::Granted | Decision::Refused => prop_assert!(sees, "{}", shown),
                Decision::Hidden => prop_assert!(!sees_itself, "{}", shown),
            }
        }
    }
}
