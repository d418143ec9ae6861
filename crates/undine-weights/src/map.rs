//! The bytes of a checkpoint file: mapped, built into the program, or owned. The only `unsafe` of this crate.
//!
//! Other programs may change a file while it is mapped. One that is written to in place is found by its size
//! and time of change ([`Bytes::check`]). One that is cut short, or whose disk or server fails, has pages
//! that cannot be read: the system sends the thread that reads one a SIGBUS, of which the process would die
//! without a word. The handler here puts zeros in the place of those pages and notes it, and the thread goes
//! on. So whoever has computed with mapped bytes asks [`Bytes::check`] before anybody sees a result.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::Error;
use crate::packed::Made;

/// Read-only bytes that live as long as this value.
pub(crate) enum Bytes {
    Mapped(MappedFile),
    Static(&'static [u8]),
    Owned(Vec<u8>),
    /// Made from the bytes of other files when they are read.
    Made(Made),
}

/// A mapped file, kept open so that it can be asked what has become of it.
pub(crate) struct MappedFile {
    map: Mmap,
    file: File,
    path: PathBuf,
    /// What it was when it was mapped.
    stamp: Stamp,
    #[cfg(unix)]
    place: Option<&'static fault::Place>,
}

/// What changes when a file is written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self { len: file.len(), modified: file.modified().ok() }
    }
}

impl Bytes {
    /// Maps a regular file of at least one byte.
    pub(crate) fn map(path: &Path) -> Result<Self, Error> {
        // A pipe would block on opening, so the kind is asked for first.
        let kind = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if !kind.is_file() || kind.len() == 0 {
            let reason = if kind.is_file() { "the file is empty" } else { "expected a regular file" };
            return Err(Error::NotACheckpoint { path: path.to_owned(), reason: reason.to_owned() });
        }
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let stamp = Stamp::of(&file.metadata().map_err(|source| Error::io(path, source))?);
        // SAFETY: the mapping is read-only and private to this value. Others may write to the file: that is
        // found by `check` and by the handler below, as the documentation of `Checkpoint::open` says.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
        #[cfg(unix)]
        let place = fault::watch(&map);
        Ok(Self::Mapped(MappedFile {
            map,
            file,
            path: path.to_owned(),
            stamp,
            #[cfg(unix)]
            place,
        }))
    }

    /// Whether they are made from others.
    pub(crate) fn is_made(&self) -> bool {
        matches!(self, Self::Made(_))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Made(made) => made.len(),
            other => (**other).len(),
        }
    }

    /// The bytes of some whole rows, for reading them once: what is made is not kept.
    pub(crate) fn part(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        match self {
            Self::Made(made) if made.made().is_none() => Cow::Owned(made.part(range)),
            other => Cow::Borrowed(&other[range]),
        }
    }

    /// Says that `range` will not be read again soon, so that a file much larger than memory can be read
    /// through once without filling it. The bytes stay as they are.
    pub(crate) fn release(&self, range: Range<usize>) {
        debug_assert!(range.end <= self.len());
        if let Self::Made(made) = self {
            made.release(&range);
        }
        #[cfg(unix)]
        if let Self::Mapped(MappedFile { map, .. }) = self {
            // SAFETY: the mapping is of a file, read-only and never written through, so dropped pages are
            // read from the file again with the same contents; the range lies inside it. A system that
            // refuses the advice loses nothing.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }

    /// Whether the bytes are still those that were mapped, as far as the system tells: size, time of change,
    /// pages that could not be read. A system call or two, no allocation unless there is an error.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Mapped(file) => file.check(),
            Self::Static(_) | Self::Owned(_) | Self::Made(_) => Ok(()),
        }
    }

    /// The path of a mapped file where another file stands now, or none. The mapped one lives on and stays as
    /// it is.
    pub(crate) fn replaced(&self) -> Option<&Path> {
        match self {
            Self::Mapped(file) => file.is_replaced().then_some(&file.path),
            Self::Static(_) | Self::Owned(_) | Self::Made(_) => None,
        }
    }
}

