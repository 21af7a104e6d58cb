//! Bounds on what a call may take: bytes held, bytes asked for in all, processor time, and the caller's wish to stop.
//!
//! The allocator counts for the thread that runs a bounded call. Where a bound is met it hands out no memory; the hook
//! for failed allocations then unwinds, as a panic would, and the call ends in an error. The same hook makes an error of
//! memory that the system has no more of.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Once};
use std::time::{Duration, Instant};

use crate::faults::Failure;

#[derive(Clone, Copy)]
pub struct Limits {
    /// Bytes held at once, and bytes asked for in all.
    pub live: usize,
    pub total: u64,
    /// Seconds of the processor.
    pub seconds: f64,
}

/// Seconds that the matching of patterns may take in one call: a constant, and more for each byte that is matched
/// already. The patterns in use take a tenth of it or less. So a slow pattern ends a long text early.
const PATTERN_SECONDS: f64 = 1.0;
const PATTERN_SECONDS_PER_BYTE: f64 = 3e-6;

/// What the thread that works and the one that waits for it tell each other.
#[derive(Default)]
struct Watch {
    abandoned: AtomicBool,
    /// Nanoseconds of the thread's processor clock: what earlier steps of matching took, and when the present one began
    /// (0: none runs).
    spent: AtomicU64,
    since: AtomicU64,
    /// Bytes matched by all steps.
    matched: AtomicU64,
}

