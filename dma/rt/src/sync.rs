//! Locks and atomics. Locks ignore poisoning: what they guard is kept consistent by its owner.
//! In a simulated build a lock that would block is a bug of ours and panics with its place.
pub use std::sync::{Arc, OnceLock, Weak, atomic};

use std::ops::{Deref, DerefMut};

#[track_caller]
fn would_wait_for_itself(what: &str) {
    panic!("{what}");
}

/// The order between two holders of a lock, said once more where a sanitizer can see it: the
/// locks' own slow paths lie in the precompiled standard library, which is not instrumented.
/// Nothing in an optimised build.
#[derive(Debug, Default)]
struct Order(#[cfg(debug_assertions)] atomic::AtomicU8);

impl Order {
    const fn new() -> Self {
        Self(
            #[cfg(debug_assertions)]
            atomic::AtomicU8::new(0),
        )
    }

    /// After the lock was taken.
    fn taken(&self) {
        #[cfg(debug_assertions)]
        self.0.load(atomic::Ordering::Acquire);
    }

    /// Before the lock is given back. Readers give back together, so each adds to the order.
    fn leaving(&self) {
        #[cfg(debug_assertions)]
        self.0.fetch_add(1, atomic::Ordering::Release);
    }
}

/// A mutual-exclusion lock for control paths. Never held across a [`wait`](crate::wait).
///
/// ```
/// use underpin_rt::sync::Mutex;
///
/// let lock = Mutex::new(vec![1]);
/// lock.lock().push(2);
/// {
///     let held = lock.lock();
///     assert!(lock.try_lock().is_none());
///     assert_eq!(*held, [1, 2]);
/// }
/// assert_eq!(lock.into_inner(), [1, 2]);
/// ```
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized> {
    order: Order,
    lock: std::sync::Mutex<T>,
}

/// Access to what a [`Mutex`] guards.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    guard: std::sync::MutexGuard<'a, T>,
    order: &'a Order,
}

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            order: Order::new(),
            lock: std::sync::Mutex::new(value),
        }
    }

    /// The value, when nobody shares the lock any more.
    pub fn into_inner(self) -> T {
        self.lock
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock, waiting for its holder.
    ///
    /// # Panics
    /// In a simulated build, when it is held: one thread cannot wait for itself.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if cfg!(underpin_sim)
            && let Some(guard) = self.try_lock()
        {
            return guard;
        }
        if cfg!(underpin_sim) {
            would_wait_for_itself("a lock is taken while it is held: it was kept across a wait");
        }
        self.guarded(
            self.lock
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.lock.try_lock() {
            Ok(guard) => Some(self.guarded(guard)),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                Some(self.guarded(poisoned.into_inner()))
            }
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    fn guarded<'a>(&'a self, guard: std::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.order.taken();
        let order = &self.order;
        MutexGuard { guard, order }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.order.leaving();
    }
}

/// A readers-writer lock for control paths and for batches on data paths.
///
/// ```
/// use underpin_rt::sync::RwLock;
///
/// let table = RwLock::new(vec!["first"]);
/// table.write().push("second");
/// {
///     // Readers share.
///     let (one, other) = (table.read(), table.read());
///     assert_eq!((one.len(), other[1]), (2, "second"));
/// }
/// table.write().clear();
/// assert!(table.read().is_empty());
/// ```
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized> {
    order: Order,
    lock: std::sync::RwLock<T>,
}

/// Shared access to what a [`RwLock`] guards.
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    guard: std::sync::RwLockReadGuard<'a, T>,
    order: &'a Order,
}

/// Exclusive access to what a [`RwLock`] guards.
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    guard: std::sync::RwLockWriteGuard<'a, T>,
    order: &'a Order,
}

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            order: Order::new(),
            lock: std::sync::RwLock::new(value),
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Shared access, waiting for a writer.
    ///
    /// # Panics
    /// In a simulated build, when a writer holds it.
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let guard = if cfg!(underpin_sim) {
            match self.lock.try_read() {
                Err(std::sync::TryLockError::WouldBlock) => {
                    would_wait_for_itself("a lock is read while a writer holds it across a wait");
                    self.lock.read()
                }
                Ok(guard) => Ok(guard),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => Err(poisoned),
            }
        } else {
            self.lock.read()
        };
        let guard = guard.unwrap_or_else(std::sync::PoisonError::into_inner);
        self.order.taken();
        let order = &self.order;
        RwLockReadGuard { guard, order }
    }

    /// Exclusive access, waiting for all others.
    ///
    /// # Panics
    /// In a simulated build, when anybody holds it.
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let guard = if cfg!(underpin_sim) {
            match self.lock.try_write() {
                Err(std::sync::TryLockError::WouldBlock) => {
                    would_wait_for_itself("a lock is written while it is held across a wait");
                    self.lock.write()
                }
                Ok(guard) => Ok(guard),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => Err(poisoned),
            }
        } else {
            self.lock.write()
        };
        let guard = guard.unwrap_or_else(std::sync::PoisonError::into_inner);
        self.order.taken();
        let order = &self.order;
        RwLockWriteGuard { guard, order }
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.order.leaving();
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.order.leaving();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Mutex, RwLock};

    /// A holder that panicked does not lock others out: owners keep what they guard consistent.
    #[test]
    fn locks_outlive_a_panic() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(1));
        let panicked = std::panic::catch_unwind(|| {
            let (_held, _too) = (mutex.lock(), lock.write());
            panic!("as planned");
        });
        assert!(panicked.is_err());
        *mutex.lock() += 1;
        *lock.write() += 1;
        assert_eq!((*mutex.try_lock().unwrap(), *lock.read()), (2, 2));
        assert_eq!(mutex.into_inner(), 2);
    }

    /// In a simulated build a lock that would wait stops there; in a real one it is refused to
    /// those who only try.
    #[test]
    fn a_held_lock_is_not_taken_twice() {
        let (mutex, lock) = (Mutex::new(()), RwLock::new(()));
        let _held = mutex.lock();
        assert!(mutex.try_lock().is_none());
        let _first = lock.read();
        drop(lock.read());
        #[cfg(underpin_sim)]
        {
            let panics = |act: &dyn Fn()| {
                let act = std::panic::AssertUnwindSafe(act);
                std::panic::catch_unwind(act).is_err()
            };
            assert!(panics(&|| drop(mutex.lock())));
            assert!(panics(&|| drop(lock.write())));
        }
    }
}
