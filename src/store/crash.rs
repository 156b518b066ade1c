//! Power cuts, simulated: the store is reopened from what a cut at any step of a fill could leave of it.
//!
//! A [`Disk`] follows the store's files from outside. Since the last sync of a file each of its pages may be on disk as it was at
//! any step, and its length too; since the last sync of a directory each of its names may lead where it led at any step. The
//! pages before a body are few: all that can be of them is tried; of those of the body some choices are, the same in each run.
//! [`watched`] tells when the store syncs.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use tempfile::TempDir;

use super::fill::Landing;
use super::format::{BLOCK_LEN, Layout, Meta, PAGE_LEN, encode_head};
use super::*;

const URL: &str = "http://h/a.mp4";
const PAGE: usize = PAGE_LEN as usize;

/// A sync that the store makes: of a file, or of a directory's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Begins { inode: u64 },
    Done { inode: u64 },
}

type Watcher = Box<dyn FnMut(Sync)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// Tells `watcher` of the syncs that this thread makes in `work`.
pub(super) fn watch<T>(watcher: impl FnMut(Sync) + 'static, work: impl FnOnce() -> T) -> T {
    WATCHER.set(Some(Box::new(watcher)));
    let done = work();
    WATCHER.set(None);
    done
}

/// Makes a sync, and tells of it.
pub(super) fn watched(what: BorrowedFd<'_>, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let inode = rustix::fs::fstat(what)?.st_ino;
    tell(Sync::Begins { inode });
    sync()?;
    tell(Sync::Done { inode });
    Ok(())
}

/// The watcher's own syncs are not watched.
fn tell(sync: Sync) {
    if let Some(mut watcher) = WATCHER.take() {
        watcher(sync);
        WATCHER.set(Some(watcher));
    }
}

/// A directory in memory where there is one: real disks sync slowly.
pub(super) fn quick_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a directory")
}

pub(super) fn open(dir: &Path) -> Arc<Store> {
    fixture::open(dir, 1 << 40, 0)
}

/// One of the objects that storage has had under [`URL`].
#[derive(Clone)]
struct Object {
    etag: &'static str,
    body: Rc<[u8]>,
    /// The length of another field: with more of it the tables cross into the next page.
    padding: usize,
}

impl Object {
    fn len(&self) -> u64 {
        self.body.len() as u64
    }

    fn meta(&self, store: &Store) -> Meta {
        let fields = vec![("ETag".into(), self.etag.into()), ("X-Padding".into(), vec![b'x'; self.padding])];
        let purges = store.control().purge_mark(&name());
        Meta { purges, url: URL.into(), scope: "id".into(), body_len: self.len(), fields, ..Meta::default() }
    }

    /// The padding with which the checksum of the third block and the maps behind it stand in the second page.
    fn straddling(self) -> Self {
        let plain = encode_head(&self.meta(&open(quick_dir().path()))).expect("a plain head").1;
        Self { padding: PAGE - 8 - plain.head_len as usize, ..self }
    }
}

fn name() -> Name {
    Name::new(URL, "id")
}

/// What may be on disk.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<u64, Contents>,
    /// By path below `v1`, where a name may lead; the last is where it does.
    names: BTreeMap<String, Vec<Option<u64>>>,
}

/// What may be on disk of a file; the last of each is what is in memory.
#[derive(Clone)]
struct Contents {
    pages: Vec<Vec<Rc<[u8]>>>,
    lens: Vec<usize>,
}

impl Disk {
    /// Looks at the files as they are now.
    fn observe(&mut self, v1: &Path) {
        let mut now = BTreeMap::new();
        for path in paths(v1) {
            let bytes = fs::read(v1.join(&path)).expect("it is there");
            let inode = fs::metadata(v1.join(&path)).expect("it is there").ino();
            self.files.entry(inode).or_insert_with(Contents::nothing).observe(&bytes);
            now.insert(path, inode);
        }
        for path in now.keys() {
            self.names.entry(path.clone()).or_insert_with(|| vec![None]);
        }
        for (path, leads_to) in &mut self.names {
            push(leads_to, now.get(path).copied());
        }
    }

