//! Access decisions: examples, and a comparison with a model that checks every path.

mod model;

use quire_shared::Name;
use quire_shared::pairing::Pair;
use quire_shared::protocol::{
    Chmod, Chunks, Copy, Delete, Get, Hash, LinkTarget, List, ListCache, MakeDirectory,
    MakeSymlink, Ping, Put, PutDelta, Rename, Request, ResumePut, Stat, Version,
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
    Request::Stat(Stat::of(at(path)))
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
        details: None,
    })
}

fn put(path: &str) -> Request {
    put_if(path, Precondition::Any)
}

/// The same request, which gives an owner as well.
fn giving(mut request: Request) -> Request {
    let account = quire_shared::protocol::NamedId { id: 1, name: None };
    let details = Details {
        owner: Some(account),
        ..Default::default()
    };
    match &mut request {
        Request::Put(put) => put.details = details.boxed(),
        Request::Chmod(chmod) => chmod.details = details.boxed(),
        Request::Copy(copy) => copy.details.owner = true,
        other => panic!("{} gives no owner", other.name()),
    }
    request
}

fn chunks(path: &str) -> Request {
    Request::Chunks(Chunks {
        path: at(path),
        ..Chunks::default()
    })
}

fn put_delta(path: &str) -> Request {
    let Request::Put(put) = put(path) else {
        panic!("not a put");
    };
    let base = Version::new(b"base").unwrap();
    Request::PutDelta(PutDelta { put, base })
}

fn delete(path: &str) -> Request {
    Request::Delete(Delete {
        path: at(path),
        recursive: true,
        precondition: Default::default(),
        change_id: None,
    })
}

fn make_directory(path: &str) -> Request {
    Request::MakeDirectory(MakeDirectory {
        path: at(path),
        make_parents: false,
        precondition: Default::default(),
        change_id: None,
    })
}

fn rename(from: &str, to: &str) -> Request {
    Request::Rename(Rename {
        from: at(from),
        to: at(to),
        source: Default::default(),
        target: Default::default(),
        change_id: None,
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
        details: Default::default(),
        change_id: None,
        hard_link: false,
    })
}

fn chmod(path: &str) -> Request {
    Request::Chmod(Chmod {
        path: at(path),
        mode: 0o755,
        precondition: Default::default(),
        details: None,
    })
}

fn link_if(path: &str, precondition: Precondition) -> Request {
    Request::MakeSymlink(MakeSymlink {
        path: at(path),
        target: LinkTarget::new(b"target").unwrap(),
        make_parents: false,
        precondition,
        modified: None,
    })
}

fn link(path: &str) -> Request {
    link_if(path, Precondition::Any)
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
        Request::Get(Get { path, .. })
        | Request::Hash(Hash { path, .. })
        | Request::Chunks(Chunks { path, .. }) => access.get(path)?,
        Request::List(List { path, .. }) => drop(access.list(path)?),
        Request::GetTree(get) => drop(access.list(&get.path)?),
        Request::Stat(Stat { path, .. }) => access.stat(path)?,
        Request::Put(put) | Request::ResumePut(ResumePut { put, .. }) => {
            put.precondition = access.create(&put.path, &put.precondition)?;
            access.own(&put.path, put.details.as_deref())?;
        }
        Request::MakeDirectory(make) => access.make_directory(&make.path)?,
        Request::Delete(delete) => access.delete(&delete.path)?,
        Request::Rename(rename) => {
            rename.target = access.rename(&rename.from, &rename.to, &rename.target)?;
        }
        Request::Copy(copy) => {
            let recursive = copy.recursive;
            copy.target = access.copy(&copy.from, &copy.to, recursive, &copy.target)?;
            if copy.details.owner {
                access.set_owner(&copy.to)?;
            }
        }
        Request::Chmod(chmod) => {
            access.chmod(&chmod.path)?;
            access.own(&chmod.path, chmod.details.as_deref())?;
        }
        Request::MakeSymlink(link) => {
            link.precondition = access.link(&link.path, &link.precondition)?;
        }
        Request::PutDelta(PutDelta { put, .. }) => {
            access.get(&put.path)?;
            put.precondition = access.create(&put.path, &put.precondition)?;
        }
        Request::Uploads(_) | Request::GetMany(_) => access.any()?,
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
            // Who may not read a file may not learn by a digest what is in it.
            (chunks("in/x"), Decision::Hidden),
            (put_delta("in/x"), Decision::Hidden),
            (put_delta("x"), Decision::Refused),
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
fn links_need_a_right_of_their_own_and_that_to_create() {
    check("write", [(link("a"), Decision::Refused)]);
    check("read+link", [(link("a"), Decision::Refused)]);
    check(
        "write+link,/in=write",
        [
            (link("a"), Decision::Granted),
            (link("in/a"), Decision::Refused),
        ],
    );
    let matching = || Precondition::Match(Version::new(b"x").unwrap());
    check("put+link", [(link_if("a", matching()), Decision::Granted)]);
    let access = by("create+link");
    match admit(&access, link("a")) {
        Ok(Request::MakeSymlink(link)) => assert_eq!(link.precondition, Precondition::Absent),
        other => panic!("{other:?}"),
    }
    let replacing = link_if("a", matching());
    assert_eq!(decide(&access, replacing), Decision::Refused);
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
