//! Cache against a naive model, which searches lists from end to end.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const MODEL_LIMIT: u64 = 16 * 1024;
const SIZES: [u64; 7] = [1, 3000, 4096, 5000, 8192, MODEL_LIMIT, MODEL_LIMIT + 1];
const PATHS: [&str; 6] = ["a", "d", "d/x", "d/y/z", "d!", "e"];
const CHUNK: u64 = 1700;

#[derive(Debug, Clone)]
enum CacheStep {
    /// Opens one of the files under one of the paths.
    Open(u8, usize),
    /// Adds a chunk to one of the fills.
    Push(usize),
    /// Pushes the rest of one of the fills, and finishes it.
    Finish(usize),
    /// Ends one of the fills with another version.
    Change(usize),
    Abandon(usize),
    /// Reads a piece with one of the readers, and keeps the bytes.
    Read(usize),
    DropReader(usize),
    DropBytes(usize),
    Invalidate(usize),
}

fn step() -> impl Strategy<Value = CacheStep> {
    let index = any::<usize>;
    let file = 0..u8::try_from(SIZES.len()).unwrap();
    prop_oneof![
        6 => (file, 0..PATHS.len()).prop_map(|(file, path)| CacheStep::Open(file, path)),
        2 => index().prop_map(CacheStep::Push),
        6 => index().prop_map(CacheStep::Finish),
        1 => index().prop_map(CacheStep::Change),
        1 => index().prop_map(CacheStep::Abandon),
        4 => index().prop_map(CacheStep::Read),
        6 => index().prop_map(CacheStep::DropReader),
        3 => index().prop_map(CacheStep::DropBytes),
        1 => (0..PATHS.len()).prop_map(CacheStep::Invalidate),
    ]
}

/// Content whose fill was started at some time; identified by its index.
struct File {
    number: u8,
    charge: u64,
    path: RemotePath,
    pushed: u64,
    hits: u64,
    /// Requests of the readers and leased bytes.
    requests: Vec<usize>,
    end: Option<bool>,
}

#[derive(Default)]
struct CacheModel {
    files: Vec<File>,
    /// The files that can be found, most recently used first.
    found: Vec<usize>,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Hit(usize),
    Fill(usize),
    Bypass,
}

impl CacheModel {
    fn leases(&self, file: usize) -> u64 {
        let mut requests = self.files[file].requests.clone();
        requests.sort_unstable();
        requests.dedup();
        requests.len() as u64
    }

    fn is_evictable(&self, file: usize) -> bool {
        self.files[file].end == Some(true) && self.files[file].requests.is_empty()
    }

    fn live(&self) -> u64 {
        let alive = (0..self.files.len()).filter(|file| {
            let is_used = !self.files[*file].requests.is_empty() || self.files[*file].end.is_none();
            is_used || self.found.contains(file)
        });
        alive.map(|file| self.files[file].charge).sum()
    }

    fn invalidate(&mut self, path: &RemotePath) {
        self.found.retain(|file| self.files[*file].path != *path);
    }

    fn open(&mut self, number: u8, path: &RemotePath, request: usize) -> Expected {
        let same = |file: &usize| self.files[*file].number == number;
        if let Some(at) = self.found.iter().position(same) {
            let file = self.found.remove(at);
            self.invalidate(path);
            self.found.insert(0, file);
            self.files[file].path = path.clone();
            self.files[file].hits += 1;
            self.files[file].requests.push(request);
            return Expected::Hit(file);
        }
        self.invalidate(path);
        let size = SIZES[usize::from(number)];
        let charge = charge(size, path).min(MODEL_LIMIT);
        let evictable = self.found.iter().filter(|file| self.is_evictable(**file));
        let evictable: u64 = evictable.map(|file| self.files[*file].charge).sum();
        if size > MODEL_LIMIT || self.live() - evictable + charge > MODEL_LIMIT {
            return Expected::Bypass;
        }
        while self.live() + charge > MODEL_LIMIT {
            let last = self.found.pop().unwrap();
            if !self.is_evictable(last) {
                self.found.insert(0, last);
            }
        }
        self.found.insert(0, self.files.len());
        self.files.push(File {
            number,
            charge,
            path: path.clone(),
            pushed: 0,
            hits: 0,
            requests: vec![request],
            end: None,
        });
        Expected::Fill(self.files.len() - 1)
    }

    fn end(&mut self, file: usize, good: bool) {
        self.files[file].end = Some(good);
        if !good {
            self.found.retain(|found| *found != file);
        }
    }

    fn release(&mut self, file: usize, request: usize) {
        let requests = &mut self.files[file].requests;
        let at = requests.iter().position(|one| *one == request).unwrap();
        requests.remove(at);
    }

    fn list(&self) -> Vec<CacheEntry> {
        let whole = self
            .found
            .iter()
            .filter(|file| self.files[**file].end == Some(true));
        whole
            .map(|file| CacheEntry {
                path: self.files[*file].path.clone(),
                bytes: SIZES[usize::from(self.files[*file].number)],
                hits: self.files[*file].hits,
                readers: self.leases(*file),
            })
            .collect()
    }
}

