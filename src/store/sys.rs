//! What neither std nor rustix offer as it is needed here: locks on single bytes of a file, sleeping and waking across
//! processes, threads that get no signals; and syncs that tests can watch.
//!
//! The locks are open-file-description locks (fcntl(2), "Open file description locks"): they exclude other
//! descriptions, in whatever process, and the kernel frees them when their holder dies.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

#[cfg(test)]
use super::crash::watched;

/// Locks `byte` of `file` unless another description holds it; tells whether it is ours now.
pub fn try_lock_byte(file: &File, byte: u64) -> io::Result<bool> {
    match set_lock(file, libc::F_OFD_SETLK, byte, libc::F_WRLCK) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Locks `byte` of `file`, waiting for another description that holds it.
pub fn lock_byte(file: &File, byte: u64) -> io::Result<()> {
    wait_for_lock(file, byte, libc::F_WRLCK)
}

/// Locks `byte` of `file` beside other descriptions that share it, waiting for one that does not.
pub fn share_byte(file: &File, byte: u64) -> io::Result<()> {
    wait_for_lock(file, byte, libc::F_RDLCK)
}

/// Whether another description holds `byte` of `file`.
pub fn is_byte_locked(file: &File, byte: u64) -> io::Result<bool> {
    let mut lock = lock_of(byte, libc::F_WRLCK)?;
    // SAFETY: the descriptor is open as long as `file` lives, and the command reads and writes one `flock`.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if done == 0 { Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK) } else { Err(io::Error::last_os_error()) }
}

/// Frees `byte` of `file`.
pub fn unlock_byte(file: &File, byte: u64) -> io::Result<()> {
    set_lock(file, libc::F_OFD_SETLK, byte, libc::F_UNLCK)
}

/// Sleeps until `word` is woken for one of `bits`, unless it no longer is `seen`, and for `most` at the longest.
///
/// `word` may lie in a file that other processes have mapped (futex(2); never the private kind, which wakes no other process).
/// A return says nothing: look again.
pub fn sleep(word: &AtomicU32, seen: u32, bits: NonZeroU32, most: Duration) {
    let now = clock_gettime(ClockId::Monotonic);
    // The kernel takes the time when to wake, not how long to sleep.
    let until = Timespec::try_from(most).ok().and_then(|most| now.checked_add(most));
    // Woken, timed out, interrupted or not asleep at all: the caller looks again.
    let _ = futex::wait_bitset(word, futex::Flags::empty(), seen, until.as_ref(), bits);
}

/// Wakes all who sleep on `word` for one of `bits`.
pub fn wake(word: &AtomicU32, bits: NonZeroU32) {
    // Fails only for memory that is no word.
    let _ = futex::wake_bitset(word, futex::Flags::empty(), i32::MAX as u32, bits);
}

/// Has a file's bytes, its length and its times on disk when it returns.
pub fn sync_file(file: &File) -> io::Result<()> {
    watched(file.as_fd(), || Ok(rustix::fs::fsync(file)?))
}

/// Has the names that were given and taken in a directory on disk when it returns.
pub fn sync_names(dir: BorrowedFd<'_>) -> io::Result<()> {
    watched(dir, || Ok(rustix::fs::fsync(dir)?))
}

#[cfg(not(test))]
fn watched(_what: BorrowedFd<'_>, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    sync()
}

fn wait_for_lock(file: &File, byte: u64, kind: libc::c_int) -> io::Result<()> {
    loop {
        match set_lock(file, libc::F_OFD_SETLKW, byte, kind) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn set_lock(file: &File, command: libc::c_int, byte: u64, kind: libc::c_int) -> io::Result<()> {
    let lock = lock_of(byte, kind)?;
    // SAFETY: the descriptor is open as long as `file` lives, and the command reads one `flock`.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lock_of(byte: u64, kind: libc::c_int) -> io::Result<libc::flock> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(out_of_range)?,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::try_from(byte).map_err(out_of_range)?,
        l_len: 1,
        l_pid: 0,
    })
}

/// What a thread of ours may need: TLS wants more than a few pages. It is only address space until it is used.
pub const STACK_LEN: usize = 1024 * 1024;

/// Runs `work` in a thread that all signals are blocked in: they are for httpd's own threads.
pub fn spawn_quietly(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is written.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the first set was filled above, the second is written. A thread begins with its maker's mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_LEN).spawn(work);
    // SAFETY: the set was written above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    thread.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_held_by_one_description_until_it_is_freed_or_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("locks");
        let open = || File::options().create(true).truncate(false).write(true).open(&path).expect("a file");
        let (first, second) = (open(), open());
        let far = (1 << 62) + (1 << 20);
        assert!(try_lock_byte(&first, far).expect("a lock"));
        assert!(!try_lock_byte(&second, far).expect("an answer"));
        assert!(try_lock_byte(&second, 7).expect("another byte"));
        unlock_byte(&first, far).expect("freed");
        assert!(try_lock_byte(&second, far).expect("a lock"));
        assert!(is_byte_locked(&first, far).expect("an answer"));
        drop(second);
        assert!(!is_byte_locked(&first, far).expect("an answer"));
        assert!(try_lock_byte(&first, far).expect("a lock"));
    }

    #[test]
    fn a_byte_that_is_shared_is_nobodys_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("locks");
        let open = || File::options().create(true).truncate(false).read(true).write(true).open(&path).expect("a file");
        let (first, second, third) = (open(), open(), open());
        share_byte(&first, 1 << 62).expect("a lock");
        share_byte(&second, 1 << 62).expect("a lock");
        assert!(!try_lock_byte(&third, 1 << 62).expect("an answer"));
        drop((first, second));
        assert!(try_lock_byte(&third, 1 << 62).expect("an answer"));
    }
}