    fn synced(&mut self, v1: &Path, inode: u64) {
        if let Some(contents) = self.files.get_mut(&inode) {
            contents.pages.iter_mut().for_each(keep_last);
            return keep_last(&mut contents.lens);
        }
        for (path, leads_to) in &mut self.names {
            let dir = v1.join(path).parent().and_then(|dir| fs::metadata(dir).ok());
            if dir.is_some_and(|dir| dir.ino() == inode) {
                keep_last(leads_to);
            }
        }
    }

    /// All ways in which the names may lead, the one in memory first.
    fn ways(&self) -> Vec<BTreeMap<&str, u64>> {
        let mut ways = vec![BTreeMap::new()];
        for (path, leads_to) in &self.names {
            let choices: Vec<_> = leads_to.iter().rev().copied().collect();
            let with = |way: &BTreeMap<_, _>, inode: Option<u64>| {
                let mut way = way.clone();
                way.extend(inode.map(|inode| (path.as_str(), inode)));
                way
            };
            ways =
                choices.iter().flat_map(|inode| ways.iter().map(|way| with(way, *inode)).collect::<Vec<_>>()).collect();
        }
        ways
    }
}

impl Contents {
    fn nothing() -> Self {
        Self { pages: Vec::new(), lens: vec![0] }
    }

    fn observe(&mut self, bytes: &[u8]) {
        push(&mut self.lens, bytes.len());
        for (number, bytes) in bytes.chunks(PAGE).enumerate() {
            let mut page = vec![0; PAGE];
            page[..bytes.len()].copy_from_slice(bytes);
            if self.pages.len() == number {
                self.pages.push(vec![vec![0; PAGE].into()]);
            }
            push(&mut self.pages[number], page.into());
        }
    }

    /// The file with each page as `choose` has it, of so many.
    fn image(&self, choose: impl FnMut((usize, usize)) -> usize) -> Vec<u8> {
        let choices = self.pages.iter().map(Vec::len).enumerate().map(choose);
        let pages: Vec<&[u8]> = self.pages.iter().zip(choices).map(|(page, choice)| &*page[choice]).collect();
        let mut bytes = pages.concat();
        bytes.truncate(self.lens.last().copied().unwrap_or(0));
        bytes
    }

    /// What a cut can leave: all of the first `thorough` pages' combinations, with some of the others'.
    fn images(&self, thorough: usize, random: &mut Random) -> BTreeSet<Vec<u8>> {
        let counts: Vec<usize> = self.pages.iter().take(thorough).map(Vec::len).collect();
        let mut images: BTreeSet<_> = self.lens.iter().filter(|len| **len == 0).map(|_| Vec::new()).collect();
        for number in 0..counts.iter().product() {
            let mut rest = number;
            let head: Vec<usize> = counts.iter().map(|count| (rest % count, rest /= count).0).collect();
            let lost = random.below(self.pages.len().max(1));
            let of = |page: usize, otherwise: usize| head.get(page).copied().unwrap_or(otherwise);
            images.insert(self.image(|(page, count)| of(page, count - 1)));
            images.insert(self.image(|(page, _)| of(page, 0)));
            images.insert(self.image(|(page, count)| of(page, if page == lost { 0 } else { count - 1 })));
            for _ in 0..2 {
                images.insert(self.image(|(page, count)| of(page, random.below(count))));
            }
        }
        images
    }
}

fn push<T: PartialEq>(values: &mut Vec<T>, value: T) {
    if values.last() != Some(&value) {
        values.retain(|had| *had != value);
        values.push(value);
    }
}

fn keep_last<T>(values: &mut Vec<T>) {
    values.drain(..values.len() - 1);
}

/// The paths of all versions' files below `v1`.
fn paths(v1: &Path) -> Vec<String> {
    let list = |dir: &str| {
        let files = fs::read_dir(v1.join(dir)).into_iter().flatten().flatten();
        files.map(|file| format!("{dir}/{}", file.file_name().to_string_lossy())).collect::<Vec<_>>()
    };
    let shards = list("entries");
    list("fills").into_iter().chain(shards.iter().flat_map(|shard| list(shard))).collect()
}

