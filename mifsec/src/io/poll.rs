//! Readiness of descriptors (epoll) and a way to wake a thread that waits for
//! it (eventfd).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::check;

/// Events taken from the kernel per call; more stay for the next.
const EVENTS: usize = 16;

/// Which of several descriptors can be read, level-triggered.
#[derive(Debug)]
pub struct Poll(OwnedFd);

/// One ready descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// Whether the descriptor has an error to be fetched.
    pub error: bool,
}

impl Poll {
    /// An empty set.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just returned by the kernel and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `fd` for input; `token` comes back from [`wait`](Self::wait).
    ///
    /// # Errors
    /// What `epoll_ctl` said.
    pub fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        // SAFETY: `event` lives over the call and both descriptors are open.
        check(unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_fd().as_raw_fd(),
                &raw mut event,
            )
        })
        .map(drop)
    }

    /// Waits until something is ready or `timeout` is over (`None`: for ever);
    /// replaces the contents of `ready`. A signal counts as a time-out.
    ///
    /// # Errors
    /// What `epoll_wait` said.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let milliseconds = timeout.map_or(-1, |t| {
            // Rounded up, so that a deadline is over when the wait is.
            libc::c_int::try_from(t.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: `events` has room for the EVENTS entries the kernel may write.
        let n = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                milliseconds,
            )
        });
        match n {
            Ok(n) => {
                let n = usize::try_from(n).unwrap_or(0);
                ready.extend(events.iter().take(n).map(|event| Ready {
                    token: event.u64,
                    error: event.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0,
                }));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Makes a [`Poll`] in another thread return.
#[derive(Debug)]
pub struct Waker(File);

impl Waker {
    /// A waker nobody has used.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: `fd` was just returned by the kernel and has no other owner.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the descriptor readable until [`clear`](Self::clear).
    pub fn wake(&self) {
        // It only fails when the counter is full, and then it is readable.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Takes back every wake so far.
    pub fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_seen_until_it_is_cleared() {
        let (poll, waker) = (Poll::new().unwrap(), Waker::new().unwrap());
        poll.add(&waker, 7).unwrap();
        let mut ready = Vec::new();
        poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
        waker.wake();
        waker.wake();
        poll.wait(None, &mut ready).unwrap();
        assert_eq!(
            ready,
            [Ready {
                token: 7,
                error: false
            }]
        );
        waker.clear();
        poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
    }
}
