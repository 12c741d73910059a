//! Memory at whose accesses something else happens.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis_model::{GuestMemory, MemoryError, OwnedMemory};
use portcullis_spec::PhysAddr;

type Hook = Box<dyn FnOnce() + Send>;

/// Memory that does something at a chosen access: once, after the load of an address has been answered that comes after
/// so many others, or before a write lands.
pub struct Hooked {
    inner: Arc<OwnedMemory>,
    pub after_load: Mutex<Option<(u64, u32, Hook)>>,
    pub before_write: Mutex<Option<(u64, u32, Hook)>>,
    /// Whether compare-exchange fails.
    pub read_only: AtomicBool,
    /// Whether compare-exchange finds another value each time.
    pub restless: AtomicBool,
}

impl Hooked {
    pub fn new(inner: Arc<OwnedMemory>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            after_load: Mutex::default(),
            before_write: Mutex::default(),
            read_only: AtomicBool::new(false),
            restless: AtomicBool::new(false),
        })
    }

    fn run(hook: &Mutex<Option<(u64, u32, Hook)>>, address: PhysAddr) {
        let taken = hook.lock().unwrap().take_if(|(at, others, _)| {
            let last = *at == address.0 && *others == 0;
            *others = others.saturating_sub(u32::from(*at == address.0));
            last
        });
        if let Some((_, _, hook)) = taken {
            hook();
        }
    }
}

/// What `build` makes, which is given what stands between a unit and its memory; and the hooked memory there.
pub fn over<M>(
    build: impl FnOnce(&mut dyn FnMut(Arc<OwnedMemory>) -> Arc<dyn GuestMemory>) -> M,
) -> (M, Arc<Hooked>) {
    let mut memory = None;
    let machine = build(&mut |inner| memory.insert(Hooked::new(inner)).clone());
    (machine, memory.unwrap())
}

impl Hooked {
    /// Lets `write`, a device's write to `address`, stop before it lands; what to send to let it go on.
    pub fn stop_a_write(
        &self,
        address: u64,
        write: impl FnOnce() + Send + 'static,
    ) -> (mpsc::Sender<()>, JoinHandle<()>) {
        let (inside, is_inside) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let pause = move || {
            inside.send(()).unwrap();
            may_go_on.recv().unwrap();
        };
        *self.before_write.lock().unwrap() = Some((address, 0, Box::new(pause)));
        let device = std::thread::spawn(write);
        is_inside.recv().unwrap();
        (go_on, device)
    }

    /// Invariant 1: `command` does not return while a device's write to `address` is on its way. It has returned; the device may
    /// have more to do.
    pub fn returns_after_a_write(
        &self,
        name: &str,
        (address, write): (u64, impl FnOnce() + Send + 'static),
        command: impl FnOnce() + Send + 'static,
    ) -> JoinHandle<()> {
        let (go_on, device) = self.stop_a_write(address, write);
        let (done, is_done) = mpsc::channel();
        let software = std::thread::spawn(move || {
            command();
            done.send(()).unwrap();
        });
        assert!(is_done.recv_timeout(Duration::from_millis(50)).is_err(), "{name}");
        go_on.send(()).unwrap();
        software.join().unwrap();
        device
    }

    /// Software that makes a `change` and lets a thread `submit` the queue while a device's look-up or walk stands in the middle: after
    /// the load of `at` that comes after so many others. That goes on once the queue `has_passed` the invalidations; the thread
    /// comes by the channel.
    pub fn race(
        &self,
        (at, others): (u64, u32),
        change: impl FnOnce() + Send + 'static,
        submit: impl FnOnce() + Send + 'static,
        has_passed: impl Fn() -> bool + Send + 'static,
    ) -> mpsc::Receiver<JoinHandle<()>> {
        let (started, software) = mpsc::channel();
        let hook = move || {
            change();
            let thread = std::thread::spawn(submit);
            while !has_passed() {
                std::thread::yield_now();
            }
            started.send(thread).unwrap();
        };
        *self.after_load.lock().unwrap() = Some((at, others, Box::new(hook)));
        software
    }
}

impl GuestMemory for Hooked {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.inner.read(address, buffer)
    }
    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        Self::run(&self.before_write, address);
        self.inner.write(address, bytes)
    }
    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        self.inner.load32(address)
    }
    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        let value = self.inner.load64(address);
        Self::run(&self.after_load, address);
        value
    }
    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        self.inner.store32(address, value)
    }
    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        self.inner.store64(address, value)
    }
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        if self.read_only.load(Ordering::SeqCst) {
            return Err(MemoryError::NotMemory { address });
        }
        if self.restless.load(Ordering::SeqCst) {
            return Ok(!current);
        }
        self.inner.compare_exchange64(address, current, new)
    }
}

/// Sets a flag when it goes, so that threads end even where their test fails.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Invariant 1 under load: devices write one value after another to an address that leads to one of two pages, which `exchange`
/// exchanges and invalidates. What was left is not written any more once it has returned.
pub fn nothing_is_written_to_what_was_left<W: FnMut(u64) -> bool + Send>(
    rounds: u64,
    writers: impl IntoIterator<Item = W>,
    pages: [u64; 2],
    get: impl Fn(u64) -> u64,
    exchange: impl Fn(u64),
) {
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        for mut write in writers {
            let (stop, writes) = (&stop, &writes);
            scope.spawn(move || {
                let mut value = 0;
                while !stop.load(Ordering::Relaxed) {
                    value += 1;
                    writes.fetch_add(write(value).into(), Ordering::Relaxed);
                }
            });
        }
        for round in 0..rounds {
            // On a busy machine the devices are behind.
            while writes.load(Ordering::Relaxed) <= round {
                std::thread::yield_now();
            }
            let [old, new] = if round % 2 == 0 { pages } else { [pages[1], pages[0]] };
            exchange(new);
            let after = get(old);
            for _ in 0..50 {
                std::hint::spin_loop();
                assert_eq!(get(old), after, "round {round}");
            }
        }
    });
}