impl Watch {
    fn too_slow(&self, now: f64) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return false;
        }
        let spent = now + (self.spent.load(Ordering::Relaxed) as f64 - since as f64) * 1e-9;
        spent > PATTERN_SECONDS + PATTERN_SECONDS_PER_BYTE * self.matched.load(Ordering::Relaxed) as f64
    }

    fn end_step(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        let took = nanoseconds(processor_seconds()).saturating_sub(since);
        self.spent.fetch_add(took, Ordering::Relaxed);
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// The payload of the unwinding; without size, so that it needs no memory itself.
struct NoMemory;

/// The payload where a part of the library would drop an error.
struct Refusal(String);

/// Ends the bounded call with this message, through code that drops errors.
pub fn refuse(message: String) -> ! {
    resume_unwind(Box::new(Refusal(message)))
}

#[derive(Clone, Copy, PartialEq)]
enum Why {
    Nothing,
    Live,
    Total,
    Time,
    Patterns,
    Stopped,
    System,
}

#[derive(Clone, Copy)]
struct Account {
    active: bool,
    why: Why,
    live: isize,
    most_live: isize,
    total: u64,
    most_total: u64,
    calls: u32,
    until: f64,
    /// What unwinding may still take.
    slack: isize,
    watch: *const Watch,
}

const IDLE: Account = Account {
    active: false,
    why: Why::Nothing,
    live: 0,
    most_live: 0,
    total: 0,
    most_total: 0,
    calls: 0,
    until: 0.0,
    slack: 0,
    watch: std::ptr::null(),
};

impl Account {
    /// Safety: a watch of an active account must be there.
    unsafe fn overdue(&self) -> Why {
        let now = processor_seconds();
        let watch = self.watch.as_ref();
        if now > self.until {
            Why::Time
        } else if watch.is_some_and(|w| w.too_slow(now)) {
            Why::Patterns
        } else if stop_asked() || watch.is_some_and(|w| w.abandoned.load(Ordering::Relaxed)) {
            Why::Stopped
        } else {
            Why::Nothing
        }
    }
}

thread_local! {
    // Without a destructor: the allocator may use it at any time of a thread's life.
    static ACCOUNT: Cell<Account> = const { Cell::new(IDLE) };
    static UNWINDING: Cell<bool> = const { Cell::new(false) };
    static PANICKED: Cell<Option<Place>> = const { Cell::new(None) };
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Of this thread.
pub fn processor_seconds() -> f64 {
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Processor time of a thread that runs; nothing where the system cannot tell it.
#[cfg(target_os = "linux")]
fn processor_seconds_of<T>(thread: &std::thread::JoinHandle<T>) -> Option<f64> {
    use std::os::unix::thread::JoinHandleExt;
    let mut clock: libc::clockid_t = 0;
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // The handle keeps the thread's id valid, also after its end.
    let told = unsafe {
        libc::pthread_getcpuclockid(thread.as_pthread_t(), &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0
    };
    told.then(|| time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

#[cfg(not(target_os = "linux"))]
fn processor_seconds_of<T>(_: &std::thread::JoinHandle<T>) -> Option<f64> {
    None
}

/// What unwinding takes where the system has no more memory at all. Never given back.
const RESERVE: usize = 16 << 10;
static TAKEN: AtomicUsize = AtomicUsize::new(0);

struct Reserve(UnsafeCell<[u128; RESERVE / 16]>);
unsafe impl Sync for Reserve {}
static RESERVED: Reserve = Reserve(UnsafeCell::new([0; RESERVE / 16]));

fn is_reserved(data: *mut u8) -> bool {
    let start = RESERVED.0.get() as usize;
    (start..start + RESERVE).contains(&(data as usize))
}

/// Null, or from the reserve where unwinding begins on this thread.
#[cold]
fn reserved(layout: Layout) -> *mut u8 {
    if layout.align() > 16 || !UNWINDING.with(Cell::get) {
        return std::ptr::null_mut();
    }
    let size = layout.size().next_multiple_of(16);
    let at = TAKEN.fetch_add(size, Ordering::Relaxed);
    if at + size > RESERVE {
        return std::ptr::null_mut();
    }
    unsafe { (RESERVED.0.get() as *mut u8).add(at) }
}

struct Counting;

impl Counting {
    /// Whether the thread may have `size` more bytes.
    #[inline]
    fn charge(size: usize) -> bool {
        ACCOUNT.with(|cell| {
            let a = unsafe { &mut *cell.as_ptr() };
            if !a.active {
                return true;
            }
            if a.why != Why::Nothing {
                a.slack -= size as isize;
                return a.slack >= 0;
            }
            a.live = a.live.saturating_add_unsigned(size);
            a.total = a.total.saturating_add(size as u64);
            a.calls = a.calls.wrapping_add(1);
            if a.live > a.most_live {
                a.why = Why::Live;
            } else if a.total > a.most_total {
                a.why = Why::Total;
            } else if a.calls % 256 == 0 {
                a.why = unsafe { a.overdue() };
            }
            let fits = a.why == Why::Nothing;
            if !fits {
                a.live = a.live.saturating_sub_unsigned(size);
            }
            fits
        })
    }

    #[inline]
    fn give_back(size: usize) {
        ACCOUNT.with(|cell| {
            let a = unsafe { &mut *cell.as_ptr() };
            if a.active {
                a.live = a.live.saturating_sub_unsigned(size);
            }
        });
    }
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::charge(layout.size()) {
            return std::ptr::null_mut();
        }
        let data = System.alloc(layout);
        if data.is_null() {
            return reserved(layout);
        }
        data
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::charge(layout.size()) {
            System.alloc_zeroed(layout)
        } else {
            std::ptr::null_mut()
        }
    }
    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        Self::give_back(layout.size());
        if !is_reserved(data) {
            System.dealloc(data, layout);
        }
    }
    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_reserved(data) || !Self::charge(size) {
            return std::ptr::null_mut();
        }
        Self::give_back(layout.size());
        System.realloc(data, layout, size)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::alloc::set_alloc_error_hook(|_| {
            ACCOUNT.with(|cell| {
                let mut a = cell.get();
                if a.why == Why::Nothing {
                    a.why = Why::System;
                }
                // Code that lives with failed allocations may have used it up, and unwinding begins with one: where that
                // fails too, this hook would call itself for ever.
                a.slack = a.slack.max(SLACK);
                cell.set(a);
            });
            UNWINDING.with(|begins| begins.set(true));
            resume_unwind(Box::new(NoMemory));
        });
        // A panic becomes an error that says where; nothing is printed.
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(|l| Place::new(l.file(), l.line()));
            PANICKED.with(|last| last.set(place));
        }));
    });
}

