//! Bounds on what a call may take: bytes held, bytes asked for in all, processor time, and the caller's wish to stop.
//!
//! The allocator counts for the thread that runs a bounded call. Where a bound is met it hands out no memory; the hook
//! for failed allocations then unwinds, as a panic would, and the call ends in an error. The same hook makes an error of
//! memory that the system has no more of.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::cell::Cell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{mpsc, Arc, Once};
use std::time::Duration;

use crate::Failure;

#[derive(Clone, Copy)]
pub struct Limits {
    /// Bytes held at once, and bytes asked for in all.
    pub live: usize,
    pub total: u64,
    /// Seconds of the processor.
    pub seconds: f64,
}

/// The payload of the unwinding; without size, so that it needs no memory itself.
struct NoMemory;

#[derive(Clone, Copy, PartialEq)]
enum Why {
    Nothing,
    Live,
    Total,
    Time,
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
    abandoned: *const AtomicBool,
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
    abandoned: std::ptr::null(),
};

thread_local! {
    // Without a destructor: the allocator may use it at any time of a thread's life.
    static ACCOUNT: Cell<Account> = const { Cell::new(IDLE) };
}

fn processor_seconds() -> f64 {
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
                if processor_seconds() > a.until {
                    a.why = Why::Time;
                } else if stop_asked() || (!a.abandoned.is_null() && unsafe { (*a.abandoned).load(Ordering::Relaxed) }) {
                    a.why = Why::Stopped;
                }
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
        if Self::charge(layout.size()) {
            System.alloc(layout)
        } else {
            std::ptr::null_mut()
        }
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
        System.dealloc(data, layout);
    }
    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !Self::charge(size) {
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
                    a.slack = SLACK;
                    cell.set(a);
                }
            });
            resume_unwind(Box::new(NoMemory));
        });
        // A panic becomes an error with its text; nothing is printed.
        std::panic::set_hook(Box::new(|_| {}));
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

fn message(panic: &(dyn Any + Send), why: Why, limits: Option<&Limits>) -> String {
    if panic.is::<NoMemory>() {
        return match (why, limits) {
            (Why::Live, Some(l)) => format!("it takes more than the limit of {} MB of memory", l.live >> 20),
            (Why::Total, Some(l)) => format!("it takes more than the limit of {} MB of memory in turn", l.total >> 20),
            (Why::Time, Some(l)) => format!("it takes more than the limit of {:.1} s", l.seconds),
            (Why::Stopped, _) => STOPPED.to_string(),
            _ => "out of memory".to_string(),
        };
    }
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("internal error: {}", text.unwrap_or("unknown"))
}

/// Runs `body` within the limits, or, without any, as far as the system's memory goes. A panic becomes an error.
pub fn bounded<T>(limits: Option<&Limits>, body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    bounded_by(limits, std::ptr::null(), body)
}

fn bounded_by<T>(
    limits: Option<&Limits>,
    abandoned: *const AtomicBool,
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
            abandoned,
            ..IDLE
        },
    };
    ACCOUNT.with(|cell| cell.set(account));
    let result = catch_unwind(AssertUnwindSafe(body));
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
    let abandoned = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let flag = abandoned.clone();
    let thread = std::thread::Builder::new()
        .stack_size(stack)
        .spawn(move || {
            let result = bounded_by(Some(&limits), Arc::as_ptr(&flag), body);
            let _ = sender.send(result);
        })
        .map_err(|error| format!("no thread can be started: {error}"))?;
    // The thread's own processor time, since a thread that shares the processor with others gets little of it. Where the
    // system has no such clock: ticks, three times as many; a process that sleeps meanwhile loses nothing.
    let mut ticks = (limits.seconds * 3.0 / TICK.as_secs_f64()) as u64;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("internal error: a thread ended early".into()),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        ticks = ticks.saturating_sub(1);
        let late = match processor_seconds_of(&thread) {
            Some(seconds) => seconds > limits.seconds,
            None => ticks == 0 && !thread.is_finished(),
        };
        if stop_asked() || late {
            abandoned.store(true, Ordering::Relaxed);
            let why = if late { Why::Time } else { Why::Stopped };
            return Err(message(&NoMemory, why, Some(&limits)).into());
        }
    }
}
