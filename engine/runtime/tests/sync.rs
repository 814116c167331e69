//! Waiting among the tasks of one shard.

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use common::rt;
use corelog_runtime::sync::{FifoMutex, Notify, Semaphore, oneshot};

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_oneshot_delivers_once_or_tells_that_nothing_comes() {
    let rt = rt();
    let (sender, receiver) = oneshot();
    let task = rt.spawn("receiver", receiver);
    sender.send(5).expect("somebody listens");
    assert_eq!(rt.block_on(task), Some(Some(5)));
    let (sender, receiver) = oneshot::<u8>();
    let task = rt.spawn("receiver", receiver);
    rt.run_until_stalled();
    drop(sender);
    assert_eq!(rt.block_on(task), Some(None));
    let (sender, receiver) = oneshot();
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.send(5), Err(5));
}

#[test]
fn a_notification_after_the_future_was_made_is_not_missed() {
    let notify = Notify::new();
    let mut early = pin!(notify.notified());
    notify.notify_all();
    assert!(poll(early.as_mut()).is_ready());
    let mut late = pin!(notify.notified());
    assert!(poll(late.as_mut()).is_pending());
    notify.notify_all();
    assert!(poll(late.as_mut()).is_ready());
}

#[test]
fn all_waiting_tasks_are_notified_and_dropped_ones_are_forgotten() {
    let rt = rt();
    let notify = Notify::new();
    let tasks: Vec<_> = (0..5)
        .map(|_| rt.spawn("waiter", notify.notified()))
        .collect();
    let dropped = rt.spawn("dropped", notify.notified());
    rt.run_until_stalled();
    dropped.cancel();
    rt.run_until_stalled();
    notify.notify_all();
    rt.block_on(async {
        for task in tasks {
            task.await.expect("notified");
        }
    });
}

#[test]
fn turns_come_in_the_order_of_tickets_not_of_waiting() {
    let rt = rt();
    let mutex = FifoMutex::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    let tickets: Vec<_> = (0..6).map(|number| (number, mutex.ticket())).collect();
    let tasks: Vec<_> = tickets
        .into_iter()
        .rev()
        .filter_map(|(number, ticket)| {
            if number == 2 {
                // A dropped ticket gives its place up.
                return None;
            }
            let (rt2, order) = (rt.clone(), order.clone());
            Some(rt.spawn("in line", async move {
                let guard = ticket.wait().await;
                order.borrow_mut().push(number);
                rt2.yield_now().await;
                assert_eq!(order.borrow().last(), Some(&number), "nobody came between");
                drop(guard);
            }))
        })
        .collect();
    rt.block_on(async {
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    assert_eq!(*order.borrow(), [0, 1, 3, 4, 5]);
    assert!(!mutex.is_locked());
}

#[test]
fn giving_up_the_first_place_wakes_the_next() {
    let rt = rt();
    let mutex = FifoMutex::new();
    let (first, second, third) = (mutex.ticket(), mutex.ticket(), mutex.ticket());
    let waiter = rt.spawn("third", async move { drop(third.wait().await) });
    rt.run_until_stalled();
    assert!(!waiter.is_finished());
    drop(second);
    drop(first);
    assert!(rt.block_on(waiter).is_some());
    assert!(!mutex.is_locked());
}

#[test]
fn a_cancelled_wait_gives_its_place_up() {
    let mutex = FifoMutex::new();
    let guard = {
        let mut lock = pin!(mutex.lock());
        match poll(lock.as_mut()) {
            Poll::Ready(guard) => guard,
            Poll::Pending => panic!("it was free"),
        }
    };
    {
        let mut cancelled = pin!(mutex.lock());
        assert!(poll(cancelled.as_mut()).is_pending());
    }
    let mut next = pin!(mutex.lock());
    assert!(poll(next.as_mut()).is_pending());
    drop(guard);
    assert!(poll(next.as_mut()).is_ready());
}

#[test]
fn a_large_wish_is_not_overtaken_by_small_ones() {
    let semaphore = Semaphore::new(10);
    let held = semaphore.try_acquire(8).expect("free");
    let mut large = pin!(semaphore.acquire(5));
    let mut small = pin!(semaphore.acquire(1));
    assert!(poll(large.as_mut()).is_pending());
    assert!(
        poll(small.as_mut()).is_pending(),
        "two are free, but the line is not empty"
    );
    assert!(semaphore.try_acquire(1).is_none());
    drop(held);
    let Poll::Ready(large) = poll(large.as_mut()) else {
        panic!("ten are free")
    };
    let Poll::Ready(small) = poll(small.as_mut()) else {
        panic!("five are free")
    };
    assert_eq!(
        (large.permits(), small.permits(), semaphore.available()),
        (5, 1, 4)
    );
}

#[test]
fn permits_come_back_by_drop_shrink_and_split() {
    let semaphore = Semaphore::new(10);
    let mut permit = semaphore.try_acquire(10).expect("free");
    permit.shrink_to(6);
    assert_eq!(semaphore.available(), 4);
    let half = permit.split(3).expect("enough");
    assert!(permit.split(4).is_none());
    drop(permit);
    assert_eq!(semaphore.available(), 7);
    drop(half);
    assert_eq!(semaphore.available(), 10);
}

#[test]
fn a_wish_given_up_lets_those_behind_it_through() {
    let rt = rt();
    let semaphore = Semaphore::new(4);
    let held = semaphore.try_acquire(3).expect("free");
    let large = rt.spawn("large", semaphore.acquire(4));
    let small = rt.spawn("small", semaphore.acquire(1));
    rt.run_until_stalled();
    assert!(!small.is_finished());
    large.cancel();
    let permit = rt.block_on(small).expect("woken");
    assert_eq!(permit.permits(), 1);
    drop((held, permit));
    assert_eq!(semaphore.available(), 4);
}

#[test]
fn permits_never_exceed_their_number_under_load() {
    let rt = rt();
    let semaphore = Semaphore::new(7);
    let in_use = Rc::new(RefCell::new((0usize, 0usize)));
    let tasks: Vec<_> = (0..100usize)
        .map(|number| {
            let (semaphore, in_use, inner) = (semaphore.clone(), in_use.clone(), rt.clone());
            rt.spawn("user", async move {
                for round in 0..10 {
                    let wanted = (number + round) % 7 + 1;
                    let permit = semaphore.acquire(wanted).await;
                    let used = {
                        let mut in_use = in_use.borrow_mut();
                        in_use.0 += permit.permits();
                        in_use.1 = in_use.1.max(in_use.0);
                        in_use.0
                    };
                    assert!(used <= 7);
                    inner.yield_now().await;
                    in_use.borrow_mut().0 -= wanted;
                }
            })
        })
        .collect();
    rt.block_on(async {
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    assert_eq!(semaphore.available(), 7);
    assert!(in_use.borrow().1 > 0);
}