const SLACK: isize = 1 << 20;

static STOP: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// `asked` is called from any thread; null: nobody asks.
pub fn set_stop(asked: Option<extern "C" fn() -> std::ffi::c_int>) {
    STOP.store(asked.map_or(std::ptr::null_mut(), |f| f as *mut ()), Ordering::Relaxed);
}

fn stop_asked() -> bool {
    let asked = STOP.load(Ordering::Relaxed);
    !asked.is_null() && unsafe { std::mem::transmute::<*mut (), extern "C" fn() -> std::ffi::c_int>(asked)() } != 0
}

const STOPPED: &str = "stopped";

/// What opens the message of a call that a panic has ended.
pub const GAVE_UP: &str = "the library that reads it gives up on a value of it";

/// Where a panic came from: "tokenizers-0.23.2/src/decoders/ctc.rs:40". Without memory of its own, since it may be memory
/// that has ended.
#[derive(Clone, Copy)]
struct Place {
    bytes: [u8; Place::LONGEST],
    size: usize,
    line: u32,
}

impl Place {
    const LONGEST: usize = 96;

    /// Of a path only what is the same on every machine: the crate and the file in it.
    fn new(path: &str, line: u32) -> Place {
        let inside = path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/')).map(|(_, rest)| rest);
        let inside = inside.or_else(|| path.find("/library/").map(|at| &path[at + 1..])).unwrap_or(path);
        let inside = if inside.starts_with('/') { inside.rsplit('/').next().unwrap_or_default() } else { inside };
        let mut place = Place { bytes: [0; Place::LONGEST], size: inside.len().min(Place::LONGEST), line };
        place.bytes[..place.size].copy_from_slice(&inside.as_bytes()[..place.size]);
        place
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}:{}", String::from_utf8_lossy(&self.bytes[..self.size]), self.line)
    }
}

fn message(panic: &(dyn Any + Send), why: Why, limits: Option<&Limits>) -> String {
    if panic.is::<NoMemory>() {
        return match (why, limits) {
            (Why::Live, Some(l)) => format!("it takes more than the limit of {} MB of memory", l.live >> 20),
            (Why::Total, Some(l)) => format!("it takes more than the limit of {} MB of memory in turn", l.total >> 20),
            (Why::Time, Some(l)) => format!("it takes more than the limit of {:.1} s", l.seconds),
            (Why::Patterns, _) => format!(
                "it takes more than the limit of {PATTERN_SECONDS} s and {} s for each MB of text to match its patterns",
                PATTERN_SECONDS_PER_BYTE * 1e6
            ),
            (Why::Stopped, _) => STOPPED.to_string(),
            _ => "out of memory".to_string(),
        };
    }
    if let Some(refusal) = panic.downcast_ref::<Refusal>() {
        return if why == Why::Nothing { refusal.0.clone() } else { message(&NoMemory, why, limits) };
    }
    // The panic's own text is for those who wrote the library.
    match PANICKED.with(Cell::take) {
        Some(place) => format!("{GAVE_UP} ({place})"),
        None => GAVE_UP.to_string(),
    }
}

/// Runs `body` within the limits, or, without any, as far as the system's memory goes. A panic becomes an error.
pub fn bounded<T>(limits: Option<&Limits>, body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    bounded_by(limits, &Watch::default(), body)
}

/// Bytes that the bounded call of this thread holds.
pub fn held() -> isize {
    ACCOUNT.with(Cell::get).live
}

/// Runs a step that matches patterns, and tells how far it is by `matched`.
pub fn matching<T>(step: impl FnOnce() -> T) -> T {
    let account = ACCOUNT.with(Cell::get);
    let Some(watch) = (unsafe { account.watch.as_ref() }) else { return step() };
    watch.since.store(nanoseconds(processor_seconds()).max(1), Ordering::Relaxed);
    let result = step();
    watch.end_step();
    result
}

