//! Locks on single bytes of a file and threads that get no signals, which neither std nor rustix offer.
//!
//! The locks are open-file-description locks (fcntl(2), "Open file description locks"): they exclude other
//! descriptions, in whatever process, and the kernel frees them when their holder dies.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// Locks `byte` of `file` unless another description holds it; tells whether it is ours now.
pub fn try_lock_byte(file: &File, byte: u64) -> io::Result<bool> {
    match set_lock(file, byte, libc::F_WRLCK) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Frees `byte` of `file`.
pub fn unlock_byte(file: &File, byte: u64) -> io::Result<()> {
    set_lock(file, byte, libc::F_UNLCK)
}

fn set_lock(file: &File, byte: u64, kind: libc::c_int) -> io::Result<()> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let lock = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(out_of_range)?,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::try_from(byte).map_err(out_of_range)?,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open as long as `file` lives, and the command reads one `flock`.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `work` in a thread that all signals are blocked in: they are for httpd's own threads.
pub fn spawn_quietly(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is written.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the first set was filled above, the second is written. A thread begins with its maker's mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let thread = std::thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(work);
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
        let far = (1 << 62) - 1;
        assert!(try_lock_byte(&first, far).expect("a lock"));
        assert!(!try_lock_byte(&second, far).expect("an answer"));
        assert!(try_lock_byte(&second, 7).expect("another byte"));
        unlock_byte(&first, far).expect("freed");
        assert!(try_lock_byte(&second, far).expect("a lock"));
        drop(second);
        assert!(try_lock_byte(&first, far).expect("a lock"));
    }
}
