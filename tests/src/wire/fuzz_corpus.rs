//! Replays the fuzz corpus through the same checks, with any toolchain.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/checks.rs"]
mod checks;

#[test]
fn the_fuzz_corpus_causes_no_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, check) in checks::CHECKS {
        let mut seen = 0;
        for entry in fs::read_dir(corpus.join(target)).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
            seen += 1;
        }
        assert!(seen >= 3, "{target} has {seen} inputs");
    }
}
