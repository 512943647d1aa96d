//! Access decisions: examples, and a comparison with a model that checks every path.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use quire_shared::Name;
use quire_shared::pairing::Pair;
use quire_shared::protocol::{
    Chmod, Copy, Delete, Get, Hash, List, ListCache, MakeDirectory, Ping, Put, Rename, Request,
    ResumePut, Stat, Version,
};

use super::*;

fn by(rules: &str) -> Access {
    Access::new(rules.parse().unwrap())
}

fn at(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

fn get(path: &str) -> Request {
    Request::Get(Get {
        path: at(path),
        ..Get::default()
    })
}

fn hash(path: &str) -> Request {
    Request::Hash(Hash {
        path: at(path),
        digest: Default::default(),
    })
}

fn list(path: &str) -> Request {
    Request::List(List {
        path: at(path),
        after: None,
    })
}

fn stat(path: &str) -> Request {
    Request::Stat(Stat { path: at(path) })
}

fn put_if(path: &str, precondition: Precondition) -> Request {
    Request::Put(Put {
        path: at(path),
        size: Some(1),
        modified: None,
        mode: None,
        digest: Default::default(),
        precondition,
        make_parents: false,
        preserve: Default::default(),
    })
}

fn put(path: &str) -> Request {
    put_if(path, Precondition::Any)
}

fn delete(path: &str) -> Request {
    Request::Delete(Delete {
        path: at(path),
        recursive: true,
        precondition: Default::default(),
    })
}

fn make_directory(path: &str) -> Request {
    Request::MakeDirectory(MakeDirectory {
        path: at(path),
        make_parents: false,
        precondition: Default::default(),
    })
}

fn rename(from: &str, to: &str) -> Request {
    Request::Rename(Rename {
        from: at(from),
        to: at(to),
        source: Default::default(),
        target: Default::default(),
    })
}

fn copy(from: &str, to: &str, recursive: bool) -> Request {
    Request::Copy(Copy {
        from: at(from),
        to: at(to),
        recursive,
        source: Default::default(),
        target: Default::default(),
        preserve: Default::default(),
    })
}

fn chmod(path: &str) -> Request {
    Request::Chmod(Chmod {
        path: at(path),
        mode: 0o755,
        precondition: Default::default(),
    })
}

/// Result of an access check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Granted,
    Refused,
    /// Refused as if the path didn't exist.
    Hidden,
}

/// Makes the checks that `files` makes for a request, and returns the request with its narrowed
/// precondition.
fn admit(access: &Access, mut request: Request) -> Result<Request, Denial> {
    match &mut request {
        Request::Pair(_) => {}
        Request::Ping(_) | Request::ListCache(_) => access.any()?,
        Request::Get(Get { path, .. }) | Request::Hash(Hash { path, .. }) => access.get(path)?,
        Request::List(List { path, .. }) => drop(access.list(path)?),
        Request::GetTree(get) => drop(access.list(&get.path)?),
        Request::Stat(Stat { path }) => access.stat(path)?,
        Request::Put(put) => put.precondition = access.create(&put.path, &put.precondition)?,
        Request::MakeDirectory(make) => access.make_directory(&make.path)?,
        Request::Delete(delete) => access.delete(&delete.path)?,
        Request::Rename(rename) => {
            rename.target = access.rename(&rename.from, &rename.to, &rename.target)?;
        }
        Request::Copy(copy) => {
            let recursive = copy.recursive;
            copy.target = access.copy(&copy.from, &copy.to, recursive, &copy.target)?;
        }
        Request::Chmod(chmod) => access.chmod(&chmod.path)?,
        Request::ResumePut(ResumePut { put, .. }) => {
            put.precondition = access.create(&put.path, &put.precondition)?;
        }
        Request::Uploads(_) => access.any()?,
        Request::PutMany(_) if access.may_change() => {}
        Request::PutMany(_) => return Err(Denial::NotAuthorized),
    }
    Ok(request)
}