impl MappedFile {
    fn check(&self) -> Result<(), Error> {
        let changed = |what: String| Error::Changed { path: self.path.clone(), what };
        let now = match self.file.metadata() {
            Ok(now) => Stamp::of(&now),
            Err(source) => return Err(changed(format!("it can no longer be read ({source})"))),
        };
        let before = self.stamp;
        if now.len < before.len {
            return Err(changed(format!("it was cut short from {} to {} bytes", before.len, now.len)));
        }
        if now != before {
            return Err(changed("it was written to".to_owned()));
        }
        match self.has_holes() {
            true => {
                Err(changed("a part of it could not be read (the disk or the file server failed)".to_owned()))
            }
            false => Ok(()),
        }
    }

    #[cfg(unix)]
    fn has_holes(&self) -> bool {
        self.place.is_some_and(fault::Place::has_holes)
    }

    #[cfg(not(unix))]
    fn has_holes(&self) -> bool {
        false
    }

    #[cfg(unix)]
    fn is_replaced(&self) -> bool {
        use std::os::unix::fs::MetadataExt;

        let Ok(own) = self.file.metadata() else { return false };
        std::fs::metadata(&self.path).map_or(true, |now| (now.dev(), now.ino()) != (own.dev(), own.ino()))
    }

    /// A file that is mapped cannot be replaced here.
    #[cfg(not(unix))]
    fn is_replaced(&self) -> bool {
        false
    }
}

#[cfg(unix)]
impl Drop for MappedFile {
    fn drop(&mut self) {
        // Before the mapping goes and its addresses become someone else's.
        if let Some(place) = self.place {
            place.leave();
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => &file.map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Made(made) => made.whole(),
        }
    }
}

/// The handler of SIGBUS and what it knows of.
#[cfg(unix)]
mod fault {
    use std::ffi::{c_int, c_void};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Mapped files that the handler can know: some more than a checkpoint may have. A fault in one beyond
    /// them ends the process as if there were no handler.
    const PLACES_MAX: usize = 2 * crate::limits::FILES_MAX;
    /// [`Place::start`] of a place that is free.
    const FREE: usize = 0;
    /// [`Place::start`] of a place that is being taken. No mapping begins there.
    const TAKEN: usize = 1;

    /// Where a file is mapped.
    pub struct Place {
        /// The first address, [`FREE`] or [`TAKEN`].
        start: AtomicUsize,
        /// The address behind the last page.
        end: AtomicUsize,
        has_holes: AtomicBool,
    }

    static PLACES: [Place; PLACES_MAX] = [const { Place::new() }; PLACES_MAX];
    /// What the handler goes by; there once it is installed.
    static HANDLER: OnceLock<Handler> = OnceLock::new();

    struct Handler {
        page_bytes: usize,
        /// What handled the signal before: the standard library's, which knows overflowing stacks.
        previous: libc::sigaction,
    }

    impl Place {
        const fn new() -> Self {
            Self {
                start: AtomicUsize::new(FREE),
                end: AtomicUsize::new(0),
                has_holes: AtomicBool::new(false),
            }
        }

        /// Whether zeros stand for some of its pages.
        pub fn has_holes(&self) -> bool {
            self.has_holes.load(Ordering::Acquire)
        }

        /// Frees the place.
        pub fn leave(&self) {
            self.start.store(FREE, Ordering::Release);
        }
    }

    /// Notes a mapping for the handler, which is installed with the first one. `None` if there is no place or
    /// no handler.
    pub fn watch(map: &[u8]) -> Option<&'static Place> {
        let page_bytes = HANDLER.get().or_else(install)?.page_bytes;
        let take = |place: &&Place| {
            place.start.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let place = PLACES.iter().find(take)?;
        let start = map.as_ptr().addr();
        place.has_holes.store(false, Ordering::Relaxed);
        place.end.store((start + map.len()).next_multiple_of(page_bytes), Ordering::Relaxed);
        place.start.store(start, Ordering::Release);
        Some(place)
    }

