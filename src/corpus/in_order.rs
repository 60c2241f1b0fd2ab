//! Work that is dealt out to threads and whose results are put down in the order in which it was dealt.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// `take` fills an item, one thread at a time, until it gives `false`; `work` works on it, all threads side by side;
/// `put` puts it down, one thread at a time, in the order of taking. Each of `threads` threads has one item, which it
/// fills again and again. The first error, in that order too, ends the work, whichever thread was first.
///
/// No thread only reads or only writes: on few cores, whichever of the three costs most gets most of them.
pub fn in_order<T: Default>(
    threads: usize,
    take: impl FnMut(&mut T) -> Result<bool> + Send,
    work: impl Fn(&mut T) -> Result<()> + Sync,
    put: impl FnMut(&mut T) -> Result<()> + Send,
) -> Result<()> {
    let source = Mutex::new(Source { take, taken: 0, ended: false });
    let sink = Mutex::new(Sink { put, turn: 0, stopped: false });
    let turns = Condvar::new();
    let thread = || -> Result<()> {
        let _stop = StopOnPanic { sink: &sink, turns: &turns };
        let mut item = T::default();
        loop {
            let mut source = lock(&source);
            if source.ended {
                return Ok(());
            }
            let taken = (source.take)(&mut item);
            source.ended = !matches!(taken, Ok(true));
            if matches!(taken, Ok(false)) {
                return Ok(());
            }
            let number = source.taken;
            source.taken += 1;
            drop(source);

            let worked = taken.and_then(|_| work(&mut item));

            let waiting = turns.wait_while(lock(&sink), |sink| sink.turn != number && !sink.stopped);
            let mut sink = waiting.unwrap_or_else(PoisonError::into_inner);
            if sink.stopped {
                return Ok(());
            }
            let result = worked.and_then(|()| (sink.put)(&mut item));
            sink.turn += 1;
            sink.stopped = result.is_err();
            turns.notify_all();
            result?;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(thread)).collect();
        let mut result = thread();
        for other in others {
            // At most one thread has an error.
            result = result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        result
    })
}

struct Source<F> {
    take: F,
    /// Items that were taken.
    taken: u64,
    ended: bool,
}

struct Sink<F> {
    put: F,
    /// The item that is put down next.
    turn: u64,
    stopped: bool,
}

/// Lets the others go when a thread panics, whose item will never be put down.
struct StopOnPanic<'a, F> {
    sink: &'a Mutex<Sink<F>>,
    turns: &'a Condvar,
}

impl<F> Drop for StopOnPanic<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.sink).stopped = true;
            self.turns.notify_all();
        }
    }
}

/// What a panic left behind is not used: the panic goes on when the threads are joined.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    /// What is put down of the numbers below `count`, and the error, if number `fault` has one in `work` or in `put`.
    fn run(threads: usize, count: u64, fault: Option<(u64, &str)>) -> (Vec<u64>, Option<String>) {
        let (mut next, mut found) = (0, Vec::new());
        let fail = |item: u64, place: &str| match fault {
            Some(fault) if fault == (item, place) => Err(Error::new(format!("{item} in {place}"))),
            _ => Ok(()),
        };
        let take = |item: &mut u64| {
            *item = next;
            next += 1;
            fail(*item, "take").map(|()| *item < count)
        };
        let work = |item: &mut u64| {
            // Later ones are faster.
            std::thread::sleep(Duration::from_micros(50 * (7 - *item % 8)));
            fail(*item, "work")
        };
        let put = |item: &mut u64| {
            found.push(*item);
            fail(*item, "put")
        };
        let result = in_order(threads, take, work, put);
        (found, result.err().map(|error| error.message().to_owned()))
    }

    #[test]
    fn what_is_put_down_is_in_order() {
        for threads in [1, 2, 7] {
            assert_eq!(run(threads, 100, None), ((0..100).collect(), None));
        }
        assert_eq!(run(3, 0, None), (vec![], None));
    }

    #[test]
    fn the_first_error_counts_and_nothing_behind_it_is_put_down() {
        for threads in [1, 2, 7] {
            for (place, last) in [("take", 20), ("work", 20), ("put", 21)] {
                let (found, error) = run(threads, 100, Some((20, place)));
                assert_eq!(error, Some(format!("20 in {place}")));
                assert_eq!(found, (0..last).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    #[should_panic = "13"]
    fn a_panic_ends_the_others() {
        let mut next = 0;
        let take = |item: &mut u64| {
            *item = next;
            next += 1;
            Ok(true)
        };
        let work = |item: &mut u64| if *item == 13 { panic!("13") } else { Ok(()) };
        let _ = in_order(3, take, work, |_| Ok(()));
    }
}