/// Numbers that look random (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// What was on disk at each step of a fill.
#[derive(Clone)]
struct Record {
    v1: PathBuf,
    disk: Rc<RefCell<Disk>>,
    cuts: Rc<RefCell<Vec<(String, Disk)>>>,
}

impl Record {
    fn new(dir: &Path) -> Self {
        Self { v1: dir.join("v1"), disk: Rc::default(), cuts: Rc::default() }
    }

    /// The power can be cut now.
    fn cut(&self, step: impl Into<String>) {
        let mut disk = self.disk.borrow_mut();
        disk.observe(&self.v1);
        self.cuts.borrow_mut().push((step.into(), disk.clone()));
    }

    fn sync(&self, sync: Sync) {
        match sync {
            Sync::Begins { .. } => self.cut(format!("{sync:?}")),
            Sync::Done { inode } => {
                self.disk.borrow_mut().synced(&self.v1, inode);
                self.cut(format!("{sync:?}"));
            }
        }
    }

    /// Lets the disk come to rest.
    fn rest(&self) {
        let mut disk = self.disk.borrow_mut();
        disk.observe(&self.v1);
        disk.names.values_mut().for_each(keep_last);
        disk.files.values_mut().for_each(|had| had.pages.iter_mut().for_each(keep_last));
        disk.files.values_mut().for_each(|had| keep_last(&mut had.lens));
    }
}

/// Fills `object`, each step of it recorded.
fn fill(store: &Arc<Store>, object: &Object, record: &Record) {
    let lock = Arc::new(store.lock(&name()).expect("an answer").expect("it is free"));
    let fill = Fill::begin(&lock, &object.meta(store)).expect("there is room");
    record.cut("begun");
    fill.version().want(&(object.len() / 2..object.len()));
    record.cut("wanted");
    let mut landing = Landing::new(&fill, 0);
    for (number, block) in object.body.chunks(BLOCK_LEN as usize).enumerate() {
        let (most, last) = block.split_at(block.len() - 1);
        landing.write(most).expect("written");
        record.cut(format!("most of block {number}"));
        landing.write(last).expect("written");
        record.cut(format!("block {number}"));
    }
    let watcher = record.clone();
    assert!(watch(move |sync| watcher.sync(sync), || fill.publish(1_000)).expect("it is whole"));
    drop(fill);
    record.cut("published");
}

/// A store in which an object was filled, and all that was on its disk meanwhile.
struct Case {
    dir: TempDir,
    record: Record,
    objects: Vec<Object>,
    /// What their files begin with, and where things lie in them.
    heads: Vec<(Vec<u8>, Layout)>,
}

impl Case {
    fn new(objects: &[Object]) -> Self {
        let dir = quick_dir();
        let record = Record::new(dir.path());
        let store = open(dir.path());
        let heads = objects.iter().map(|object| encode_head(&object.meta(&store)).expect("a plain head"));
        Self { record, objects: objects.to_vec(), heads: heads.collect(), dir }
    }

    /// Tries all that each cut could leave; gives the number of images, and how many blocks they had.
    fn try_all(&self) -> (usize, usize) {
        let (mut tried, mut kept) = (0, 0);
        let mut random = Random(11);
        let mut known = BTreeSet::new();
        for (step, disk) in &*self.record.cuts.borrow() {
            for (number, way) in disk.ways().iter().enumerate() {
                for image in self.images(disk, way, number == 0, &mut random) {
                    // What one cut can leave, later ones mostly can too.
                    if !known
                        .insert(image.iter().map(|(path, bytes)| (*path, crc32c::crc32c(bytes))).collect::<Vec<_>>())
                    {
                        continue;
                    }
                    kept += self.recover(&image, &format!("{step}, image {tried}"));
                    tried += 1;
                }
            }
        }
        (tried, kept)
    }