    fn install() -> Option<&'static Handler> {
        // SAFETY: the call only reads a constant of the system.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        // SAFETY: all bits zero is a valid value of this C struct: no flags, an empty mask, no handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both point to structs of this function; nothing is changed, only asked for.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
            return None;
        }
        // The handler must find it, so it is there first.
        if HANDLER.set(Handler { page_bytes, previous }).is_err() {
            return HANDLER.get();
        }
        action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for and does nothing but atomic loads
        // and stores, mmap and sigaction, which are system calls without locks or memory of their own.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
        HANDLER.get()
    }

    /// # Safety
    /// Called by the system with what it says of the signal.
    unsafe extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // Set before the handler was installed.
        let Some(handler) = HANDLER.get() else { return };
        // SAFETY: the system passes a valid pointer with SA_SIGINFO, and SIGBUS has an address.
        let address = unsafe { (*info).si_addr() }.addr();
        let is_here = |place: &&Place| {
            let start = place.start.load(Ordering::Acquire);
            start > TAKEN && (start..place.end.load(Ordering::Relaxed)).contains(&address)
        };
        let filled = PLACES.iter().find(is_here).is_some_and(|place| {
            let first = address - address % handler.page_bytes;
            let bytes = place.end.load(Ordering::Relaxed) - first;
            let (access, kind) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED);
            place.has_holes.store(true, Ordering::Release);
            // SAFETY: the pages from the one that cannot be read to the end of the mapping belong to a live
            // `Mmap`, which is only ever read. Zeros in their place are what `check` reports; unmapping the
            // whole range stays valid.
            let zeros = unsafe { libc::mmap(first as *mut c_void, bytes, access, kind, -1, 0) };
            zeros != libc::MAP_FAILED
        });
        if !filled {
            // Not of a file, or no help: the instruction is tried again and meets the handler there was
            // before. SAFETY: the struct came from the system.
            unsafe { libc::sigaction(libc::SIGBUS, &raw const handler.previous, std::ptr::null_mut()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const LEN: usize = 1 << 16;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; LEN]).unwrap();
        // Older than the granularity of the clock that stamps files.
        let past = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
        (folder, path)
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_cut_short_reads_as_zeros_and_is_told() {
        let (_folder, path) = file();
        let bytes = Bytes::map(&path).unwrap();
        bytes.check().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert_eq!((bytes[0], bytes[LEN / 2], bytes[LEN - 1]), (7, 0, 0));
        let told = bytes.check().unwrap_err().to_string();
        assert!(told.contains("weights") && told.contains("from 65536 to 100 bytes"), "{told}");
        // Grown again, it has the size but not the bytes.
        File::options().write(true).open(&path).unwrap().set_len(LEN as u64).unwrap();
        assert!(bytes.check().is_err());
    }

    #[test]
    fn what_is_done_to_a_file_is_known() {
        type Deed = fn(&Path);
        let cases: [(&str, Deed, bool, bool); 5] = [
            ("nothing", |_| {}, false, false),
            (
                "a byte is written",
                |path| File::options().write(true).open(path).unwrap().write_all(b"x").unwrap(),
                true,
                false,
            ),
            (
                "it grows",
                |path| File::options().append(true).open(path).unwrap().write_all(b"x").unwrap(),
                true,
                false,
            ),
            (
                "another takes its name",
                |path| {
                    std::fs::write(path.with_extension("new"), b"other").unwrap();
                    std::fs::rename(path.with_extension("new"), path).unwrap();
                },
                false,
                true,
            ),
            ("it is removed", |path| std::fs::remove_file(path).unwrap(), false, true),
        ];
        for (what, deed, is_changed, is_replaced) in cases {
            let (_folder, path) = file();
            let bytes = Bytes::map(&path).unwrap();
            deed(&path);
            assert_eq!(bytes.check().is_err(), is_changed, "{what}");
            assert_eq!(bytes.replaced().is_some(), is_replaced && cfg!(unix), "{what}");
            assert_eq!(bytes[1], 7, "{what}");
        }
    }
}