fn decide(access: &Access, request: Request) -> Decision {
    match admit(access, request) {
        Ok(_) => Decision::Granted,
        Err(Denial::NotAuthorized) => Decision::Refused,
        Err(Denial::Hidden) => Decision::Hidden,
    }
}

#[track_caller]
fn check(rules: &str, cases: impl IntoIterator<Item = (Request, Decision)>) {
    let access = by(rules);
    for (request, expected) in cases {
        let shown = format!("{request:?}");
        assert_eq!(decide(&access, request), expected, "{rules}: {shown}");
    }
}

#[test]
fn read_allows_inquiries_and_write_allows_everything() {
    let changes = || {
        [
            put("a"),
            rename("a", "b"),
            delete("a"),
            make_directory("a"),
            copy("a", "b", true),
            chmod("a"),
        ]
    };
    let inquiries = || {
        [
            Request::Ping(Ping::default()),
            get("a"),
            list(""),
            stat("a"),
            hash("a"),
            Request::ListCache(ListCache {}),
        ]
    };
    check(
        "read",
        inquiries().map(|request| (request, Decision::Granted)),
    );
    check(
        "read",
        changes().map(|request| (request, Decision::Refused)),
    );
    check(
        "write",
        inquiries().map(|request| (request, Decision::Granted)),
    );
    check(
        "write",
        changes().map(|request| (request, Decision::Granted)),
    );
    assert!(by("write").may_change() && !by("read").may_change());
}

#[test]
fn a_drop_box_accepts_files_and_shows_nothing() {
    check(
        "read,/in=put",
        [
            (put("in/x"), Decision::Granted),
            (make_directory("in/d"), Decision::Granted),
            (chmod("in/x"), Decision::Granted),
            (chmod("in"), Decision::Granted),
            (chmod("x"), Decision::Refused),
            (get("in/x"), Decision::Hidden),
            (stat("in/x"), Decision::Hidden),
            (hash("in/x"), Decision::Hidden),
            (list("in/d"), Decision::Hidden),
            (list("in"), Decision::Refused),
            (stat("in"), Decision::Granted),
            (delete("in/x"), Decision::Hidden),
            (rename("in/x", "in/y"), Decision::Hidden),
            (copy("in/x", "in/y", false), Decision::Hidden),
            (put("x"), Decision::Refused),
            (copy("x", "in/x", false), Decision::Granted),
        ],
    );
}

#[test]
fn one_directory_can_be_excluded_from_write() {
    check(
        "write,/a/private=none",
        [
            (put("x"), Decision::Granted),
            (put("a/private/x"), Decision::Refused),
            (put("a/private"), Decision::Refused),
            (get("a/private/x"), Decision::Hidden),
            (stat("a/private"), Decision::Hidden),
            (list("a/private"), Decision::Hidden),
            (delete("a/private"), Decision::Hidden),
            (delete("a/private/x"), Decision::Hidden),
            (delete("a"), Decision::Refused),
            (chmod("a"), Decision::Refused),
            (chmod("a/x"), Decision::Granted),
            (chmod("a/private"), Decision::Hidden),
            (rename("a", "b"), Decision::Refused),
            (rename("b", "a"), Decision::Refused),
            (copy("a", "b", true), Decision::Refused),
            (copy("a", "b", false), Decision::Granted),
            (delete("a/x"), Decision::Granted),
            (list("a"), Decision::Granted),
        ],
    );
}

#[test]
fn the_right_to_delete_in_a_directory_does_not_allow_deleting_the_directory() {
    check(
        "read,/in=write",
        [
            (delete("in/x"), Decision::Granted),
            (rename("in/x", "in/y"), Decision::Granted),
            (delete("in"), Decision::Refused),
            (rename("in", "out"), Decision::Refused),
            (make_directory("in"), Decision::Granted),
        ],
    );
}