    /// The files under their paths, as they may be; all that can be of the fill only where it `is_thorough`.
    fn images<'d>(
        &self,
        disk: &'d Disk,
        way: &BTreeMap<&'d str, u64>,
        is_thorough: bool,
        random: &mut Random,
    ) -> Vec<BTreeMap<&'d str, Vec<u8>>> {
        let mut images = vec![BTreeMap::new()];
        for (path, inode) in way {
            let contents = &disk.files[inode];
            let is_fill = *path == self.fill_path();
            let thorough = if is_thorough && is_fill { self.before_body() } else { 0 };
            let choices = match path.ends_with(".new") {
                true => BTreeSet::from([contents.image(|(_, count)| count - 1)]),
                false => contents.images(thorough, random),
            };
            let with = |image: &BTreeMap<&'d str, Vec<u8>>, bytes: &Vec<u8>| {
                let mut image = image.clone();
                image.insert(*path, bytes.clone());
                image
            };
            images = choices.iter().flat_map(|bytes| images.iter().map(move |image| with(image, bytes))).collect();
        }
        images
    }

    fn fill_path(&self) -> String {
        format!("fills/{}", name().file())
    }

    /// How many pages there are before the body.
    fn before_body(&self) -> usize {
        self.heads.iter().map(|(_, layout)| layout.body_at as usize / PAGE).max().unwrap_or(1)
    }

    /// Opens what a cut has left: entries are whole, and what is there of a fill is gone on with. Gives the number of its blocks.
    fn recover(&self, image: &BTreeMap<&str, Vec<u8>>, step: &str) -> usize {
        let dir = quick_dir();
        self.lay_out(dir.path(), image);
        let store = open(dir.path());
        self.entry_is_right(&store, step);
        let lock = Arc::new(store.lock(&name()).expect("an answer").expect("it is free"));
        let on_disk = image.get(self.fill_path().as_str()).and_then(|file| self.on_disk(file));
        let left = Fill::resume(&lock, URL, "id").expect(step);
        let (fill, object, had) = match (left, on_disk) {
            (Some(left), Some((object, blocks))) => {
                assert_eq!(present(&left), blocks, "{step}: what is there is kept, and nothing else");
                (left, object, blocks.len())
            }
            (None, None) => {
                let object = self.objects.last().expect("there is one");
                (Fill::begin(&lock, &object.meta(&store)).expect(step), object, 0)
            }
            (left, on_disk) => panic!("{step}: taken over {}, but {}", left.is_some(), on_disk.is_some()),
        };
        Landing::new(&fill, 0).write(&object.body).expect(step);
        assert!(fill.publish(2_000).expect(step), "{step}");
        drop((fill, lock));
        assert_eq!(self.entry_is_right(&store, step), Some(object.etag), "{step}");
        assert!(!dir.path().join("v1").join(self.fill_path()).exists(), "{step}");
        had
    }

    /// Makes the store of an image. All images share the one control block: what may become of that is tried elsewhere.
    fn lay_out(&self, dir: &Path, image: &BTreeMap<&str, Vec<u8>>) {
        let v1 = dir.join("v1");
        for (path, bytes) in image {
            fs::create_dir_all(v1.join(path).parent().expect("it has one")).expect("made");
            fs::write(v1.join(path), bytes).expect("written");
        }
        fs::create_dir_all(&v1).expect("made");
        fs::hard_link(self.dir.path().join("v1/control"), v1.join("control")).expect("linked");
        for path in image.keys() {
            private(&v1.join(path));
        }
    }

    /// The entry, if there is one, is whole and one of the objects: which one.
    fn entry_is_right(&self, store: &Arc<Store>, step: &str) -> Option<&'static str> {
        let entry = store.entry(&name(), URL, "id", None).expect(step)?;
        let object =
            self.objects.iter().find(|object| entry.field("etag") == Some(object.etag.as_bytes())).expect(step);
        assert!(entry.check(&(0..object.len())).is_ok(), "{step}: the entry is damaged");
        assert!(entry.body(&(0..entry.len())) == Some(&*object.body), "{step}: the entry has other bytes");
        Some(object.etag)
    }

    /// What of an object a fill's file holds, by the format alone: blocks that have their bits, and their checksums' bytes.
    fn on_disk(&self, file: &[u8]) -> Option<(&Object, Vec<u64>)> {
        let mut heads = self.objects.iter().zip(&self.heads);
        let (object, (_, layout)) = heads.find(|(_, (head, _))| file.starts_with(head))?;
        if file.len() as u64 != layout.file_len() {
            return None;
        }
        let is_there = |block: &u64| {
            let word = |at: u64| u64::from_le_bytes(*file[at as usize..].first_chunk().expect("it lies in the file"));
            let sum =
                u32::from_le_bytes(*file[layout.checksum_at(*block) as usize..].first_chunk().expect("it lies there"));
            let bytes = layout.block(*block);
            let bytes = &file[(layout.body_at + bytes.start) as usize..(layout.body_at + bytes.end) as usize];
            word(layout.present_word_at(*block)) >> (block % 64) & 1 == 1 && crc32c::crc32c(bytes) == sum
        };
        Some((object, (0..layout.blocks()).filter(is_there).collect()))
    }
}

