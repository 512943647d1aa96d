//! Decisions over requests: by example, and against a model that knows every path.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use quire_shared::Name;
use quire_shared::pairing::Pair;
use quire_shared::protocol::{
    Copy, Delete, Get, Hash, List, ListCache, MakeDirectory, Ping, Put, Rename, Request, Stat,
    Version,
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
        offset: 0,
        length: None,
        digest: Default::default(),
        precondition: Default::default(),
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
    })
}

/// Granted, refused, or as if there were nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Yes,
    No,
    Nothing,
}

/// Asks what `files` asks for a request, and gives the request with its narrowed precondition.
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
        Request::PutMany(_) if access.may_change() => {}
        Request::PutMany(_) => return Err(Denial::NotAuthorized),
    }
    Ok(request)
}

fn said(access: &Access, request: Request) -> Said {
    match admit(access, request) {
        Ok(_) => Said::Yes,
        Err(Denial::NotAuthorized) => Said::No,
        Err(Denial::Hidden) => Said::Nothing,
    }
}

#[track_caller]
fn check(rules: &str, cases: impl IntoIterator<Item = (Request, Said)>) {
    let access = by(rules);
    for (request, expected) in cases {
        let shown = format!("{request:?}");
        assert_eq!(said(&access, request), expected, "{rules}: {shown}");
    }
}

#[test]
fn read_and_write_are_what_they_were() {
    let changes = || {
        [
            put("a"),
            rename("a", "b"),
            delete("a"),
            make_directory("a"),
            copy("a", "b", true),
        ]
    };
    let inquiries = || {
        [
            Request::Ping(Ping {}),
            get("a"),
            list(""),
            stat("a"),
            hash("a"),
            Request::ListCache(ListCache {}),
        ]
    };
    check("read", inquiries().map(|request| (request, Said::Yes)));
    check("read", changes().map(|request| (request, Said::No)));
    check("write", inquiries().map(|request| (request, Said::Yes)));
    check("write", changes().map(|request| (request, Said::Yes)));
    assert!(by("write").may_change() && !by("read").may_change());
}

#[test]
fn a_drop_box_takes_and_shows_nothing() {
    check(
        "read,/in=put",
        [
            (put("in/x"), Said::Yes),
            (make_directory("in/d"), Said::Yes),
            (get("in/x"), Said::Nothing),
            (stat("in/x"), Said::Nothing),
            (hash("in/x"), Said::Nothing),
            (list("in/d"), Said::Nothing),
            (list("in"), Said::No),
            (stat("in"), Said::Yes),
            (delete("in/x"), Said::Nothing),
            (rename("in/x", "in/y"), Said::Nothing),
            (copy("in/x", "in/y", false), Said::Nothing),
            (put("x"), Said::No),
            (copy("x", "in/x", false), Said::Yes),
        ],
    );
}

#[test]
fn everything_but_one_directory_is_everything_but_it() {
    check(
        "write,/a/private=none",
        [
            (put("x"), Said::Yes),
            (put("a/private/x"), Said::No),
            (put("a/private"), Said::No),
            (get("a/private/x"), Said::Nothing),
            (stat("a/private"), Said::Nothing),
            (list("a/private"), Said::Nothing),
            (delete("a/private"), Said::Nothing),
            (delete("a/private/x"), Said::Nothing),
            (delete("a"), Said::No),
            (rename("a", "b"), Said::No),
            (rename("b", "a"), Said::No),
            (copy("a", "b", true), Said::No),
            (copy("a", "b", false), Said::Yes),
            (delete("a/x"), Said::Yes),
            (list("a"), Said::Yes),
        ],
    );
}

#[test]
fn who_may_delete_in_a_directory_can_not_delete_the_directory() {
    check(
        "read,/in=write",
        [
            (delete("in/x"), Said::Yes),
            (rename("in/x", "in/y"), Said::Yes),
            (delete("in"), Said::No),
            (rename("in", "out"), Said::No),
            (make_directory("in"), Said::Yes),
        ],
    );
}