#[test]
fn a_rename_does_not_make_hidden_content_readable() {
    check(
        "write,/in=put+delete",
        [
            (delete("in/x"), Decision::Granted),
            (rename("in/x", "in/y"), Decision::Granted),
            (rename("in/x", "x"), Decision::Hidden),
            (rename("x", "in/x"), Decision::Granted),
        ],
    );
    let rules = "none,/in=put+delete,/out=write,/in/d=put+delete";
    check(
        rules,
        [
            (rename("in/x", "in/y"), Decision::Granted),
            (rename("in/d/x", "in/y"), Decision::Granted),
            (rename("in/x", "out/x"), Decision::Hidden),
            (rename("out/x", "in/x"), Decision::Granted),
        ],
    );
}

#[test]
fn without_the_right_to_replace_the_precondition_is_absent() {
    let access = by("create");
    let precondition_of = |request| match admit(&access, request) {
        Ok(Request::Put(put)) => put.precondition,
        Ok(Request::Copy(copy)) => copy.target,
        Ok(Request::Rename(rename)) => rename.target,
        other => panic!("{other:?}"),
    };
    assert_eq!(precondition_of(put("a")), Precondition::Absent);
    let absent = put_if("a", Precondition::Absent);
    assert_eq!(precondition_of(absent), Precondition::Absent);
    let matching = Precondition::Match(Version::new(b"x").unwrap());
    assert_eq!(decide(&access, put_if("a", matching)), Decision::Refused);
    let access = by("create+read+delete");
    let precondition_of = |request| match admit(&access, request) {
        Ok(Request::Copy(copy)) => copy.target,
        Ok(Request::Rename(rename)) => rename.target,
        other => panic!("{other:?}"),
    };
    assert_eq!(precondition_of(copy("a", "b", false)), Precondition::Absent);
    assert_eq!(precondition_of(rename("a", "b")), Precondition::Absent);
}

#[test]
fn parents_are_made_only_where_the_client_may_create() {
    let access = by("read,/in=put,/in/a/b=none,/in/a/b/c=put");
    for (path, depth) in [
        ("in/x", 0),
        ("in/d/e/x", 0),
        ("in/a/b/c/d/x", 3),
        ("in/a/b/c", 3),
        // The root always exists.
        ("x", 0),
        ("d/x", 1),
    ] {
        let parents = access.parents(&at(path), true);
        let expected = Parents::MadeBelow(depth);
        assert_eq!(parents, expected, "{path}");
        assert_eq!(access.parents(&at(path), false), Parents::MustExist);
    }
}

#[test]
fn a_client_without_rights_may_only_pair() {
    let no_rights = Access::default();
    let pair = Request::Pair(Pair { proof: [0; 32] });
    assert_eq!(decide(&no_rights, pair), Decision::Granted);
    for request in [
        Request::Ping(Ping::default()),
        Request::ListCache(ListCache {}),
        get("a"),
        stat(""),
    ] {
        assert_eq!(decide(&no_rights, request), Decision::Refused);
    }
}

#[test]
fn a_cached_path_is_shown_only_with_the_right_to_list() {
    let access = by("list,/in=put,/out=get");
    assert!(access.may_list(&at("x/y")));
    assert!(!access.may_list(&at("in/x")));
    assert!(!access.may_list(&at("out/x")));
}

const NAMES: &[&str] = &["a", "ab", "b"];

fn path() -> impl Strategy<Value = String> {
    vec(select(NAMES), 0..4).prop_map(|names| names.join("/"))
}

fn rules() -> impl Strategy<Value = String> {
    let words = &[
        "none", "list", "get", "read", "create", "put", "delete", "write",
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
    match request {
        Request::Get(get) => vec![(get.path.clone(), Verbs::GET)],
        Request::Hash(hash) => vec![(hash.path.clone(), Verbs::GET)],
        Request::Put(put) | Request::ResumePut(ResumePut { put, .. }) => {
            all(&put.path, Verbs::CREATE)
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
        | Request::Pair(_) => Vec::new(),
    }
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
            put(&to),
            make_directory(&to),
            delete(&from),
            chmod(&from),
            copy(&from, &to, false),
            copy(&from, &to, true),
            rename(&from, &to),
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