/// Real cache and the results from it, beside the model.
struct CachePair {
    cache: Cache,
    model: CacheModel,
    requests: usize,
    fills: Vec<(FillGuard, usize)>,
    readers: Vec<(CachedReader, usize, usize)>,
    leased: Vec<(Bytes, u64, usize, usize)>,
}

/// One of `list`, chosen by a random number.
fn take<T>(list: &mut Vec<T>, random: usize) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(random % list.len()))
}

impl CachePair {
    fn new() -> Self {
        Self {
            cache: Cache::new(CacheConfig {
                limit: MODEL_LIMIT,
                file_max: u64::MAX,
            }),
            model: CacheModel::default(),
            requests: 0,
            fills: Vec::new(),
            readers: Vec::new(),
            leased: Vec::new(),
        }
    }

    fn step(&mut self, step: &CacheStep) {
        match *step {
            CacheStep::Open(number, name) => self.open(number, &path(PATHS[name])),
            CacheStep::Push(random) => self.push(random),
            CacheStep::Finish(random) => self.finish(random),
            CacheStep::Change(random) => {
                if let Some((guard, file)) = take(&mut self.fills, random) {
                    assert!(!guard.finish(&version(u8::MAX)));
                    self.model.end(file, false);
                }
            }
            CacheStep::Abandon(random) => {
                if let Some((guard, file)) = take(&mut self.fills, random) {
                    drop(guard);
                    self.model.end(file, false);
                }
            }
            CacheStep::Read(random) => self.read(random),
            CacheStep::DropReader(random) => {
                if let Some((reader, file, request)) = take(&mut self.readers, random) {
                    drop(reader);
                    self.model.release(file, request);
                }
            }
            CacheStep::DropBytes(random) => {
                if let Some((bytes, start, file, request)) = take(&mut self.leased, random) {
                    let number = self.model.files[file].number;
                    assert!(bytes == bytes_of(number, start..start + bytes.len() as u64));
                    drop(bytes);
                    self.model.release(file, request);
                }
            }
            CacheStep::Invalidate(name) => {
                let path = path(PATHS[name]);
                self.cache.invalidate(&path);
                let files = &self.model.files;
                self.model
                    .found
                    .retain(|file| !path.contains(&files[*file].path));
            }
        }
    }

    fn open(&mut self, number: u8, path: &RemotePath) {
        self.requests += 1;
        let request = self.requests;
        let size = SIZES[usize::from(number)];
        let expected = self.model.open(number, path, request);
        match (
            self.cache.open(&version(number), size, path, true),
            expected,
        ) {
            (Lookup::Hit(reader), Expected::Hit(file)) => {
                self.readers.push((reader, file, request));
            }
            (Lookup::Fill(guard, reader), Expected::Fill(file)) => {
                self.fills.push((guard, file));
                self.readers.push((reader, file, request));
            }
            (Lookup::Bypass, Expected::Bypass) => {}
            (found, expected) => panic!("{found:?} where the model says {expected:?}"),
        }
    }

    fn push(&mut self, random: usize) {
        if self.fills.is_empty() {
            return;
        }
        let index = random % self.fills.len();
        let (guard, file) = &mut self.fills[index];
        let file = &mut self.model.files[*file];
        let end = SIZES[usize::from(file.number)].min(file.pushed + CHUNK);
        guard.push(bytes_of(file.number, file.pushed..end)).unwrap();
        file.pushed = end;
    }

    fn finish(&mut self, random: usize) {
        let Some((guard, index)) = take(&mut self.fills, random) else {
            return;
        };
        let file = &mut self.model.files[index];
        let size = SIZES[usize::from(file.number)];
        guard
            .push(bytes_of(file.number, file.pushed..size))
            .unwrap();
        file.pushed = size;
        assert!(guard.finish(&version(file.number)));
        self.model.end(index, true);
    }

    fn read(&mut self, random: usize) {
        if self.readers.is_empty() {
            return;
        }
        let index = random % self.readers.len();
        let (reader, file, request) = &mut self.readers[index];
        let start = reader.position();
        let state = &mut self.model.files[*file];
        match now(reader.piece()) {
            Some(Ok(Some(bytes))) => {
                assert!(state.end != Some(false) && start < state.pushed);
                self.leased.push((bytes, start, *file, *request));
                state.requests.push(*request);
            }
            Some(Ok(None)) => assert_eq!(start, SIZES[usize::from(state.number)]),
            Some(Err(_)) => assert_eq!(state.end, Some(false)),
            None => assert!(state.end.is_none() && start == state.pushed),
        }
    }

    fn check(&self) {
        let listed = self.cache.list();
        assert_eq!(listed.entries, self.model.list());
        assert_eq!(listed.live, self.model.live());
        assert!(listed.live <= listed.limit);
        let state = self.cache.store.lock();
        assert_eq!(state.paths.len(), state.entries.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(0xcac4e),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_course_of_events_agrees_with_the_model(steps in prop::collection::vec(step(), 1..150)) {
        let mut pair = CachePair::new();
        for step in &steps {
            pair.step(step);
            pair.check();
        }
        pair.cache.invalidate(&RemotePath::ROOT);
        pair.fills.clear();
        pair.readers.clear();
        pair.leased.clear();
        prop_assert_eq!(pair.cache.list().live, 0);
        prop_assert_eq!(pair.cache.store.lock().evictable, 0);
    }
}