#[test]
fn moving_brings_nothing_to_light() {
    check(
        "write,/in=put+delete",
        [
            (delete("in/x"), Said::Yes),
            (rename("in/x", "in/y"), Said::Yes),
            (rename("in/x", "x"), Said::Nothing),
            (rename("x", "in/x"), Said::Yes),
        ],
    );
    let rules = "none,/in=put+delete,/out=write,/in/d=put+delete";
    check(
        rules,
        [
            (rename("in/x", "in/y"), Said::Yes),
            (rename("in/d/x", "in/y"), Said::Yes),
            (rename("in/x", "out/x"), Said::Nothing),
            (rename("out/x", "in/x"), Said::Yes),
        ],
    );
}

#[test]
fn who_may_not_replace_asks_that_there_be_nothing() {
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
    assert_eq!(said(&access, put_if("a", matching)), Said::No);
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
fn parents_are_made_where_their_owner_may_create() {
    let access = by("read,/in=put,/in/a/b=none,/in/a/b/c=put");
    for (path, depth) in [
        ("in/x", 0),
        ("in/d/e/x", 0),
        ("in/a/b/c/d/x", 3),
        ("in/a/b/c", 3),
        ("x", 0),
        ("d/x", 1),
    ] {
        let parents = access.parents(&at(path), true);
        let expected = Parents::MadeBelow(depth);
        // The root is always there.
        let expected = if path.starts_with("in/") && depth == 0 {
            Parents::MadeBelow(0)
        } else {
            expected
        };
        assert_eq!(parents, expected, "{path}");
        assert_eq!(access.parents(&at(path), false), Parents::MustExist);
    }
}

#[test]
fn who_waits_to_be_let_in_may_ask_for_nothing_else() {
    let nobody = Access::default();
    let pair = Request::Pair(Pair { proof: [0; 32] });
    assert_eq!(said(&nobody, pair), Said::Yes);
    for request in [
        Request::Ping(Ping {}),
        Request::ListCache(ListCache {}),
        get("a"),
        stat(""),
    ] {
        assert_eq!(said(&nobody, request), Said::No);
    }
}

#[test]
fn the_cache_shows_what_a_listing_would() {
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

/// Every path at or below `path`, as deep as rules go and one more.
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

/// What a request does to every path, spelled out: which verbs it needs where. The model grants it
/// if all of them are granted, one path at a time.
fn needs(rules: &Rules, request: &Request) -> Vec<(RemotePath, Verbs)> {
    let all = |path: &RemotePath, verbs: Verbs| -> Vec<_> {
        tree(path).into_iter().map(|path| (path, verbs)).collect()
    };
    let parent = |path: &RemotePath| path.parent().unwrap_or_default();
    match request {
        Request::Get(get) => vec![(get.path.clone(), Verbs::GET)],
        Request::Hash(hash) => vec![(hash.path.clone(), Verbs::GET)],
        Request::Put(put) => all(&put.path, Verbs::CREATE),
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
        | Request::GetTree(_)
        | Request::PutMany(_)
        | Request::Pair(_) => Vec::new(),
    }
}

proptest! {
    #[test]
    fn a_request_is_granted_exactly_if_every_path_it_touches_grants_it(
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
            copy(&from, &to, false),
            copy(&from, &to, true),
            rename(&from, &to),
        ] {
            let needs = needs(&access.rules, &request);
            let granted = needs.iter().all(|(path, verbs)| access.rules.verbs(path).contains(*verbs));
            let shown = format!("{rules}: {request:?}");
            let said = said(&access, request);
            prop_assert_eq!(said == Said::Yes, granted, "{}", shown);
        }
    }

    #[test]
    fn whoever_sees_nothing_below_a_path_is_told_that_nothing_is_there(
        rules in rules(),
        from in path(),
    ) {
        let access = by(&rules);
        // Whoever sees nothing anywhere isn't let in, or may ask for one thing alone.
        prop_assume!(!access.is_empty());
        let path = at(&from);
        let sees = tree(&path).iter().any(|path| access.rules.verbs(path) != Verbs::NONE);
        let sees_itself = access.rules.verbs(&path).intersects(Verbs::READ);
        for request in [get(&from), hash(&from), list(&from), stat(&from), delete(&from)] {
            let shown = format!("{rules}: {request:?}");
            match said(&access, request) {
                Said::Yes | Said::No => prop_assert!(sees, "{}", shown),
                Said::Nothing => prop_assert!(!sees_itself, "{}", shown),
            }
        }
    }
}