fn present(fill: &Fill) -> Vec<u64> {
    let layout = *fill.version().layout();
    (0..layout.blocks()).filter(|block| fill.version().missing(&layout.block(*block)).is_none()).collect()
}

/// A new file in the place of another.
fn put(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).and_then(|()| fs::write(path, bytes)).expect("written");
    private(path);
}

fn private(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn object(etag: &'static str, len: u64) -> Object {
    let body = (0..len).map(|at| (at * 7 + at / 251) as u8 ^ etag.as_bytes()[1]).collect();
    Object { etag, body, padding: 0 }
}

#[test]
fn a_power_cut_at_any_step_of_a_fill_loses_no_block_that_was_on_disk_and_serves_none_that_was_not() {
    let two_and_a_bit = object("\"1\"", 2 * BLOCK_LEN + 300);
    let rows = [
        object("\"1\"", 0),
        object("\"1\"", 1),
        object("\"1\"", BLOCK_LEN),
        two_and_a_bit.clone(),
        two_and_a_bit.straddling(),
    ];
    for object in rows {
        let what = format!("{} bytes, {} more in the head", object.len(), object.padding);
        let case = Case::new(std::slice::from_ref(&object));
        fill(&open(case.dir.path()), &object, &case.record);
        let (tried, kept) = case.try_all();
        assert!(tried > 3 && (kept > 0 || object.len() == 0), "{what}: {tried} images with {kept} blocks");
    }
}

#[test]
fn a_power_cut_while_an_entry_is_replaced_leaves_the_one_or_the_other() {
    let (former, object) = (object("\"1\"", BLOCK_LEN + 5), object("\"2\"", 5000));
    let case = Case::new(&[former.clone(), object.clone()]);
    let store = open(case.dir.path());
    fill(&store, &former, &Record::new(case.dir.path()));
    // Its inode is not given to another file while it is held.
    let _held = store.entry(&name(), URL, "id", None).expect("an answer").expect("it is published");
    case.record.rest();
    fill(&store, &object, &case.record);
    case.try_all();
}

#[test]
fn a_power_cut_while_a_fill_begins_anew_leaves_blocks_of_one_version_in_each_file() {
    let (former, object) = (object("\"1\"", 2 * BLOCK_LEN), object("\"2\"", 2 * BLOCK_LEN));
    let case = Case::new(&[former.clone(), object.clone()]);
    let store = open(case.dir.path());
    let lock = Arc::new(store.lock(&name()).expect("an answer").expect("it is free"));
    let left = Fill::begin(&lock, &former.meta(&store)).expect("there is room");
    Landing::new(&left, 0).write(&former.body[..BLOCK_LEN as usize]).expect("written");
    left.keep();
    // As above.
    let _held = left.version().clone();
    drop((left, lock));
    case.record.rest();
    fill(&store, &object, &case.record);
    let (_, kept) = case.try_all();
    assert!(kept > 0);
}

#[test]
fn a_purge_that_is_over_is_not_undone_by_a_power_cut() {
    let (former, object) = (object("\"1\"", 5000), object("\"2\"", 5000));
    let case = Case::new(&[former.clone(), object.clone()]);
    let store = open(case.dir.path());
    fill(&store, &former, &Record::new(case.dir.path()));
    // Another version is whole, and not published yet.
    let lock = Arc::new(store.lock(&name()).expect("an answer").expect("it is free"));
    let whole = Fill::begin(&lock, &object.meta(&store)).expect("there is room");
    Landing::new(&whole, 0).write(&object.body).expect("written");
    case.record.rest();
    // Of the control block, what was there before is lost with it: only what was synced counts.
    let control = case.dir.path().join("v1/control");
    let (inode, synced) = (fs::metadata(&control).expect("it is there").ino(), Rc::new(RefCell::new(None)));
    let (watcher, durable, path) = (case.record.clone(), synced.clone(), control.clone());
    *synced.borrow_mut() = fs::read(&control).ok();
    let on_sync = move |sync: Sync| {
        if sync == (Sync::Done { inode }) {
            *durable.borrow_mut() = fs::read(&path).ok();
        }
        watcher.sync(sync);
    };
    let purged = watch(on_sync, || store.purge(Purge::Key { url: URL, scope: "id" })).expect("a purge");
    assert_eq!(purged, 1);
    case.record.cut("purged");
    let cuts = case.record.cuts.borrow();
    let (step, disk) = cuts.last().expect("the last one");
    for way in disk.ways() {
        let dir = quick_dir();
        case.lay_out(dir.path(), &newest(disk, &way));
        put(&dir.path().join("v1/control"), synced.borrow().as_ref().expect("it can be read"));
        let store = open(dir.path());
        assert_eq!(case.entry_is_right(&store, step), None, "the entry is back");
        let lock = Arc::new(store.lock(&name()).expect("an answer").expect("it is free"));
        let left = Fill::resume(&lock, URL, "id").expect("an answer").expect("a purge leaves it alone");
        assert!(!left.publish(2_000).expect("it is whole"), "what was purged is published");
    }
}

/// What is left if all that was written has come to the disk.
fn newest<'d>(disk: &'d Disk, way: &BTreeMap<&'d str, u64>) -> BTreeMap<&'d str, Vec<u8>> {
    way.iter().map(|(path, inode)| (*path, disk.files[inode].image(|(_, count)| count - 1))).collect()
}

#[test]
fn a_control_block_that_a_power_cut_has_spoilt_costs_a_fill_and_no_entry() {
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil); 4] = [
        ("gone", |path| fs::remove_file(path).expect("it is there")),
        ("empty", |path| put(path, &[])),
        ("zeros", |path| put(path, &vec![0; control::CONTROL_LEN as usize])),
        ("half", |path| put(path, &vec![0; control::CONTROL_LEN as usize / 2])),
    ];
    let object = object("\"1\"", BLOCK_LEN + 5);
    for (what, spoil) in rows {
        for (step, is_published) in [("block 0", false), ("published", true)] {
            let case = Case::new(std::slice::from_ref(&object));
            fill(&open(case.dir.path()), &object, &case.record);
            let cuts = case.record.cuts.borrow();
            let (_, disk) = cuts.iter().find(|(had, _)| had == step).expect("it was recorded");
            let dir = quick_dir();
            let way = &disk.ways()[0];
            case.lay_out(dir.path(), &newest(disk, way));
            spoil(&dir.path().join("v1/control"));
            let store = open(dir.path());
            let found = case.entry_is_right(&store, what);
            assert_eq!(found.is_some(), is_published, "{what}, {step}");
            // Whether it was purged meanwhile cannot be told: it is not published.
            let lock = Arc::new(store.lock(&name()).expect("an answer").expect("it is free"));
            if let Some(left) = Fill::resume(&lock, URL, "id").expect(what) {
                Landing::new(&left, 0).write(&object.body).expect(what);
                assert!(!left.publish(2_000).expect(what), "{what}, {step}");
                assert!(case.entry_is_right(&store, what).is_none(), "{what}, {step}");
            }
        }
    }
}
