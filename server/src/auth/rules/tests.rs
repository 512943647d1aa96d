//! The rules against a model of them: every path there is, and a look at every rule for each.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// The rules as one would explain them: of all that cover a path the one with the longest path
/// decides.
#[derive(Debug, Clone)]
struct RulesModel(Vec<(RemotePath, Verbs)>);

impl RulesModel {
    fn verbs(&self, path: &RemotePath) -> Verbs {
        let covering = self.0.iter().filter(|(place, _)| place.contains(path));
        let narrowest = covering.max_by_key(|(place, _)| place.names().len());
        narrowest.map_or(Verbs::NONE, |(_, verbs)| *verbs)
    }

    fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        for (path, verbs) in &self.0 {
            rules.add(path, *verbs).unwrap();
        }
        rules
    }
}

/// Every path of up to four of the names that the rules use.
fn universe() -> Vec<RemotePath> {
    let mut paths = vec![RemotePath::ROOT];
    let mut from = 0;
    for _ in 0..4 {
        let to = paths.len();
        for at in from..to {
            for name in NAMES {
                paths.push(paths[at].join(Name::new(*name).unwrap()).unwrap());
            }
        }
        from = to;
    }
    paths
}

/// Names of which one begins as another does, which must not make it lie below.
const NAMES: &[&str] = &["a", "ab", "b"];

fn verbs() -> impl Strategy<Value = Verbs> {
    let words = vec(select(WORDS), 1..3);
    words.prop_map(|words| {
        let all = words.into_iter().map(|(_, verbs)| verbs);
        all.fold(Verbs::NONE, Verbs::union)
    })
}

fn path() -> impl Strategy<Value = RemotePath> {
    vec(select(NAMES), 0..4).prop_map(|names| {
        let names = names.into_iter().map(|name| Name::new(name).unwrap());
        RemotePath::from_names(names.collect()).unwrap()
    })
}

fn model() -> impl Strategy<Value = RulesModel> {
    vec((path(), verbs()), 0..6).prop_map(|mut rules| {
        rules.sort_by(|one, other| one.0.cmp(&other.0));
        rules.dedup_by(|one, other| one.0 == other.0);
        RulesModel(rules)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_question_is_answered_as_by_the_model(model in model(), other in model()) {
        let rules = model.rules();
        let universe = universe();
        let both = rules.union(&other.rules());
        for path in universe.iter().filter(|path| path.names().len() < 4) {
            let below = || universe.iter().filter(|other| path.contains(other));
            prop_assert_eq!(rules.verbs(path), model.verbs(path));
            prop_assert_eq!(both.verbs(path), model.verbs(path).union(other.verbs(path)));
            for verb in [Verbs::LIST, Verbs::GET, Verbs::CREATE, Verbs::REPLACE, Verbs::DELETE] {
                let all = below().all(|path| model.verbs(path).contains(verb));
                prop_assert_eq!(rules.allows_below(path, verb), all, "{} below {}", verb, path);
                let any = below().any(|path| model.verbs(path).contains(verb));
                prop_assert_eq!(rules.grants_below(path, verb), any, "{} below {}", verb, path);
            }
            let leads = model.0.iter().any(|(place, verbs)| path.contains(place) && !verbs.is_empty());
            prop_assert_eq!(rules.leads_somewhere(path), leads);
            let shown = rules.entry_filter(path);
            for name in NAMES {
                let name = Name::new(*name).unwrap();
                let entry = path.join(name.clone()).unwrap();
                let has_list = |path: &&RemotePath| model.verbs(path).contains(Verbs::LIST);
                let expected = universe.iter().filter(|path| entry.contains(path)).any(|path| has_list(&path));
                let is_shown = shown.as_ref().is_none_or(|shown| shown.contains(&name));
                prop_assert_eq!(is_shown, expected, "{} below {}", name, path);
            }
            let others = shown.as_ref().is_none_or(EntryFilter::has_others);
            prop_assert_eq!(others, model.verbs(path).contains(Verbs::LIST));
        }
        prop_assert_eq!(rules.is_empty(), universe.iter().all(|path| model.verbs(path).is_empty()));
    }

    #[test]
    fn rules_are_read_as_they_are_written(
        rules in vec((vec("[^/\u{0}]{1,8}", 0..3), verbs()), 1..5),
    ) {
        let mut expected = Rules::default();
        for (names, verbs) in rules {
            let names = names.into_iter().map(Name::new).collect::<Result<Vec<_>, _>>();
            prop_assume!(names.is_ok());
            let path = RemotePath::from_names(names.unwrap()).unwrap();
            prop_assume!(expected.add(&path, verbs).is_ok());
        }
        let text = expected.to_string();
        prop_assert_eq!(text.parse::<Rules>().unwrap(), expected.clone(), "{}", text);
        let line = format!("{text} and a \"comment");
        prop_assert_eq!(split_word(&line).unwrap(), (text.as_str(), " and a \"comment"));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z/=+,\"\\\\ ]{0,40}") {
        let _ = text.parse::<Rules>();
        let _ = split_word(&text);
    }
}

fn rules(text: &str) -> Rules {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

#[test]
fn the_words_of_old_mean_what_they_meant() {
    assert_eq!(rules("read"), Rules::everywhere(Verbs::READ));
    assert_eq!(rules("write"), Rules::everywhere(Verbs::WRITE));
    assert!(Verbs::WRITE.contains(Verbs::READ));
    assert!(rules("none").is_empty());
}

#[test]
fn the_narrowest_rule_wins_and_names_are_whole() {
    let rules = rules("read,/in=put+list,/in/kept=none,\"/two words\"=write,/a//b/=delete");
    assert_eq!(rules.verbs(&at("x")), Verbs::READ);
    assert_eq!(rules.verbs(&at("in/x/y")), Verbs::PUT.union(Verbs::LIST));
    assert_eq!(rules.verbs(&at("in/kept/x")), Verbs::NONE);
    assert_eq!(rules.verbs(&at("incoming")), Verbs::READ);
    assert_eq!(rules.verbs(&at("two words")), Verbs::WRITE);
    assert_eq!(rules.verbs(&at("a")), Verbs::READ);
    assert_eq!(rules.verbs(&at("a/b")), Verbs::DELETE);
    let shown = "read,/a/b=delete,/in=put+list,/in/kept=none,\"/two words\"=write";
    assert_eq!(rules.to_string(), shown);
}

#[test]
fn mistakes_are_named() {
    let unknown = |word: &str| RulesError::UnknownVerb(word.to_owned());
    for (text, expected) in [
        ("", unknown("")),
        ("Read", unknown("Read")),
        ("read+", unknown("")),
        ("read,", unknown("")),
        ("read put", unknown("put")),
        ("/in=", unknown("")),
        ("/in=read=put", unknown("read=put")),
        ("read,write", RulesError::Repeated(RemotePath::ROOT)),
        ("/=read,write", RulesError::Repeated(RemotePath::ROOT)),
        ("/in=put,/in/=get", RulesError::Repeated(at("in"))),
        ("/in", RulesError::NoEquals),
        ("\"/in\"", RulesError::NoEquals),
        ("\"in\"=put", RulesError::Relative("in".to_owned())),
        ("/a/../b=put", RulesError::Path(PathError::Relative)),
        ("\"/in=put", RulesError::Unclosed),
        ("/a,b=put", RulesError::Unquoted(',')),
        ("/.quire-x=put", RulesError::Path(PathError::Reserved)),
    ] {
        assert_eq!(text.parse::<Rules>(), Err(expected), "{text}");
    }
}