/// Between two matches: so many more bytes are matched. An error where a bound of the call is met.
pub fn matched(bytes: usize) -> Result<(), Failure> {
    const BETWEEN: Duration = Duration::from_millis(5);
    let account = ACCOUNT.with(Cell::get);
    let Some(watch) = (unsafe { account.watch.as_ref() }) else { return Ok(()) };
    watch.matched.fetch_add(bytes as u64, Ordering::Relaxed);
    let now = Instant::now();
    if LOOKED.with(Cell::get).is_some_and(|last| now - last < BETWEEN) {
        return Ok(());
    }
    LOOKED.with(|last| last.set(Some(now)));
    let why = if account.why == Why::Nothing { unsafe { account.overdue() } } else { account.why };
    if why == Why::Nothing {
        return Ok(());
    }
    ACCOUNT.with(|cell| cell.set(Account { why, ..cell.get() }));
    Err("a bound is met".into())
}

fn bounded_by<T>(
    limits: Option<&Limits>,
    watch: &Watch,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    prepare();
    let before = ACCOUNT.with(Cell::get);
    let account = match limits {
        None => Account { slack: SLACK, ..IDLE },
        Some(l) => Account {
            active: true,
            most_live: l.live.min(isize::MAX as usize) as isize,
            most_total: l.total,
            until: processor_seconds() + l.seconds,
            slack: SLACK,
            watch,
            ..IDLE
        },
    };
    ACCOUNT.with(|cell| cell.set(account));
    let result = catch_unwind(AssertUnwindSafe(body));
    UNWINDING.with(|begins| begins.set(false));
    let why = ACCOUNT.with(|cell| cell.replace(before)).why;
    match result {
        Ok(Ok(value)) if why == Why::Nothing => Ok(value),
        // Code that lives with a failed allocation made do with less than the text has.
        Ok(Ok(_)) => Err(message(&NoMemory, why, limits).into()),
        Ok(Err(error)) if why == Why::Nothing => Err(error),
        Ok(Err(_)) => Err(message(&NoMemory, why, limits).into()),
        Err(panic) => Err(message(panic.as_ref(), why, limits).into()),
    }
}

/// The same on a thread with a stack of `stack` bytes. Where `body` neither asks for memory nor ends, the call ends all
/// the same, and the thread goes on until it does: it may hold nothing of the caller's.
pub fn on_a_thread<T: Send + 'static>(
    limits: Limits,
    stack: usize,
    body: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    const TICK: Duration = Duration::from_millis(20);
    let watch = Arc::new(Watch::default());
    let (sender, receiver) = mpsc::channel();
    let of_thread = watch.clone();
    let thread = std::thread::Builder::new()
        .stack_size(stack)
        .spawn(move || {
            let result = bounded_by(Some(&limits), &of_thread, body);
            let _ = sender.send(result);
        })
        .map_err(|error| format!("no thread can be started: {error}"))?;
    // The thread's own processor time, since a thread that shares the processor with others gets little of it. Where the
    // system has no such clock: ticks, three times as many; a process that sleeps meanwhile loses nothing.
    let mut ticks = (limits.seconds * 3.0 / TICK.as_secs_f64()) as u64;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(GAVE_UP.into()),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        ticks = ticks.saturating_sub(1);
        let why = match processor_seconds_of(&thread) {
            Some(seconds) if seconds > limits.seconds => Why::Time,
            Some(seconds) if watch.too_slow(seconds) => Why::Patterns,
            None if ticks == 0 && !thread.is_finished() => Why::Time,
            _ if stop_asked() => Why::Stopped,
            _ => Why::Nothing,
        };
        if why != Why::Nothing {
            watch.abandoned.store(true, Ordering::Relaxed);
            return Err(message(&NoMemory, why, Some(&limits)).into());
        }
    }
}
