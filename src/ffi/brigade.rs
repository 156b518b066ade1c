//! The body of an answer: a refcounted bucket over memory that others share, or a file.
//!
//! # Invariants
//!
//! - A bucket gives bytes that its owner vouches for at that moment, or an error; it waits for them only if it may.
//! - A bucket's bytes live as long as any bucket over them, past the request and on whatever thread of the child
//!   drops the last one: they hold their owner, and nothing of the request's pool.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::guard;
use super::request::Request;
use super::sys;

/// Who keeps the bytes of a body.
pub trait Bytes: Send + Sync + 'static {
    /// The bytes of `part` of the body, which is not empty; those that come are waited for only if it may be.
    fn read(&self, part: &Range<u64>, may_wait: bool) -> Read<'_>;
}

/// What an owner has of a part.
pub enum Read<'b> {
    /// Bytes from its beginning, at least one.
    Bytes(&'b [u8]),
    /// Nothing yet.
    NotYet,
    /// They are damaged, or will not come.
    Broken,
}

/// What is sent behind the head of an answer.
pub enum Body<'b, T> {
    /// Nothing.
    Empty,
    /// A part of what an owner keeps.
    Shared(&'b Arc<T>, Range<u64>),
    /// A part of a file, which is closed with the request.
    File(File, Range<u64>),
}

/// The body could not be handed down.
#[derive(Debug)]
pub struct NotSent {
    /// Whether the client went away.
    pub client_left: bool,
}

impl Request<'_> {
    /// Hands a whole body down to the request's filters, with its end; with `flush` nobody below holds it back.
    pub fn send<T: Bytes>(&self, body: Body<'_, T>, flush: bool) -> Result<(), NotSent> {
        // SAFETY: the request lives; one field is read.
        let connection = unsafe { (*self.raw()).connection };
        // SAFETY: a request's connection lives longer than the request.
        let list = unsafe { (*connection).bucket_alloc };
        // SAFETY: the pool and the allocator live, and are used by this thread alone.
        let brigade = unsafe { sys::apr_brigade_create(self.pool().raw(), list) };
        let bucket = match body {
            Body::Shared(owner, part) if !part.is_empty() => Some(shared_bucket(owner, &part, list)),
            Body::File(file, part) => Some(self.file_bucket(file, &part, list)),
            Body::Shared(..) | Body::Empty => None,
        };
        // SAFETY: the allocator lives.
        let flush = flush.then(|| unsafe { sys::apr_bucket_flush_create(list) });
        // SAFETY: as above. The byterange filter wants the end to be the last bucket.
        let end = unsafe { sys::apr_bucket_eos_create(list) };
        for bucket in bucket.into_iter().chain(flush).chain([end]) {
            // SAFETY: all are new, and of the same allocator.
            unsafe { sys::usc_brigade_append(brigade, bucket) };
        }
        // SAFETY: the request lives; one field is read.
        let filters = unsafe { (*self.raw()).output_filters };
        // SAFETY: the request's own filters, and a brigade of its pool.
        if unsafe { sys::ap_pass_brigade(filters, brigade) } == sys::APR_SUCCESS {
            return Ok(());
        }
        // SAFETY: as above; one field is read.
        let client_left = unsafe { (*connection).aborted } != 0;
        Err(NotSent { client_left })
    }

    fn file_bucket(&self, file: File, part: &Range<u64>, list: *mut sys::apr_bucket_alloc_t) -> *mut sys::apr_bucket {
        let pool = self.pool();
        let mut descriptor: c_int = pool.keep(file).as_raw_fd();
        let mut apr_file = std::ptr::null_mut();
        let flags = sys::APR_FOPEN_READ | sys::APR_FOPEN_SENDFILE_ENABLED;
        // SAFETY: the descriptor is open until the pool is cleared; APR only wraps it.
        unsafe { sys::apr_os_file_put(&raw mut apr_file, &raw mut descriptor, flags, pool.raw()) };
        let (at, len) = (i64::try_from(part.start).unwrap_or(i64::MAX), (part.end - part.start) as usize);
        // SAFETY: file, pool and allocator live as long as the request.
        unsafe { sys::apr_bucket_file_create(apr_file, at, len, pool.raw(), list) }
    }
}

/// What is read at once: TLS takes no more than 2 GiB, and what is checked on the way should come in pieces.
const READ_LEN_MAX: sys::apr_size_t = 16 * 1024 * 1024;

/// What the buckets over one part share; APR counts them in the first field.
#[repr(C)]
struct Shared {
    refcount: sys::apr_bucket_refcount,
    /// Where the part begins in the body.
    at: u64,
    /// From `Arc::into_raw`, of the type that both functions are made for.
    owner: *const c_void,
    read: unsafe fn(*const c_void, &Range<u64>, bool) -> Found,
    release: unsafe fn(*const c_void),
}

/// What was found of a part: where, and how many bytes, or what to tell APR.
type Found = Result<(*const u8, usize), sys::apr_status_t>;

struct BucketType(sys::apr_bucket_type_t);

// SAFETY: APR only reads a bucket type.
unsafe impl Sync for BucketType {}

