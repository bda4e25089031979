//! Locks and atomics. Locks ignore poisoning: what they guard is kept consistent by its owner.
//! In a simulated build a lock that would block is a bug of ours and panics with its place.
pub use std::sync::{Arc, OnceLock, Weak, atomic};

use std::ops::{Deref, DerefMut};

#[track_caller]
fn would_wait_for_itself(what: &str) {
    panic!("{what}");
}

/// A mutual-exclusion lock for control paths. Never held across a [`wait`](crate::wait).
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

/// Access to what a [`Mutex`] guards.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized>(std::sync::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// The value, when nobody shares the lock any more.
    pub fn into_inner(self) -> T {
        self.0
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
        MutexGuard(
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(guard)),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                Some(MutexGuard(poisoned.into_inner()))
            }
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A readers-writer lock for control paths and for batches on data paths.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(std::sync::RwLock<T>);

/// Shared access to what a [`RwLock`] guards.
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T: ?Sized>(std::sync::RwLockReadGuard<'a, T>);

/// Exclusive access to what a [`RwLock`] guards.
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T: ?Sized>(std::sync::RwLockWriteGuard<'a, T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Shared access, waiting for a writer.
    ///
    /// # Panics
    /// In a simulated build, when a writer holds it.
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        if cfg!(underpin_sim) {
            match self.0.try_read() {
                Ok(guard) => return RwLockReadGuard(guard),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                    return RwLockReadGuard(poisoned.into_inner());
                }
                Err(std::sync::TryLockError::WouldBlock) => {}
            }
        }
        if cfg!(underpin_sim) {
            would_wait_for_itself("a lock is read while a writer holds it across a wait");
        }
        RwLockReadGuard(
            self.0
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Exclusive access, waiting for all others.
    ///
    /// # Panics
    /// In a simulated build, when anybody holds it.
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        if cfg!(underpin_sim) {
            match self.0.try_write() {
                Ok(guard) => return RwLockWriteGuard(guard),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                    return RwLockWriteGuard(poisoned.into_inner());
                }
                Err(std::sync::TryLockError::WouldBlock) => {}
            }
        }
        if cfg!(underpin_sim) {
            would_wait_for_itself("a lock is written while it is held across a wait");
        }
        RwLockWriteGuard(
            self.0
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