static SHARED: BucketType = BucketType(sys::apr_bucket_type_t {
    name: c"USPMAP".as_ptr(),
    num_func: 5,
    is_metadata: sys::apr_bucket_type_t_APR_BUCKET_DATA,
    destroy: Some(destroy),
    read: Some(read),
    // The bytes live as long as the bucket, so there is nothing to set aside.
    setaside: Some(sys::apr_bucket_setaside_noop),
    split: Some(sys::apr_bucket_shared_split),
    copy: Some(sys::apr_bucket_shared_copy),
});

fn shared_bucket<T: Bytes>(
    owner: &Arc<T>,
    part: &Range<u64>,
    list: *mut sys::apr_bucket_alloc_t,
) -> *mut sys::apr_bucket {
    let shared = Shared {
        refcount: sys::apr_bucket_refcount { refcount: 0 },
        at: part.start,
        owner: Arc::into_raw(owner.clone()).cast(),
        read: read_from::<T>,
        release: release::<T>,
    };
    // SAFETY: the allocator lives, and gives 8-aligned memory or ends the process.
    let data = unsafe { sys::apr_bucket_alloc(size_of::<Shared>(), list) }.cast::<Shared>();
    // SAFETY: it has the size and is nobody else's.
    unsafe { data.write(shared) };
    // SAFETY: as above.
    let bucket = unsafe { sys::apr_bucket_alloc(size_of::<sys::apr_bucket>(), list) }.cast::<sys::apr_bucket>();
    // SAFETY: a new bucket of that allocator.
    unsafe { sys::usc_bucket_init(bucket, list) };
    // SAFETY: the first field of `data` counts its buckets.
    unsafe { sys::apr_bucket_shared_make(bucket, data.cast(), 0, (part.end - part.start) as usize) };
    // SAFETY: a new bucket; one field is written.
    unsafe { (*bucket).type_ = &raw const SHARED.0 };
    bucket
}

unsafe extern "C" fn read(
    bucket: *mut sys::apr_bucket,
    text: *mut *const c_char,
    len: *mut sys::apr_size_t,
    how: sys::apr_read_type_e,
) -> sys::apr_status_t {
    guard::catch(sys::APR_EGENERAL, || {
        // SAFETY: APR passes a live bucket of this type; one field is read.
        let data = unsafe { (*bucket).data }.cast::<Shared>();
        // SAFETY: as above.
        if unsafe { (*bucket).length } > READ_LEN_MAX {
            // SAFETY: as above; the rest becomes a bucket behind this one, as with APR's files.
            unsafe { sys::apr_bucket_shared_split(bucket, READ_LEN_MAX) };
        }
        // SAFETY: as above.
        let start = unsafe { (*bucket).start };
        // SAFETY: as above.
        let bucket_len = unsafe { (*bucket).length };
        // SAFETY: made by `shared_bucket`, and alive while a bucket is.
        let at = unsafe { (*data).at };
        // SAFETY: as above.
        let owner = unsafe { (*data).owner };
        // SAFETY: as above.
        let read_from = unsafe { (*data).read };
        let from = at + u64::try_from(start).unwrap_or(0);
        let part = from..from + bucket_len as u64;
        // SAFETY: `owner` is of the type that the function was made for, and alive.
        let found = unsafe { read_from(owner, &part, how == sys::apr_read_type_e_APR_BLOCK_READ) };
        let (bytes, found_len) = match found {
            Ok(found) => found,
            Err(status) => return status,
        };
        if found_len < bucket_len {
            // SAFETY: a live bucket of this type; what is not there yet becomes a bucket behind this one.
            unsafe { sys::apr_bucket_shared_split(bucket, found_len) };
        }
        // SAFETY: APR passes two places to write to.
        unsafe { text.write(bytes.cast()) };
        // SAFETY: as above.
        unsafe { len.write(found_len.min(bucket_len)) };
        sys::APR_SUCCESS
    })
}

unsafe extern "C" fn destroy(data: *mut c_void) {
    guard::catch((), || {
        // SAFETY: APR passes the data of a bucket of this type, once for each bucket.
        if unsafe { sys::apr_bucket_shared_destroy(data) } == 0 || super::child::is_over() {
            return;
        }
        let shared = data.cast::<Shared>();
        // SAFETY: the last bucket is going: nobody else reads the data.
        let release = unsafe { (*shared).release };
        // SAFETY: as above.
        let owner = unsafe { (*shared).owner };
        // SAFETY: `owner` comes from `Arc::into_raw` of the type that `release` was made for, and goes once.
        unsafe { release(owner) };
        // SAFETY: it was allocated by `apr_bucket_alloc`.
        unsafe { sys::apr_bucket_free(data) };
    });
}

/// # Safety
///
/// `owner` comes from `Arc::<T>::into_raw` and is alive.
unsafe fn read_from<T: Bytes>(owner: *const c_void, part: &Range<u64>, may_wait: bool) -> Found {
    // SAFETY: the caller's promise.
    let owner = unsafe { &*owner.cast::<T>() };
    match owner.read(part, may_wait) {
        Read::Bytes(bytes) => Ok((bytes.as_ptr(), bytes.len())),
        Read::NotYet => Err(libc::EAGAIN),
        Read::Broken => Err(sys::APR_EGENERAL),
    }
}

/// # Safety
///
/// `owner` comes from `Arc::<T>::into_raw` and is not used again.
unsafe fn release<T>(owner: *const c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Arc::from_raw(owner.cast::<T>()) });
}
